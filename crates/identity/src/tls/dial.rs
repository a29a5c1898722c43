//! Reaching the coordinator's port: name, TCP, handshake, each within a bound of time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Why nobody was reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Not a name or address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    BadName(String),
    /// Nobody answers there.
    #[error("{host}:{port} cannot be reached")]
    Unreachable {
        /// As given.
        host: String,
        /// As given.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The handshake; [`super::explain`] says more.
    #[error("no secure connection to {host}:{port}")]
    Handshake {
        /// As given.
        host: String,
        /// As given.
        port: u16,
        /// Why.
        source: io::Error,
    },
}

/// Connects to `host`, a DNS name or address without brackets, and shakes hands, each within `limit`.
///
/// That the other end refuses our certificate is seen only when something is read.
pub async fn dial(
    config: Arc<ClientConfig>,
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, DialError> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| DialError::BadName(host.to_owned()))?;
    let connected = timeout(limit, TcpStream::connect((host, port))).await.unwrap_or_else(|_| Err(late()));
    let unreachable = |source| DialError::Unreachable { host: host.to_owned(), port, source };
    let stream =
        connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)).map_err(unreachable)?;
    let shaken = timeout(limit, TlsConnector::from(config).connect(name, stream)).await;
    let handshake = |source| DialError::Handshake { host: host.to_owned(), port, source };
    shaken.unwrap_or_else(|_| Err(late())).map_err(handshake)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}
