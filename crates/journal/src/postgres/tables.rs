//! The tables of a PostgreSQL journal and every statement on them, and what the server's errors mean. Owns no
//! connection and decides nothing about reconnecting.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Error, Row, RowStream};

use super::session::Session;
use crate::chain::{FORMAT, Head, SCHEMA, link};
use crate::entry::{Entry, Kind, Loaded};
use crate::error::JournalError;
use crate::report::Report;

const CREATE: &str = "
    CREATE TABLE fleet_journal_head (
        id int PRIMARY KEY CHECK (id = 1),
        schema int NOT NULL, format int NOT NULL,
        epoch bigint NOT NULL, opened_ms bigint NOT NULL,
        base_seq bigint NOT NULL, last_seq bigint NOT NULL, last_sum bytea NOT NULL, seal bytea NOT NULL
    );
    CREATE TABLE fleet_journal_entries (
        seq bigint PRIMARY KEY, kind int NOT NULL, key bytea NOT NULL, body bytea NOT NULL, sum bytea NOT NULL
    );";
const INSERT_HEAD: &str = "INSERT INTO fleet_journal_head VALUES (1, $1, $2, 0, 0, 0, 0, '', '')";
const VERSIONS: &str = "SELECT schema, format FROM fleet_journal_head FOR UPDATE";
const HEAD: &str =
    "SELECT schema, format, epoch, opened_ms, base_seq, last_seq, last_sum, seal FROM fleet_journal_head";
const RAISE_EPOCH: &str = "UPDATE fleet_journal_head SET epoch = $1, opened_ms = $2, base_seq = $3, last_seq = $4, \
                           last_sum = $5, seal = $6";
/// One statement, so one transaction in one round trip: nothing of it happens unless the head is the one we know.
const WRITE: &str = "
    WITH head AS (
        UPDATE fleet_journal_head
        SET format = $1, base_seq = $2, last_seq = $3, last_sum = $4, seal = $5
        WHERE epoch = $6 AND last_seq = $7
        RETURNING 1
    ), gone AS (
        DELETE FROM fleet_journal_entries WHERE $8 AND EXISTS (SELECT FROM head)
    ), added AS (
        INSERT INTO fleet_journal_entries (seq, kind, key, body, sum)
        SELECT * FROM unnest($9::bigint[], $10::int[], $11::bytea[], $12::bytea[], $13::bytea[])
        WHERE EXISTS (SELECT FROM head)
    )
    SELECT count(*) FROM head";
const SELECT: &str = "SELECT seq, kind, key, body, sum FROM fleet_journal_entries ORDER BY seq";

/// Why a statement failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It had no effect, or the journal cannot go on.
    Known(JournalError),
    /// The connection is lost, and with it what became of the statement.
    Lost(JournalError),
}

impl Failure {
    pub(super) fn of(verb: &'static str) -> impl FnOnce(Error) -> Self {
        move |error| {
            if is_lost(&error) { Self::Lost(failed(verb)(error)) } else { Self::Known(failed(verb)(error)) }
        }
    }

    pub(super) fn silent() -> Self {
        let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
        Self::Lost(JournalError::Database { verb: "hear from", source: Box::new(source) })
    }

    pub(super) fn into_error(self) -> JournalError {
        let (Self::Known(error) | Self::Lost(error)) = self;
        error
    }
}

/// What a server's error means to the journal.
pub(super) fn failed(verb: &'static str) -> impl FnOnce(Error) -> JournalError {
    move |source| match source.code() {
        Some(&SqlState::DISK_FULL) => JournalError::Full,
        Some(&(SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED)) => {
            JournalError::Corrupt { place: source.to_string() }
        }
        _ => JournalError::Database { verb, source: Box::new(source) },
    }
}

/// Whether the connection ended, or is about to, instead of the statement alone.
fn is_lost(error: &Error) -> bool {
    let Some(told) = error.as_db_error() else { return true };
    ["FATAL", "PANIC"].contains(&told.severity())
        || ["08", "57"].iter().any(|class| told.code().code().starts_with(class))
}

/// What taking over found, with the epoch raised.
pub(super) struct Found {
    pub(super) head: Head,
    pub(super) report: Report,
}

/// Makes the tables where they are absent and raises the epoch. Whoever calls it holds the lock.
pub(super) async fn take_over(session: &Session, now_ms: u64) -> Result<Found, JournalError> {
    let client = session.client();
    client.batch_execute("BEGIN").await.map_err(failed("open"))?;
    let there = "SELECT to_regclass('fleet_journal_head') IS NOT NULL";
    let there: bool =
        client.query_one(there, &[]).await.map_err(failed("open"))?.try_get(0).map_err(failed("open"))?;
    if !there {
        client.batch_execute(CREATE).await.map_err(failed("make"))?;
        let versions = [SCHEMA.cast_signed(), FORMAT.cast_signed()];
        client.execute(INSERT_HEAD, &[&versions[0], &versions[1]]).await.map_err(failed("make"))?;
    }
    let row = client.query_opt(VERSIONS, &[]).await.map_err(failed("open"))?.ok_or_else(damaged_head)?;
    check_versions(column(&row, 0)?, column(&row, 1)?)?;
    let found = if there { head(session).await.map_err(Failure::into_error)? } else { Head::empty(0, 0) };
    let clock_back_ms = found.opened_ms.checked_sub(now_ms).filter(|&back| back > 0);
    let report = Report { format: found.format, clock_back_ms, ..Report::default() };
    let head = Head { epoch: found.epoch + 1, opened_ms: now_ms, ..found };
    let [epoch, opened_ms, base_seq, last_seq] = numbers([head.epoch, now_ms, head.base_seq, head.last_seq]);
    let (last_sum, seal) = (&head.last_sum[..], &head.seal()[..]);
    client
        .execute(RAISE_EPOCH, &[&epoch, &opened_ms, &base_seq, &last_seq, &last_sum, &seal])
        .await
        .map_err(failed("open"))?;
    client.batch_execute("COMMIT").await.map_err(failed("open"))?;
    Ok(Found { head, report })
}

fn check_versions(schema: i32, format: i32) -> Result<(), JournalError> {
    for (found, known) in [(schema.cast_unsigned(), SCHEMA), (format.cast_unsigned(), FORMAT)] {
        if found > known {
            return Err(JournalError::Newer { found, known });
        }
    }
    // There has never been an older layout in PostgreSQL.
    if schema.cast_unsigned() == SCHEMA { Ok(()) } else { Err(damaged_head()) }
}

/// The head as it is committed.
pub(super) async fn head(session: &Session) -> Result<Head, Failure> {
    let row = session.client().query_opt(HEAD, &[]).await.map_err(Failure::of("read"))?;
    let row = row.ok_or_else(|| Failure::Known(damaged_head()))?;
    sealed_head(&row).map_err(Failure::Known)
}

fn sealed_head(row: &Row) -> Result<Head, JournalError> {
    let number = |index| column::<i64>(row, index).map(i64::cast_unsigned);
    let head = Head {
        schema: column::<i32>(row, 0)?.cast_unsigned(),
        format: column::<i32>(row, 1)?.cast_unsigned(),
        epoch: number(2)?,
        opened_ms: number(3)?,
        base_seq: number(4)?,
        last_seq: number(5)?,
        last_sum: column::<&[u8]>(row, 6)?.try_into().map_err(|_| damaged_head())?,
    };
    if column::<&[u8]>(row, 7)? == head.seal() { Ok(head) } else { Err(damaged_head()) }
}

/// A column of the head, if it is what it should be.
fn column<'a, T: FromSql<'a>>(row: &'a Row, index: usize) -> Result<T, JournalError> {
    row.try_get(index).map_err(|_| damaged_head())
}

fn damaged_head() -> JournalError {
    JournalError::Corrupt { place: "table fleet_journal_head".to_owned() }
}

/// A change to be committed: the head after it, and the rows it adds, column by column.
pub(super) struct Change<'a> {
    pub(super) head: Head,
    alone: bool,
    seqs: Vec<i64>,
    kinds: Vec<i32>,
    keys: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
    sums: Vec<Vec<u8>>,
}

impl<'a> Change<'a> {
    /// Adds `entries` to the history that ends with `old`; as the only ones where `alone`.
    pub(super) fn of(old: &Head, entries: &'a [Entry], alone: bool) -> Self {
        let mut head = if alone { old.replaced() } else { old.clone() };
        let (mut seqs, mut sums) = (Vec::new(), Vec::new());
        for Entry { kind, key, body } in entries {
            head.last_seq += 1;
            head.last_sum = link(&head.last_sum, head.last_seq, *kind, key, body);
            seqs.push(head.last_seq.cast_signed());
            sums.push(head.last_sum.to_vec());
        }
        Self {
            head,
            alone,
            seqs,
            kinds: entries.iter().map(|entry| i32::from(entry.kind.0)).collect(),
            keys: entries.iter().map(|entry| entry.key.as_bytes()).collect(),
            bodies: entries.iter().map(|entry| &entry.body[..]).collect(),
            sums,
        }
    }
}

/// Commits `change` where the head is still `old`; false where it is not.
pub(super) async fn write(session: &Session, old: &Head, change: &Change<'_>) -> Result<bool, Failure> {
    let Change { head, alone, seqs, kinds, keys, bodies, sums } = change;
    let [base_seq, last_seq, epoch, old_seq] =
        numbers([head.base_seq, head.last_seq, old.epoch, old.last_seq]);
    let (format, last_sum, seal) = (head.format.cast_signed(), &head.last_sum[..], &head.seal()[..]);
    let write = session.prepared_write(WRITE).await.map_err(Failure::of("write to"))?;
    let client = session.client();
    let columns: [&(dyn ToSql + Sync); 13] = [
        &format, &base_seq, &last_seq, &last_sum, &seal, &epoch, &old_seq, alone, seqs, kinds, keys, bodies,
        sums,
    ];
    let row = client.query_one(&write, &columns).await.map_err(Failure::of("write to"))?;
    Ok(row.try_get::<_, i64>(0).map_err(Failure::of("write to"))? == 1)
}

/// Every entry, in order.
pub(super) async fn select(session: &Session) -> Result<RowStream, JournalError> {
    let no_parameters: [&(dyn ToSql + Sync); 0] = [];
    session.client().query_raw(SELECT, no_parameters).await.map_err(failed("read"))
}

/// One row of [`select`], with the checksum kept in it; none where it is not what was written.
pub(super) fn loaded(row: &Row) -> Option<(Loaded, &[u8])> {
    let seq = row.try_get::<_, i64>(0).ok()?.cast_unsigned();
    let kind = Kind(u16::try_from(row.try_get::<_, i32>(1).ok()?).ok()?);
    let key = String::from_utf8(row.try_get(2).ok()?).ok()?;
    let body = row.try_get::<_, Vec<u8>>(3).ok()?.into();
    Some((Loaded { seq, entry: Entry { kind, key, body } }, row.try_get(4).ok()?))
}

fn numbers<const COUNT: usize>(numbers: [u64; COUNT]) -> [i64; COUNT] {
    numbers.map(u64::cast_signed)
}
