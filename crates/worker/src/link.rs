//! The way to the coordinator: over TLS, or a socket of this machine. One channel for a worker's whole life; it dials
//! when it has to, each time with the certificate that the state directory holds then. Owns how a dead peer is noticed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use fleet_identity::tls::{self, DialError, TlsError};
use fleet_identity::{Credentials, CredentialsError, Identity};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Uri};

/// The port of a coordinator whose address names none.
const DEFAULT_PORT: u16 = 7143;
/// For the connection, and again for the handshake.
const DIAL_WITHIN: Duration = Duration::from_secs(10);

/// Where a coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Over TLS.
    Https {
        /// A name, or an address without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// On this machine.
    Unix(PathBuf),
}

/// Why a text is no address of a coordinator.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not the address of a coordinator: write https://HOST, https://HOST:PORT or unix:///PATH")]
pub struct EndpointError(String);

/// How often an idle connection is tried, and how long an answer may take. The sum is how soon a dead peer is noticed.
#[derive(Clone, Copy, Debug)]
pub struct Pings {
    /// Between pings.
    pub every: Duration,
    /// For an answer.
    pub within: Duration,
}

impl Default for Pings {
    fn default() -> Self {
        Self { every: Duration::from_secs(10), within: Duration::from_secs(10) }
    }
}

/// A way to a coordinator, and who we are there.
#[derive(Clone, Debug)]
pub struct Link {
    pub(crate) channel: Channel,
    credentials: Option<PathBuf>,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("cannot connect to the coordinator's socket {}", path.display())]
    Socket { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Link {
    /// To a coordinator; `credentials` is the file with this worker's certificate. Nothing is dialled yet. Must be
    /// called in a runtime.
    pub fn open(endpoint: &Endpoint, credentials: Option<PathBuf>, pings: Pings) -> Self {
        let way = match (endpoint, &credentials) {
            (Endpoint::Unix(path), _) => Way::Unix(path.clone()),
            (Endpoint::Https { host, port }, file) => {
                let shown = Shown::File(file.clone().unwrap_or_default());
                Way::Https { host: host.clone(), port: *port, shown }
            }
        };
        Self { channel: channel(endpoint, way, pings), credentials }
    }

    /// To a coordinator that is known by its CA only, as a stranger.
    pub(crate) fn stranger(endpoint: &Endpoint, trust: Arc<ClientConfig>) -> Self {
        let way = match endpoint {
            Endpoint::Unix(path) => Way::Unix(path.clone()),
            Endpoint::Https { host, port } => {
                Way::Https { host: host.clone(), port: *port, shown: Shown::Nothing(trust) }
            }
        };
        Self { channel: channel(endpoint, way, Pings::default()), credentials: None }
    }

    /// The file with this worker's certificate.
    pub(crate) fn credentials(&self) -> Option<&Path> {
        self.credentials.as_deref()
    }

    /// Who we are by the certificate that is there now.
    pub(crate) fn identity(&self) -> Option<Identity> {
        Credentials::read(self.credentials()?).ok()?.identity().ok()
    }
}

/// A channel that dials by itself, and needs no certificate of ours.
impl From<Channel> for Link {
    fn from(channel: Channel) -> Self {
        Self { channel, credentials: None }
    }
}

fn channel(endpoint: &Endpoint, way: Way, pings: Pings) -> Channel {
    let connector = tower::service_fn(move |_| {
        let way = way.clone();
        async move { way.connect().await.map(TokioIo::new) }
    });
    tonic::transport::Endpoint::from(endpoint.uri())
        .http2_keep_alive_interval(pings.every)
        .keep_alive_timeout(pings.within)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// Any kind of byte stream.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

#[derive(Clone, Debug)]
enum Way {
    Unix(PathBuf),
    Https { host: String, port: u16, shown: Shown },
}

#[derive(Clone, Debug)]
enum Shown {
    /// What this file holds when it is needed.
    File(PathBuf),
    Nothing(Arc<ClientConfig>),
}

impl Way {
    async fn connect(&self) -> Result<Box<dyn Stream>, LinkError> {
        match self {
            Self::Unix(path) => {
                let connected = UnixStream::connect(path).await;
                let stream = connected.map_err(|source| LinkError::Socket { path: path.clone(), source })?;
                Ok(Box::new(stream))
            }
            Self::Https { host, port, shown } => {
                let config = match shown {
                    Shown::Nothing(config) => config.clone(),
                    Shown::File(file) => {
                        let own = Credentials::read(file)?;
                        tls::client_config(&own.authorities, Some(&own))?
                    }
                };
                Ok(Box::new(tls::dial(config, host, *port, DIAL_WITHIN).await?))
            }
        }
    }
}

impl Endpoint {
    /// For the request's authority; nobody looks at it on a socket.
    fn uri(&self) -> Uri {
        let localhost = Uri::from_static("https://localhost");
        match self {
            Self::Https { .. } => self.to_string().parse().unwrap_or(localhost),
            Self::Unix(_) => localhost,
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let bad = || EndpointError(text.to_owned());
        // A path alone can only be a socket.
        let socket = text.strip_prefix("unix://").or(text.starts_with('/').then_some(text));
        if let Some(path) = socket {
            let path = PathBuf::from(path);
            let is_named = path.is_absolute() && path.file_name().is_some() && !text.contains('\0');
            return if is_named { Ok(Self::Unix(path)) } else { Err(bad()) };
        }
        https(text).ok_or_else(bad)
    }
}

fn https(text: &str) -> Option<Endpoint> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains('#');
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host)? {
        "" => DEFAULT_PORT,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port > 0)?,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    (uri.scheme_str() == Some("https") && is_bare && !host.is_empty())
        .then_some(Endpoint::Https { host, port })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https { host, port } if host.contains(':') => write!(f, "https://[{host}]:{port}"),
            Self::Https { host, port } => write!(f, "https://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("https://c.example", "https://c.example:7143"),
            ("https://c.example:1/", "https://c.example:1"),
            ("https://[::1]:9", "https://[::1]:9"),
            ("https://127.0.0.1", "https://127.0.0.1:7143"),
            ("unix:///run/c", "unix:///run/c"),
            ("/run/c", "unix:///run/c"),
        ] {
            let endpoint: Endpoint = text.parse().expect("an address");
            assert_eq!(endpoint.to_string(), written);
            assert_eq!(written.parse(), Ok(endpoint));
        }
        for text in [
            "",
            "c.example",
            "http://c.example",
            "https://",
            "https://user@c.example",
            "https://c.example:0",
            "https://c.example:99999",
            "https://c.example/path",
            "https://c.example?x",
            "unix://relative",
            "unix:///",
            "/",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text);
            assert!(error.to_string().contains("unix:///PATH"), "{error}");
        }
    }
}
