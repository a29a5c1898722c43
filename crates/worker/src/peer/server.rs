//! The port where other workers fetch. Everybody shows a certificate of the coordinator's CA before anything is read;
//! connections and their streams are bounded. Owns the port, and the certificate it shows: whatever is in the file.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use fleet_identity::tls::{self, TlsError};
use fleet_identity::{Credentials, CredentialsError, Identity, IdentityError, Kind};
use fleet_nix::daemon::DaemonAddress;
use fleet_nix::signature::PublicKey;
use fleet_nix::store_path::StorePath;
use fleet_wire::v1::peer_server::PeerServer;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use super::reading::Files;
use super::service::{Service, Serving};
use super::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW};
use crate::transfer::manifest_cache::ManifestCache;

/// Connections at a time, with those that shake hands.
const MAX_CONNECTIONS: usize = 128;
const SHAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Fetches of one connection.
const MAX_STREAMS: u32 = 16;
const PING_EVERY: Duration = Duration::from_secs(10);
/// After a failed accept: the system lacks something, which asking at once does not mend.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The keys that the coordinator signs with, as it said them last.
#[derive(Clone)]
pub struct Keys(Arc<dyn Fn() -> Vec<PublicKey> + Send + Sync>);

impl Keys {
    /// Asked whenever a signature is looked at.
    pub fn new(current: impl Fn() -> Vec<PublicKey> + Send + Sync + 'static) -> Self {
        Self(Arc::new(current))
    }

    /// Those of now.
    pub fn current(&self) -> Vec<PublicKey> {
        (self.0)()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.current()).finish()
    }
}

/// Who is told of paths that were asked for and are not here.
#[derive(Clone)]
pub struct Gone(Arc<dyn Fn(&StorePath) + Send + Sync>);

impl Gone {
    /// Called once for each fetch that asks for such a path.
    pub fn new(tell: impl Fn(&StorePath) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    pub(super) fn tell(&self, path: &StorePath) {
        (self.0)(path);
    }
}

impl fmt::Debug for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gone")
    }
}

/// What a server serves, and from where.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Where others reach it.
    pub listen: SocketAddr,
    /// The file with this worker's certificate, which may be replaced at any time.
    pub credentials: PathBuf,
    /// Whose tickets count.
    pub keys: Keys,
    /// The daemon whose paths are handed out.
    pub daemon: DaemonAddress,
    /// How long a daemon that restarts is waited for.
    pub daemon_patience: Duration,
    /// Told what is not here any more.
    pub gone: Gone,
    /// Where archives were cut before.
    pub manifests: Option<Arc<ManifestCache>>,
    /// Fetches that run at a time; each takes some 10 MB.
    pub fetches: usize,
    /// A receiver that takes nothing for so long is left.
    pub taken_within: Duration,
}

impl PeerConfig {
    /// With the usual bounds.
    pub fn new(listen: SocketAddr, credentials: PathBuf, keys: Keys, daemon: DaemonAddress) -> Self {
        Self {
            listen,
            credentials,
            keys,
            daemon,
            daemon_patience: Duration::from_secs(30),
            gone: Gone::new(|_| {}),
            manifests: None,
            fetches: 8,
            taken_within: Duration::from_mins(2),
        }
    }
}

/// Why nothing is served.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The port.
    #[error("cannot listen on {address} for other workers")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// It names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It names somebody else than a worker.
    #[error("{0} is no worker, and cannot serve others")]
    NoWorker(String),
    /// It cannot be shown.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A port that is served until this is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Listens and serves.
    pub async fn start(config: PeerConfig) -> Result<Self, ServerError> {
        let own = Own { file: config.credentials, shown: Mutex::default() };
        own.current()?;
        let failed = |source| ServerError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let service = Service {
            files: Files { address: config.daemon, patience: config.daemon_patience },
            keys: config.keys,
            gone: config.gone,
            manifests: config.manifests,
            running: Semaphore::new(config.fetches.max(1)),
            waiting: Service::waiting(),
            taken_within: config.taken_within,
            sealers: Arc::default(),
        };
        let service = PeerServer::new(Serving(Arc::new(service)));
        let service = service.max_decoding_message_size(fleet_wire::MAX_MESSAGE);
        let (accepted, connections) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::new(own), accepted));
        tasks.spawn(async move {
            let served = tonic::transport::Server::builder()
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME)
                .max_concurrent_streams(MAX_STREAMS)
                .http2_keepalive_interval(Some(PING_EVERY))
                .http2_keepalive_timeout(Some(PING_EVERY))
                .add_service(service)
                .serve_with_incoming(ReceiverStream::new(connections).map(Ok::<_, io::Error>))
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "other workers are served no more");
            }
        });
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Who fetches, and from whom, as the two certificates say.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) holder: String,
}

/// What is shown to callers.
#[derive(Clone, Debug)]
struct Shown {
    config: Arc<rustls::ServerConfig>,
    name: String,
}

/// Tells a file from the one that replaced it.
type Version = (SystemTime, u64);

#[derive(Debug)]
struct Own {
    file: PathBuf,
    shown: Mutex<Option<(Version, Shown)>>,
}

impl Own {
    /// What the file holds now. It is read again when it was replaced.
    fn current(&self) -> Result<Shown, ServerError> {
        let metadata = std::fs::metadata(&self.file);
        let version = metadata.and_then(|metadata| Ok((metadata.modified()?, metadata.ino()))).ok();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match &*shown {
            Some((when, shown)) if Some(*when) == version => return Ok(shown.clone()),
            _ => {}
        }
        let credentials = Credentials::read(&self.file)?;
        let identity = credentials.identity()?;
        if !matches!(identity.kind, Kind::Worker { .. }) {
            return Err(ServerError::NoWorker(identity.to_string()));
        }
        let fresh = Shown { config: tls::peer_server_config(&credentials)?, name: identity.name.to_string() };
        *shown = version.map(|when| (when, fresh.clone()));
        Ok(fresh)
    }
}

async fn accept(listener: TcpListener, own: Arc<Own>, accepted: mpsc::Sender<PeerStream>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Ends with the server.
    let mut handshakes = JoinSet::new();
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of another worker");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        while handshakes.try_join_next().is_some() {}
        let Ok(place) = room.clone().try_acquire_owned() else {
            tracing::warn!(%address, "too many connections of other workers: refused one");
            continue;
        };
        let shown = match own.current() {
            Ok(shown) => shown,
            Err(error) => {
                tracing::warn!("other workers are refused: {}", fleet_telemetry::with_causes(&error));
                continue;
            }
        };
        let accepted = accepted.clone();
        handshakes.spawn(async move {
            match tokio::time::timeout(SHAKEN_WITHIN, shake_hands(stream, shown, place)).await {
                // The server may have stopped.
                Ok(Ok(connection)) => drop(accepted.send(connection).await),
                Ok(Err(error)) => tracing::info!(%address, "another worker was refused: {error}"),
                Err(_) => tracing::info!(%address, "a handshake was not over in time"),
            }
        });
    }
}

async fn shake_hands(stream: TcpStream, shown: Shown, place: OwnedSemaphorePermit) -> io::Result<PeerStream> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(shown.config).accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.ok_or_else(|| io::Error::other("it shows no certificate"))?;
    let identity = Identity::from_certificate(certificate).map_err(io::Error::other)?;
    if !matches!(identity.kind, Kind::Worker { .. }) {
        return Err(io::Error::other(format!("{identity} is no worker")));
    }
    let caller = Caller { name: identity.name.to_string(), holder: shown.name };
    Ok(PeerStream { stream, caller, _place: place })
}

/// A connection of another worker.
#[derive(Debug)]
struct PeerStream {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    _place: OwnedSemaphorePermit,
}

impl Connected for PeerStream {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
