//! Why a journal cannot be used.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why the journal cannot do it.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another coordinator holds it.
    #[error("the journal is in use by {by}")]
    Locked {
        /// Who, as far as is known.
        by: String,
    },
    /// Something that was kept is no longer what was written.
    #[error(
        "the journal is damaged: {place}; `fleet-coordinator repair` keeps what is sound and says what is lost"
    )]
    Corrupt {
        /// The file or table, and where in it.
        place: String,
    },
    /// A newer program wrote it. Nothing was changed.
    #[error(
        "the journal has version {found}, and this program knows none above {known}: use the newer program"
    )]
    Newer {
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// Another coordinator has taken over since this opening.
    #[error("another coordinator took the journal over: epoch {epoch} is past")]
    Fenced {
        /// The epoch of this opening.
        epoch: u64,
    },
    /// The disk is full; nothing of the batch was kept. A later attempt may succeed.
    #[error("no space left for the journal")]
    Full,
    /// A batch is above the limits; nothing of the batch was kept.
    #[error("too large for the journal: {bytes} bytes in the {what}, at most {limit} are kept")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An earlier error left the journal in doubt: open it again.
    #[error("the journal failed before and takes nothing more until it is opened again")]
    Poisoned,
    /// Not possible here.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// What was read back makes no sense to its reader.
    #[error("entry {seq} cannot be read: {why}")]
    Unreadable {
        /// Which entry.
        seq: u64,
        /// Why.
        why: String,
    },
    /// A file failed.
    #[error("cannot {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("cannot {verb} the journal")]
    Database {
        /// What was tried.
        verb: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl JournalError {
    /// Turns the error of a file into one that names it.
    pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { verb, path: path.to_owned(), source }
    }

    /// Whether the journal may be used on after this error.
    pub(crate) fn leaves_sound(&self) -> bool {
        matches!(self, Self::Full | Self::TooLarge { .. })
    }
}
