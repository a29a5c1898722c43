//! Every statement on the tables of an SQLite journal, and what SQLite's errors mean. Owns no connection and decides
//! nothing about opening.

use rusqlite::{Connection, ErrorCode, Statement, params};

use crate::chain::{Head, Sum, link};
use crate::entry::{Entry, Kind, Loaded};
use crate::error::JournalError;

const READ_HEAD: &str =
    "SELECT schema, format, epoch, opened_ms, base_seq, last_seq, last_sum, seal FROM head";
const WRITE_HEAD: &str = "UPDATE head SET schema = ?1, format = ?2, epoch = ?3, opened_ms = ?4, base_seq = ?5, \
                          last_seq = ?6, last_sum = ?7, seal = ?8";
const INSERT: &str = "INSERT INTO entries (seq, kind, key, body, sum) VALUES (?1, ?2, ?3, ?4, ?5)";
pub(super) const SELECT: &str = "SELECT seq, kind, key, body, sum FROM entries ORDER BY seq";

/// The head, if it is what was written.
pub(super) fn read_head(connection: &Connection) -> Result<Head, JournalError> {
    let (head, seal): (Head, Vec<u8>) = connection
        .query_row(READ_HEAD, [], |row| {
            let number = |index| row.get(index).map(i64::cast_unsigned);
            let head = Head {
                schema: row.get(0)?,
                format: row.get(1)?,
                epoch: number(2)?,
                opened_ms: number(3)?,
                base_seq: number(4)?,
                last_seq: number(5)?,
                last_sum: row.get(6)?,
            };
            Ok((head, row.get(7)?))
        })
        .map_err(unreadable)?;
    if seal == head.seal() {
        Ok(head)
    } else {
        Err(JournalError::Corrupt { place: "the head's row".to_owned() })
    }
}

pub(super) fn write_head(connection: &Connection, head: &Head) -> Result<(), JournalError> {
    let number = u64::cast_signed;
    connection
        .prepare_cached(WRITE_HEAD)
        .and_then(|mut write| {
            write.execute(params![
                head.schema,
                head.format,
                number(head.epoch),
                number(head.opened_ms),
                number(head.base_seq),
                number(head.last_seq),
                head.last_sum,
                head.seal(),
            ])
        })
        .map(|_| ())
        .map_err(failed("write to"))
}

/// Inserts `entries` after the head's last one, and moves the head, which is not written.
pub(super) fn insert_entries(
    connection: &Connection,
    head: &mut Head,
    entries: &[Entry],
) -> Result<(), JournalError> {
    let mut insert = connection.prepare_cached(INSERT).map_err(failed("write to"))?;
    for Entry { kind, key, body } in entries {
        let seq = head.last_seq + 1;
        let sum: Sum = link(&head.last_sum, seq, *kind, key, body);
        insert
            .execute(params![seq.cast_signed(), kind.0, key, &body[..], sum])
            .map_err(failed("write to"))?;
        (head.last_seq, head.last_sum) = (seq, sum);
    }
    Ok(())
}

/// Entries in order, with the checksums kept beside them.
pub(super) struct Rows<'a>(rusqlite::Rows<'a>);

impl<'a> Rows<'a> {
    /// The rows of a statement with the columns of [`SELECT`].
    pub(super) fn of(select: &'a mut Statement<'_>) -> Result<Self, JournalError> {
        select.query([]).map(Self).map_err(unreadable)
    }

    pub(super) fn next(&mut self) -> Result<Option<(Loaded, Vec<u8>)>, JournalError> {
        let row = self.0.next().map_err(unreadable)?;
        row.map(|row| {
            let entry =
                Entry { kind: Kind(row.get(1)?), key: row.get(2)?, body: row.get::<_, Vec<u8>>(3)?.into() };
            Ok((Loaded { seq: row.get::<_, i64>(0)?.cast_unsigned(), entry }, row.get(4)?))
        })
        .transpose()
        .map_err(unreadable)
    }
}

/// What an error says when the journal was to be changed.
pub(super) fn failed(verb: &'static str) -> impl FnOnce(rusqlite::Error) -> JournalError {
    move |source| match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => JournalError::Full,
        Some(ErrorCode::DatabaseBusy) => JournalError::Locked { by: "another process".to_owned() },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            JournalError::Corrupt { place: source.to_string() }
        }
        _ => JournalError::Database { verb, source: Box::new(source) },
    }
}

/// What an error says when something that was kept was to be read: unless the machine failed, it is damaged.
pub(super) fn unreadable(source: rusqlite::Error) -> JournalError {
    match source.sqlite_error_code() {
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::OutOfMemory
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::DatabaseBusy
            | ErrorCode::DiskFull,
        ) => failed("read")(source),
        _ => JournalError::Corrupt { place: source.to_string() },
    }
}
