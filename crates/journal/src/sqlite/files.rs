//! The files of an SQLite journal: their names, and making a new one appear whole. Owns no content.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::JournalError;

/// Where the files of one journal are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The database.
    pub(super) database: PathBuf,
    /// SQLite's write-ahead log.
    pub(super) wal: PathBuf,
    /// Says who holds the journal.
    pub(super) lock: PathBuf,
    /// A database that is being made.
    pub(super) unfinished: PathBuf,
    /// A repaired database on its way to its place: while it is there, the journal is neither old nor new.
    pub(super) repaired: PathBuf,
}

impl Files {
    pub(super) fn of(database: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = OsString::from(database);
            name.push(suffix);
            PathBuf::from(name)
        };
        Self {
            database: database.to_owned(),
            wal: beside("-wal"),
            lock: beside(".lock"),
            unfinished: beside(".unfinished"),
            repaired: beside(".repaired"),
        }
    }

    /// Makes the directory, so that the lock can be taken.
    pub(super) fn make_directory(&self) -> Result<(), JournalError> {
        let directory = self.directory();
        fs::create_dir_all(directory).map_err(JournalError::io("create", directory))
    }

    /// Removes what an interrupted making left.
    pub(super) fn clear_unfinished(&self) -> Result<(), JournalError> {
        let of = Self::of(&self.unfinished);
        remove(&of.database)?;
        remove(&of.wal)
    }

    /// Makes renames, links and removals durable.
    pub(super) fn sync_directory(&self) -> Result<(), JournalError> {
        let directory = self.directory();
        File::open(directory)
            .and_then(|opened| opened.sync_all())
            .map_err(JournalError::io("sync", directory))
    }

    fn directory(&self) -> &Path {
        let parent = self.database.parent().unwrap_or(Path::new("."));
        if parent.as_os_str().is_empty() { Path::new(".") } else { parent }
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), JournalError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(JournalError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether a file is there; one of no bytes counts.
pub(super) fn exists(path: &Path) -> Result<bool, JournalError> {
    path.try_exists().map_err(JournalError::io("examine", path))
}
