//! A connection to a coordinator that is made when it is needed and made again when it broke.
//!
//! Owns how a byte stream comes about; credentials are read anew for each, so that renewed ones count.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_identity::tls::{DialError, TlsFailure, dial, explain};
use fleet_wire::v1::admin_client::AdminClient;
use fleet_wire::v1::cache_client::CacheClient;
use fleet_wire::v1::chunks_client::ChunksClient;
use fleet_wire::v1::runs_client::RunsClient;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{self, Channel, Uri};

use super::credentials::{Bearer, CredentialError, Credentials};
use super::endpoint::Endpoint;
use super::explained::Explained;
use super::tls::{self, Handshake};

/// From the first packet to the end of the handshake.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A peer that does not answer a ping for so long is gone: together at most 30 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// A certificate is looked at right after the handshake.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);

/// What clients of services stand on.
pub type Link = InterceptedService<Explained, Bearer>;

/// Leads to a coordinator; cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    channel: Explained,
    bearer: Bearer,
}

/// Why no byte stream to the coordinator comes about.
#[derive(Clone, Debug, Error)]
pub enum ReachError {
    /// Nobody knows the name.
    #[error("cannot find the host {host}")]
    Resolve {
        /// As written.
        host: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Nobody answers there.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// No answer in time.
    #[error("{0} does not answer")]
    Silent(String),
    /// The two do not trust each other.
    #[error("no secure connection to {endpoint}")]
    Tls {
        /// Where.
        endpoint: String,
        /// Why.
        #[source]
        source: TlsFailure,
    },
    /// We cannot say who we are.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

impl Connection {
    /// To a coordinator in this process.
    pub fn in_memory(channel: Channel) -> Self {
        Self { channel: Explained::new(channel, None), bearer: Bearer::default() }
    }

    /// To a coordinator elsewhere; must be called in a runtime. Nothing is sent yet.
    pub fn open(endpoint: &Endpoint, credentials: &Credentials) -> Self {
        let uri = endpoint.uri().unwrap_or_else(|| Uri::from_static("https://coordinator"));
        let way = Way { endpoint: endpoint.clone(), credentials: credentials.clone() };
        let connector = tower::service_fn({
            let way = way.clone();
            move |_| {
                let way = way.clone();
                async move { way.connect().await.map(TokioIo::new) }
            }
        });
        let channel = transport::Endpoint::from(uri)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector);
        // A socket knows its peers by their user: tokens stay at home.
        let token = credentials.token.clone().filter(|_| !matches!(endpoint, Endpoint::Unix(_)));
        let way = Some(way).filter(|_| credentials.certificate.is_some());
        Self { channel: Explained::new(channel, way), bearer: Bearer::new(token) }
    }

    /// Runs, their events and their logs.
    pub fn runs(&self) -> RunsClient<Link> {
        RunsClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(fleet_wire::MAX_MESSAGE)
    }

    /// Content.
    pub fn chunks(&self) -> ChunksClient<Link> {
        ChunksClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(fleet_wire::MAX_MESSAGE)
    }

    /// What is kept.
    pub fn cache(&self) -> CacheClient<Link> {
        CacheClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(fleet_wire::MAX_MESSAGE)
    }

    /// Workers and clients.
    pub fn admin(&self) -> AdminClient<Link> {
        AdminClient::with_interceptor(self.channel.clone(), self.bearer.clone())
            .max_decoding_message_size(fleet_wire::MAX_MESSAGE)
    }
}

/// Any kind of byte stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where to, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Way {
    endpoint: Endpoint,
    credentials: Credentials,
}

impl Way {
    async fn connect(&self) -> Result<Box<dyn Stream>, ReachError> {
        let connecting = async {
            match &self.endpoint {
                Endpoint::Unix(path) => self.unix(path).await,
                Endpoint::Https { host, port } => self.https(host, *port).await,
            }
        };
        let silent = || ReachError::Silent(self.endpoint.to_string());
        tokio::time::timeout(CONNECT_WITHIN, connecting).await.map_err(|_| silent())?
    }

    async fn unix(&self, path: &PathBuf) -> Result<Box<dyn Stream>, ReachError> {
        let stream = UnixStream::connect(path).await.map_err(|source| self.refused(source))?;
        Ok(Box::new(stream))
    }

    async fn https(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, ReachError> {
        let Handshake { config, own } = tls::handshake(&self.credentials)?;
        // Asked for by itself, so that an unknown name is told from a host that is down.
        let unknown = |source| ReachError::Resolve { host: host.to_owned(), source: Arc::new(source) };
        drop(tokio::net::lookup_host((host, port)).await.map_err(unknown)?);
        match dial(config, host, port, CONNECT_WITHIN).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(DialError::BadName(host)) => {
                let source = Arc::new(io::Error::from(io::ErrorKind::InvalidInput));
                Err(ReachError::Resolve { host, source })
            }
            Err(DialError::Unreachable { source, .. }) => Err(self.refused(source)),
            Err(DialError::Handshake { source, .. }) => {
                match explain(&source, own.as_ref(), fleet_identity::unix_now()) {
                    Some(failure) => {
                        Err(ReachError::Tls { endpoint: self.endpoint.to_string(), source: failure })
                    }
                    None => Err(self.refused(source)),
                }
            }
        }
    }

    /// Connects without a word and listens: whoever refuses our certificate says so. Nothing if that is not it.
    pub(super) async fn refusal(&self) -> Option<ReachError> {
        let listening = async {
            let own = tls::handshake(&self.credentials).ok()?.own;
            let error = self.connect().await.ok()?.read_u8().await.err()?;
            let source = explain(&error, own.as_ref(), fleet_identity::unix_now())?;
            Some(ReachError::Tls { endpoint: self.endpoint.to_string(), source })
        };
        tokio::time::timeout(REFUSED_WITHIN, listening).await.ok()?
    }

    fn refused(&self, source: io::Error) -> ReachError {
        ReachError::Connect { endpoint: self.endpoint.to_string(), source: Arc::new(source) }
    }
}
