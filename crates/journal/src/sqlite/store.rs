//! An SQLite journal that was opened for writing: opening, appending, replacing, loading. Owns the connection, the
//! lock and the head as it is on the disk.

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::chain::{Follower, Head, SCHEMA};
use crate::entry::{Entry, Loaded};
use crate::error::JournalError;
use crate::report::{Report, Restored};
use crate::sqlite::files::{Files, exists};
use crate::sqlite::inspect::{Inspected, broken, inspect};
use crate::sqlite::lock::{Lock, Witness};
use crate::sqlite::tables::{Rows, SELECT, failed, insert_entries, read_head, unreadable, write_head};
use crate::sqlite::wal::{Wal, cut, examine};
use crate::sqlite::{new, schema};

/// Length of the write-ahead log above which it goes into the database, bytes.
const LONG_WAL: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    files: Files,
    // Let go after the connection is closed.
    lock: Lock,
    head: Head,
    report: Report,
}

impl Store {
    /// Opens the journal, made when it is absent, and raises its epoch.
    pub(super) fn open(files: Files, lock: Lock, now_ms: u64) -> Result<Self, JournalError> {
        if !exists(&files.database)? && !exists(&files.repaired)? {
            // SQLite would take the log of a database that is gone for that of the new one.
            if exists(&files.wal)? {
                let place = format!("{} is missing, its write-ahead log is not", files.database.display());
                return Err(JournalError::Corrupt { place });
            }
            new::make(&files, Head::empty(0, 0), &mut std::iter::empty())?;
            new::put(&files.unfinished, &files.database, &files)?;
        }
        let Inspected { mut connection, schema, torn } = inspect(&files)?;
        let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;";
        connection.execute_batch(pragmas).map_err(failed("open"))?;
        let migrated_from = (schema < SCHEMA).then_some(schema);
        if migrated_from.is_some() {
            schema::migrate(&mut connection, schema)?;
        }
        let head = read_head(&connection)?;
        let report = Report { torn, migrated_from, ..compared(&head, lock.witness, now_ms) };
        let mut store = Self { connection, files, lock, head, report };
        store.raise_epoch(now_ms)?;
        Ok(store)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.head.epoch
    }

    pub(super) fn append(&mut self, batch: &[Entry]) -> Result<u64, JournalError> {
        if !batch.is_empty() {
            self.write(self.head.clone(), batch, false)?;
        }
        Ok(self.head.last_seq)
    }

    pub(super) fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        self.write(self.head.replaced(), entries, true)?;
        self.report.format = self.head.format;
        Ok(())
    }

    /// Gives every entry to `each`, checked once more.
    pub(super) fn load(
        &mut self,
        each: &mut dyn FnMut(Loaded) -> Result<(), JournalError>,
    ) -> Result<Report, JournalError> {
        let mut select = self.connection.prepare(SELECT).map_err(unreadable)?;
        let mut rows = Rows::of(&mut select)?;
        let mut follower = Follower::after(self.head.base_seq);
        while let Some((loaded, sum)) = rows.next()? {
            follower.follow(&loaded, &sum).map_err(broken)?;
            each(loaded)?;
        }
        follower.finish(&self.head).map_err(broken)?;
        let (base_seq, last_seq) = (self.head.base_seq, self.head.last_seq);
        Ok(Report { entries: last_seq - base_seq, last_seq, ..self.report.clone() })
    }

    /// Puts everything into the database file. Without it nothing is lost, and nothing more is written.
    pub(super) fn close(self) {
        let Self { connection, lock, .. } = self;
        if connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false).is_ok() {
            drop(connection);
        }
        drop(lock);
    }

    fn raise_epoch(&mut self, now_ms: u64) -> Result<(), JournalError> {
        self.head.epoch = self.head.epoch.max(self.lock.witness.epoch) + 1;
        self.head.opened_ms = now_ms;
        write_head(&self.connection, &self.head)?;
        // Empties the log, and what was torn with it.
        self.checkpoint()?;
        self.lock.remember(Witness { epoch: self.head.epoch, opened_ms: now_ms })
    }

    /// Adds `entries` after `head`, as the only ones where `alone`, in one transaction.
    fn write(&mut self, mut head: Head, entries: &[Entry], alone: bool) -> Result<(), JournalError> {
        match transact(&mut self.connection, &mut head, entries, alone) {
            Ok(()) => self.head = head,
            Err(JournalError::Full) => {
                // What was written of the batch must never look like damage behind a later, shorter one.
                if let Wal::Torn(torn) = examine(&self.files.wal)? {
                    cut(&self.files.wal, torn)?;
                }
                return Err(JournalError::Full);
            }
            Err(other) => return Err(other),
        }
        let length =
            std::fs::metadata(&self.files.wal).map_err(JournalError::io("examine", &self.files.wal))?.len();
        if length > LONG_WAL {
            match self.checkpoint() {
                // The log holds it as well; there is another try with the next batch.
                Ok(()) | Err(JournalError::Full) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Moves the log into the database and empties it. Done by hand, because SQLite's own does not tell of errors.
    fn checkpoint(&self) -> Result<(), JournalError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(failed("checkpoint"))
    }
}

fn transact(
    connection: &mut Connection,
    head: &mut Head,
    entries: &[Entry],
    alone: bool,
) -> Result<(), JournalError> {
    let change = connection.transaction().map_err(failed("write to"))?;
    if alone {
        change.execute_batch("DELETE FROM entries").map_err(failed("write to"))?;
    }
    insert_entries(&change, head, entries)?;
    write_head(&change, head)?;
    change.commit().map_err(failed("write to"))
}

/// What the files say against what was remembered beside them, and against the clock.
fn compared(head: &Head, witness: Witness, now_ms: u64) -> Report {
    let restored = (head.epoch < witness.epoch)
        .then_some(Restored { found_epoch: head.epoch, known_epoch: witness.epoch });
    let newest_ms = head.opened_ms.max(witness.opened_ms);
    let clock_back_ms = newest_ms.checked_sub(now_ms).filter(|&back| back > 0);
    Report { format: head.format, restored, clock_back_ms, ..Report::default() }
}
