//! What can be wrong with an archive.

use std::io;

use thiserror::Error;

/// Why bytes are not a NAR, or a tree cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NarError {
    /// Does not begin as a NAR does.
    #[error("not a Nix archive")]
    BadMagic,
    /// Another word should stand here.
    #[error("expected {expected}, found '{found}'")]
    UnexpectedWord {
        /// What the grammar allows.
        expected: &'static str,
        /// What stands there, up to 32 bytes of it.
        found: String,
    },
    /// A word longer than any that may stand here.
    #[error("{what} of {length} bytes is longer than {limit}")]
    TooLong {
        /// What the word is.
        what: &'static str,
        /// Its declared length.
        length: u64,
        /// The bound.
        limit: usize,
    },
    /// Directories nest deeper than Nix allows.
    #[error("directories nest deeper than 64")]
    TooDeep,
    /// Empty, `.`, `..`, or with a slash or NUL.
    #[error("invalid entry name '{0}'")]
    BadName(String),
    /// A name that Nix makes on case-insensitive systems, and that would be unmade there.
    #[error("entry name '{0}' holds the case hack suffix")]
    CaseHack(String),
    /// Entries are sorted by their bytes, each name once.
    #[error("entry '{0}' is out of order, or there twice")]
    OutOfOrder(String),
    /// Empty, or with a NUL.
    #[error("invalid symlink target '{0}'")]
    BadTarget(String),
    /// Padding must be zero.
    #[error("padding is not zero")]
    BadPadding,
    /// The bytes end within the archive.
    #[error("archive is truncated")]
    Truncated,
    /// More bytes than the archive.
    #[error("bytes follow the archive")]
    Trailing,
}

/// Why a NAR cannot be read.
#[derive(Debug, Error)]
pub enum NarReadError {
    /// It is not a NAR.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// The source failed, or what takes the contents did.
    #[error("cannot read archive")]
    Io(#[from] io::Error),
}

/// Why a NAR cannot be written.
#[derive(Debug, Error)]
pub enum NarWriteError {
    /// The tree cannot be a NAR.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// The sink failed, or the source of contents did.
    #[error("cannot write archive")]
    Io(#[from] io::Error),
    /// A file had more or fewer bytes than was said.
    #[error("file of {declared} bytes has {found}")]
    WrongSize {
        /// Bytes as said before.
        declared: u64,
        /// Bytes there were (for longer files: at least).
        found: u64,
    },
    /// A call that the state of the writer does not allow, such as an entry outside of a directory.
    #[error("archive cannot take {0} here")]
    OutOfPlace(&'static str),
}
