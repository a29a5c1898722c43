//! What can go wrong between us and a daemon.
//!
//! [`Malformed`] is the fault of the bytes, [`RemoteError`] what the daemon itself reports, and
//! [`DaemonError`] what a caller of the client sees.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::store_path::{StorePath, StorePathError};

/// Why an operation on a daemon has no result.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Nobody answers at the socket.
    #[error(
        "cannot connect to the Nix daemon at {}: {source}; start it (`systemctl start nix-daemon`, or run \
         `nix-daemon`), or name its socket in NIX_DAEMON_SOCKET_PATH", socket.display()
    )]
    Connect {
        /// Where we tried.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The socket answers, the daemon behind it does not.
    #[error("the Nix daemon at {} did not finish its greeting within {} s", socket.display(), limit.as_secs())]
    GreetingTimedOut {
        /// Where we tried.
        socket: PathBuf,
        /// How long we waited.
        limit: Duration,
    },
    /// The daemon closed the connection before it greeted.
    #[error(
        "the Nix daemon at {} closed the connection at once: it may not allow this user (setting `allowed-users` in \
         nix.conf); its log says why", socket.display()
    )]
    HungUp {
        /// Where we tried.
        socket: PathBuf,
    },
    /// The daemon's protocol lacks what we need.
    #[error(
        "the Nix daemon speaks protocol {major}.{minor}, and the oldest understood is 1.35, of Nix 2.18: upgrade Nix \
         on this machine and restart nix-daemon"
    )]
    TooOld {
        /// Of its protocol version.
        major: u8,
        /// Of its protocol version.
        minor: u8,
    },
    /// The daemon's protocol is of another family.
    #[error("the Nix daemon speaks protocol {major}.{minor}, which is unknown here: upgrade this program")]
    TooNew {
        /// Of its protocol version.
        major: u8,
        /// Of its protocol version.
        minor: u8,
    },
    /// The daemon refused or failed, and said so.
    #[error(transparent)]
    Remote(#[from] Box<RemoteError>),
    /// The daemon's bytes make no sense, or exceed a bound. The connection is closed.
    #[error("the Nix daemon's answer is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// The connection broke. It is closed.
    #[error("lost the connection to the Nix daemon: {0}")]
    Io(#[from] io::Error),
    /// The bytes to be imported could not be read. The connection is closed.
    #[error("cannot read what is to be imported: {0}")]
    Source(io::Error),
    /// The bytes exported could not be written. The connection is closed.
    #[error("cannot write what is exported: {0}")]
    Sink(io::Error),
    /// A path that the operation needs is not in the store.
    #[error("{0} is not a valid path of the store")]
    NotValid(StorePath),
    /// What is asked for cannot be said in this protocol.
    #[error("cannot ask the Nix daemon: {0}")]
    Request(&'static str),
    /// The observer asked to stop. The connection is closed, which ends the build.
    #[error("stopped on request")]
    Aborted,
    /// An earlier operation was cut short, so this connection is closed: open another.
    #[error("this connection to the Nix daemon was given up after an earlier failure")]
    Poisoned,
}

impl DaemonError {
    /// The daemon's own message, if it is the daemon that failed.
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Remote(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ReadError> for DaemonError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Malformed(error) => Self::Malformed(error),
        }
    }
}

/// An error as the daemon reports it, without terminal escapes.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct RemoteError {
    /// Nix's verbosity level, 0 for errors.
    pub level: u64,
    /// May have several lines.
    pub message: String,
    /// Outer causes, in the daemon's order.
    pub traces: Vec<String>,
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.traces.iter().try_for_each(|trace| write!(f, "\n… {trace}"))
    }
}

/// Why bytes could not be read as a value.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream failed or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are there and wrong.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// How bytes of the protocol can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first word.
    #[error("{0:#x} is not the greeting of a Nix daemon")]
    Magic(u64),
    /// A length beyond what the place allows.
    #[error("{what} of {length} exceeds the limit of {limit}")]
    TooLong {
        /// Which place.
        what: &'static str,
        /// What the bytes claim.
        length: u64,
        /// What is allowed.
        limit: u64,
    },
    /// Padding exists to align, and is zero.
    #[error("padding is not zero")]
    Padding,
    /// Text is UTF-8.
    #[error("{0} is not UTF-8")]
    NotText(&'static str),
    /// A word outside the values of its place.
    #[error("{value:#x} is not {what}")]
    Unknown {
        /// What was expected.
        what: &'static str,
        /// The word.
        value: u64,
    },
    /// A message that exists but has no place here.
    #[error("{0} was not expected here")]
    Unexpected(&'static str),
    /// A store path that is none.
    #[error("{text:?} is not a store path: {source}")]
    StorePath {
        /// As received.
        text: String,
        /// What is wrong.
        source: StorePathError,
    },
    /// A value whose own parser refuses it.
    #[error("{text:?} is not {what}: {cause}")]
    Value {
        /// What was expected.
        what: &'static str,
        /// As received.
        text: String,
        /// What is wrong.
        cause: String,
    },
    /// An archive that breaks the rules of its format.
    #[error("not a Nix archive: {0}")]
    Archive(String),
}
