//! Accepts connections: over TCP with a TLS handshake, and over the Unix socket. Who is at the other end becomes
//! part of the connection; what they may do is the business of `access`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fleet_identity::Identity;
use fleet_identity::tls::ServerTls;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;

use super::admission::Admission;
use super::connection::Connection;

/// After a failed accept: the system lacks something, which asking at once does not mend.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Why nothing can be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Of a TCP address.
    #[error("cannot listen on {address}")]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Of the socket.
    #[error("cannot listen on {}", socket.display())]
    Unix {
        /// Which.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers there.
    #[error("another coordinator listens on {}", .0.display())]
    Taken(PathBuf),
}

/// A Unix socket that is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the socket cannot be removed");
        }
    }
}

pub(super) async fn tcp(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Tcp { address, source })
}

/// Replaces a socket that nobody listens on any more.
pub(super) fn unix(path: &Path) -> Result<Socket, ListenError> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ListenError::Taken(path.to_owned()));
    }
    let failed = |source| ListenError::Unix { socket: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // From its first moment on the socket is this user's alone.
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(umask);
    Ok(Socket { listener: listener.map_err(failed)?, path: path.to_owned() })
}

/// Accepts from the socket for ever.
pub(super) async fn accept_unix(socket: Socket, admission: Admission, accepted: mpsc::Sender<Connection>) {
    loop {
        match socket.listener.accept().await {
            Ok((stream, _)) => {
                let connection = admitted_unix(stream, &admission);
                if let Some(connection) = connection
                    && accepted.send(connection).await.is_err()
                {
                    return;
                }
            }
            Err(error) => again(&error).await,
        }
    }
}

/// The socket's mode keeps others out; this does so even where somebody changed the mode.
fn admitted_unix(stream: UnixStream, admission: &Admission) -> Option<Connection> {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "refused another user at the socket");
            return None;
        }
        Err(error) => {
            tracing::warn!(%error, "cannot tell who is at the socket");
            return None;
        }
    }
    match admission.here() {
        Ok(ticket) => Some(Connection::unix(stream, ticket)),
        Err(full) => {
            tracing::warn!("refused a connection at the socket: {full}");
            None
        }
    }
}

/// Accepts from a TCP port for ever; each handshake is its own task.
pub(super) async fn accept_tls(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    admission: Admission,
    accepted: mpsc::Sender<Connection>,
) {
    while !accepted.is_closed() {
        let (stream, address) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                again(&error).await;
                continue;
            }
        };
        let mut ticket = match admission.from(address.ip()) {
            Ok(ticket) => ticket,
            Err(full) => {
                tracing::debug!(%address, "refused a connection: {full}");
                continue;
            }
        };
        let (tls, admission, accepted) = (tls.clone(), admission.clone(), accepted.clone());
        tokio::spawn(async move {
            let within = admission.handshake_within();
            let shaken = tokio::time::timeout(within, shake_hands(stream, tls.config())).await;
            let (stream, identity) = match shaken {
                Ok(Ok(shaken)) => shaken,
                Ok(Err(error)) => {
                    tracing::info!(%address, "TLS handshake failed: {error}");
                    return;
                }
                Err(_) => {
                    tracing::info!(%address, "TLS handshake not over in time");
                    return;
                }
            };
            ticket.shaken(identity.is_some());
            let connection = Connection::tls(stream, address.ip(), identity, within, ticket);
            // The server may have stopped.
            let _ = accepted.send(connection).await;
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
) -> io::Result<(tokio_rustls::server::TlsStream<TcpStream>, Option<Identity>)> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let identity = match certificate {
        Some(certificate) => Some(Identity::from_certificate(certificate).map_err(io::Error::other)?),
        None => None,
    };
    Ok((stream, identity))
}

async fn again(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
}
