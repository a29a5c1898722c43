//! Why a proxy cannot start. What goes wrong later ends one client's connection, never the proxy.

use std::io;
use std::path::PathBuf;

use crate::daemon::DaemonError;

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The socket cannot be made.
    #[error("cannot listen at {}: {source}", socket.display())]
    Listen {
        /// Where it should be.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Sockets have short paths.
    #[error(
        "cannot listen at {}: the path is too long for a socket; set TMPDIR to a directory with a shorter one",
        socket.display()
    )]
    LongPath {
        /// Where it should be.
        socket: PathBuf,
    },
    /// Others could reach the socket, which hands out our rights on the store.
    #[error(
        "{} may be entered by others: make it this user's own and mode 700, or name another directory for the \
         proxy's socket", directory.display()
    )]
    OpenDirectory {
        /// The socket's directory.
        directory: PathBuf,
    },
    /// The daemon behind it does not answer.
    #[error(transparent)]
    Upstream(#[from] DaemonError),
}
