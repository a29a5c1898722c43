//! Opens the files of an SQLite journal and checks everything in them, without changing a byte. What it refuses
//! stays as it was found.

use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::chain::{Broken, Follower, Head, SCHEMA};
use crate::error::JournalError;
use crate::report::Torn;
use crate::sqlite::files::{Files, exists};
use crate::sqlite::schema::check_versions;
use crate::sqlite::tables::{Rows, SELECT, read_head, unreadable};
use crate::sqlite::wal::{Wal, examine};

/// A journal without damage. Closing the connection writes nothing.
#[derive(Debug)]
pub(super) struct Inspected {
    pub(super) connection: Connection,
    pub(super) schema: u32,
    /// What an unfinished batch left in the log. SQLite does not see it.
    pub(super) torn: Option<Torn>,
}

/// Checks the files, which must be there.
pub(super) fn inspect(files: &Files) -> Result<Inspected, JournalError> {
    if exists(&files.repaired)? {
        let place = format!("{} was left by a repair that did not finish", files.repaired.display());
        return Err(JournalError::Corrupt { place });
    }
    let torn = match examine(&files.wal)? {
        Wal::Whole => None,
        Wal::Torn(torn) => Some(torn),
        Wal::Damaged { at } => {
            return Err(JournalError::Corrupt { place: format!("{} at byte {at}", files.wal.display()) });
        }
    };
    let named = |error| match error {
        JournalError::Corrupt { place } => {
            JournalError::Corrupt { place: format!("{}: {place}", files.database.display()) }
        }
        other => other,
    };
    let connection = connect(files)?;
    let schema = check_all(&connection).map_err(named)?;
    Ok(Inspected { connection, schema, torn })
}

/// A connection that holds the database for itself and writes only what it is told to.
pub(super) fn connect(files: &Files) -> Result<Connection, JournalError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&files.database, flags).map_err(unreadable)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(unreadable)?;
    connection.busy_timeout(Duration::ZERO).map_err(unreadable)?;
    // A batch that does not fit the cache must not be written before it is whole: see `wal`.
    connection
        .execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_spill = OFF; PRAGMA cell_size_check = ON;
             PRAGMA trusted_schema = OFF;",
        )
        .map_err(unreadable)?;
    Ok(connection)
}

fn check_all(connection: &Connection) -> Result<u32, JournalError> {
    let schema = check_versions(connection)?;
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(unreadable)?;
    if verdict != "ok" {
        return Err(JournalError::Corrupt { place: verdict });
    }
    // A database of an unknown write version is opened all the same, and then takes nothing.
    if connection.is_readonly("main").map_err(unreadable)? {
        return Err(JournalError::Corrupt { place: "the file's header".to_owned() });
    }
    // Older layouts have no checksums of ours.
    if schema == SCHEMA {
        check_chain(connection, &read_head(connection)?)?;
    }
    Ok(schema)
}

fn check_chain(connection: &Connection, head: &Head) -> Result<(), JournalError> {
    let mut select = connection.prepare(SELECT).map_err(unreadable)?;
    let mut rows = Rows::of(&mut select)?;
    let mut follower = Follower::after(head.base_seq);
    while let Some((loaded, sum)) = rows.next()? {
        follower.follow(&loaded, &sum).map_err(broken)?;
    }
    follower.finish(head).map_err(broken)
}

pub(super) fn broken(Broken { seq }: Broken) -> JournalError {
    JournalError::Corrupt { place: format!("entry {seq}") }
}
