//! The file beside the journal that says who holds it. Owns `PATH.lock`: the lock on it, the holder's name, and the
//! highest epoch given out here, which a backup of the journal put back does not take along.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::JournalError;

/// Always written whole and in place: a full disk changes nothing about it.
const LENGTH: usize = 256;

/// The journal is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    /// What was remembered here.
    pub(super) witness: Witness,
}

/// What the lock file remembers beside its holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Witness {
    /// The highest epoch given out.
    pub(super) epoch: u64,
    /// When, by the wall clock: milliseconds since 1970.
    pub(super) opened_ms: u64,
}

impl Lock {
    /// Takes the lock on the file at `path`, or tells who has it.
    pub(super) fn take(path: &Path) -> Result<Self, JournalError> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(JournalError::io("open", path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let by = holder(&read(&file)).unwrap_or("another process").to_owned();
                return Err(JournalError::Locked { by });
            }
            Err(TryLockError::Error(error)) => return Err(JournalError::io("lock", path)(error)),
        }
        let lock = Self { witness: witness(&read(&file)), file, path: path.to_owned() };
        lock.write()?;
        Ok(lock)
    }

    /// Remembers an epoch that was given out.
    pub(super) fn remember(&mut self, witness: Witness) -> Result<(), JournalError> {
        self.witness = witness;
        self.write()
    }

    fn write(&self) -> Result<(), JournalError> {
        let Witness { epoch, opened_ms } = self.witness;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let holder = format!("process {} on {host:.64}", std::process::id());
        let mut text = format!("{holder}\nepoch {epoch}\nopened {opened_ms}\n").into_bytes();
        text.resize(LENGTH, b' ');
        let written = self.file.write_all_at(&text, 0).and_then(|()| self.file.sync_data());
        written.map_err(JournalError::io("write", &self.path))
    }
}

/// What the file says; nothing when it cannot be read.
fn read(file: &File) -> String {
    let mut bytes = [0; LENGTH];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

fn holder(text: &str) -> Option<&str> {
    text.lines().next().filter(|line| line.starts_with("process "))
}

fn witness(text: &str) -> Witness {
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    Witness { epoch: number("epoch ").unwrap_or(0), opened_ms: number("opened ").unwrap_or(0) }
}
