//! Durable state behind one small interface: SQLite by default, PostgreSQL for several coordinators, memory where
//! nothing outlives the process.
//!
//! A journal is a sequence of opaque entries. It owns their order, their durability and who may write; it must not
//! know what an entry means.

mod chain;
mod clock;
mod entry;
mod error;
mod memory;
mod postgres;
mod report;
mod sqlite;

use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;

pub use entry::{Entry, Kind, Loaded};
pub use error::JournalError;
pub use memory::{Memory, MemoryStore};
pub use report::{Lost, RepairReport, Report, Restored, Torn};

/// Entries that survive. One writer holds a journal at a time.
///
/// Any error except [`JournalError::Full`] and [`JournalError::TooLarge`] leaves the journal poisoned: what became
/// of the last change is only known after opening it again. Dropping a future of these methods does the same.
#[async_trait]
pub trait Journal: Send + Debug {
    /// Makes all of `batch` durable, or nothing of it, before it returns the sequence number of the last entry.
    async fn append(&mut self, batch: &[Entry]) -> Result<u64, JournalError>;

    /// Gives every entry to `each` in order, and says what opening found. An error of `each` ends the loading.
    async fn load(
        &mut self,
        each: &mut (dyn FnMut(Loaded) -> Result<(), JournalError> + Send),
    ) -> Result<Report, JournalError>;

    /// Makes `entries` the whole history, atomically. Their sequence numbers follow the last one given.
    async fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError>;

    /// The fencing term of this opening: higher than that of every opening before it.
    fn epoch(&self) -> u64;
}

/// Where a journal is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file; `-wal` and `.lock` stand beside it. Not on a network file system.
    Sqlite(PathBuf),
    /// A URL or `key=value` pairs, as PostgreSQL's own programs take them; a Unix socket or a private network, since
    /// the connection is not encrypted. Server 14 or newer, reached directly or through a proxy that keeps sessions.
    Postgres(String),
    /// Gone with the process.
    Memory,
}

/// What to do while another coordinator holds the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standby {
    /// Wait until it lets go, and take over.
    Wait,
    /// Fail with [`JournalError::Locked`].
    Refuse,
}

/// Opens a journal, makes it when it is new, and raises its epoch.
pub async fn open(location: &Location, standby: Standby) -> Result<Box<dyn Journal>, JournalError> {
    match location {
        Location::Sqlite(path) => Ok(Box::new(sqlite::Sqlite::open(path, standby).await?)),
        Location::Postgres(location) => Ok(Box::new(postgres::Postgres::open(location, standby).await?)),
        Location::Memory => Ok(Box::new(MemoryStore::default().open())),
    }
}

/// Repairs a damaged journal: keeps what stands before the damage, moves the damaged files aside, and says what is
/// lost. A sound journal is left as it is, and a repair that was interrupted is finished. Blocks.
pub fn repair(location: &Location) -> Result<RepairReport, JournalError> {
    match location {
        Location::Sqlite(path) => sqlite::repair(path),
        Location::Postgres(_) => Err(JournalError::Unsupported(
            "repairing a PostgreSQL journal: restore the database instead; that",
        )),
        Location::Memory => Err(JournalError::Unsupported("repairing a journal in memory")),
    }
}
