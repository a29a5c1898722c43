//! Makes a database beside the journal's place and puts it there whole: at no moment is half a journal there.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::chain::Head;
use crate::entry::Entry;
use crate::error::JournalError;
use crate::sqlite::files::Files;
use crate::sqlite::schema;
use crate::sqlite::tables::{failed, insert_entries, write_head};

/// Entries written at a time.
const BATCH: usize = 256;

/// Makes `files.unfinished` with `entries` after `head`, on the disk.
pub(super) fn make(
    files: &Files,
    mut head: Head,
    entries: &mut dyn Iterator<Item = Entry>,
) -> Result<(), JournalError> {
    files.clear_unfinished()?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&files.unfinished, flags).map_err(failed("make"))?;
    let pragmas = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL;";
    connection.execute_batch(pragmas).map_err(failed("make"))?;
    let change = connection.transaction().map_err(failed("make"))?;
    schema::create(&change, &head)?;
    loop {
        let batch: Vec<_> = entries.take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        insert_entries(&change, &mut head, &batch)?;
    }
    write_head(&change, &head)?;
    change.commit().map_err(failed("make"))?;
    connection.execute_batch("PRAGMA journal_mode = WAL").map_err(failed("make"))?;
    connection.close().map_err(|(_, error)| failed("make")(error))
}

/// Moves a finished file to its place, durably.
pub(super) fn put(from: &Path, to: &Path, files: &Files) -> Result<(), JournalError> {
    fs::rename(from, to).map_err(JournalError::io("rename", from))?;
    files.sync_directory()
}
