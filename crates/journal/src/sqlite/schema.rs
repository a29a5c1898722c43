//! The tables of an SQLite journal in every version: making them, and migrating older ones. Owns no connection.
//!
//! Whatever a later version changes, `SELECT schema, format FROM head` must go on telling what it is.

use rusqlite::{Connection, Transaction};

use crate::chain::{FORMAT, Head, SCHEMA};
use crate::error::JournalError;
use crate::sqlite::tables::{Rows, failed, insert_entries, unreadable, write_head};

const TABLES: &str = "
    CREATE TABLE head (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        schema INTEGER NOT NULL, format INTEGER NOT NULL,
        epoch INTEGER NOT NULL, opened_ms INTEGER NOT NULL,
        base_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, last_sum BLOB NOT NULL,
        seal BLOB NOT NULL
    ) STRICT;
    CREATE TABLE entries (
        seq INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, sum BLOB NOT NULL
    ) STRICT;";

/// Makes the tables in an empty database.
pub(super) fn create(connection: &Connection, head: &Head) -> Result<(), JournalError> {
    connection.execute_batch(TABLES).map_err(failed("make"))?;
    connection
        .execute("INSERT INTO head VALUES (1, 0, 0, 0, 0, 0, 0, x'', x'')", [])
        .map_err(failed("make"))?;
    write_head(connection, head)
}

/// Refuses what a newer program wrote; tells the layout.
pub(super) fn check_versions(connection: &Connection) -> Result<u32, JournalError> {
    let (schema, format) = connection
        .query_row("SELECT schema, format FROM head", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(unreadable)?;
    for (found, known) in [(schema, SCHEMA), (format, FORMAT)] {
        if found > known {
            return Err(JournalError::Newer { found, known });
        }
    }
    Ok(schema)
}

/// Brings tables of layout `schema` to the newest, all or nothing.
pub(super) fn migrate(connection: &mut Connection, schema: u32) -> Result<(), JournalError> {
    let change = connection.transaction().map_err(failed("migrate"))?;
    if schema == 1 {
        add_checksums(&change)?;
    }
    change.commit().map_err(failed("migrate"))
}

/// Layout 1 had no checksums and started at number 1.
fn add_checksums(change: &Transaction<'_>) -> Result<(), JournalError> {
    let (format, epoch, opened_ms, last_seq) = change
        .query_row("SELECT format, epoch, opened_ms, last_seq FROM head", [], |row| {
            let number = |index| row.get(index).map(i64::cast_unsigned);
            Ok((row.get::<_, u32>(0)?, number(1)?, number(2)?, number(3)?))
        })
        .map_err(failed("migrate"))?;
    let rename = "ALTER TABLE entries RENAME TO entries_1; DROP TABLE head;";
    change.execute_batch(rename).map_err(failed("migrate"))?;
    let count = "SELECT count(*) FROM entries_1";
    let count: i64 = change.query_row(count, [], |row| row.get(0)).map_err(failed("migrate"))?;
    let base_seq = last_seq.saturating_sub(count.cast_unsigned());
    let mut head = Head { format, epoch, opened_ms, ..Head::empty(base_seq, epoch) };
    create(change, &head)?;
    let mut select = change
        .prepare("SELECT seq, kind, key, body, x'' FROM entries_1 ORDER BY seq")
        .map_err(failed("migrate"))?;
    let mut rows = Rows::of(&mut select)?;
    while let Some((loaded, _)) = rows.next()? {
        if loaded.seq != head.last_seq + 1 {
            return Err(JournalError::Corrupt { place: format!("entry {} is missing", head.last_seq + 1) });
        }
        insert_entries(change, &mut head, &[loaded.entry])?;
    }
    drop(rows);
    drop(select);
    write_head(change, &head)?;
    change.execute_batch("DROP TABLE entries_1").map_err(failed("migrate"))
}
