//! The tables of an SQLite journal and every statement on them. Owns the connection.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::entry::{Entry, Kind, Loaded};
use crate::error::JournalError;
use crate::report::Report;

/// The layout of the tables.
const SCHEMA: u32 = 1;
/// How entries are to be read.
const FORMAT: u32 = 1;

const CREATE: &str = "
    CREATE TABLE head (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        schema INTEGER NOT NULL, format INTEGER NOT NULL,
        epoch INTEGER NOT NULL, opened_ms INTEGER NOT NULL,
        last_seq INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL
    ) STRICT;";

#[derive(Debug)]
pub(super) struct Tables {
    connection: Connection,
    epoch: u64,
    last_seq: u64,
}

impl Tables {
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let mut connection = Connection::open(path).map_err(failed("open"))?;
        connection
            .execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
            )
            .map_err(failed("open"))?;
        let change = connection.transaction().map_err(failed("open"))?;
        let found: Option<u32> = change
            .query_row("SELECT 1 FROM sqlite_schema WHERE name = 'head'", [], |row| row.get(0))
            .optional()
            .map_err(failed("open"))?;
        if found.is_none() {
            change.execute_batch(CREATE).map_err(failed("make"))?;
            change
                .execute("INSERT INTO head VALUES (1, ?1, ?2, 0, 0, 0)", params![SCHEMA, FORMAT])
                .map_err(failed("make"))?;
        }
        let schema: u32 =
            change.query_row("SELECT schema FROM head", [], |row| row.get(0)).map_err(failed("open"))?;
        if schema > SCHEMA {
            return Err(JournalError::Newer { found: schema, known: SCHEMA });
        }
        let (epoch, last_seq) = change
            .query_row(
                "UPDATE head SET epoch = epoch + 1, opened_ms = ?1 RETURNING epoch, last_seq",
                [now_ms()],
                |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned())),
            )
            .map_err(failed("open"))?;
        change.commit().map_err(failed("open"))?;
        Ok(Self { connection, epoch, last_seq })
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn append(&mut self, batch: &[Entry]) -> Result<u64, JournalError> {
        self.write(batch, false)
    }

    pub(super) fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        self.write(entries, true).map(|_| ())
    }

    fn write(&mut self, entries: &[Entry], alone: bool) -> Result<u64, JournalError> {
        let change = self.connection.transaction().map_err(failed("write to"))?;
        if alone {
            change.execute("DELETE FROM entries", []).map_err(failed("write to"))?;
        }
        let mut seq = self.last_seq;
        {
            let mut insert = change
                .prepare_cached("INSERT INTO entries VALUES (?1, ?2, ?3, ?4)")
                .map_err(failed("write to"))?;
            for entry in entries {
                seq += 1;
                insert
                    .execute(params![seq.cast_signed(), entry.kind.0, entry.key, &entry.body[..]])
                    .map_err(failed("write to"))?;
            }
        }
        change.execute("UPDATE head SET last_seq = ?1", [seq.cast_signed()]).map_err(failed("write to"))?;
        change.commit().map_err(failed("write to"))?;
        self.last_seq = seq;
        Ok(seq)
    }

    pub(super) fn walk(
        &mut self,
        each: &mut dyn FnMut(Loaded) -> Result<(), JournalError>,
    ) -> Result<Report, JournalError> {
        let mut select = self
            .connection
            .prepare("SELECT seq, kind, key, body FROM entries ORDER BY seq")
            .map_err(failed("read"))?;
        let mut rows = select.query([]).map_err(failed("read"))?;
        let mut entries = 0;
        while let Some(row) = rows.next().map_err(failed("read"))? {
            let loaded = loaded(row).map_err(failed("read"))?;
            entries += 1;
            each(loaded)?;
        }
        Ok(Report { entries, last_seq: self.last_seq })
    }
}

fn loaded(row: &rusqlite::Row<'_>) -> rusqlite::Result<Loaded> {
    Ok(Loaded {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        entry: Entry {
            kind: Kind(row.get(1)?),
            key: row.get(2)?,
            body: row.get_ref(3)?.as_blob()?.to_vec().into(),
        },
    })
}

fn failed(verb: &'static str) -> impl FnOnce(rusqlite::Error) -> JournalError {
    move |source| match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => JournalError::Full,
        _ => JournalError::Database { verb, source: Box::new(source) },
    }
}

/// Milliseconds since 1970 by the wall clock.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
