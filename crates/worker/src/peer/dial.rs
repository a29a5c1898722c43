//! Connections to the workers that hold what is wanted: one a holder, made when it is needed, with the certificate that
//! this worker has then. Owns how long a holder may take to be there.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_identity::tls::{self, DialError, TlsError};
use fleet_identity::{Credentials, CredentialsError, Name};
use fleet_wire::v1;
use fleet_wire::v1::peer_client::PeerClient;
use futures::future::select_ok;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tonic::transport::{Channel, Uri};

use super::{CONNECTION_WINDOW, FRAME, STREAM_WINDOW};

/// Connections that are kept for the next time; beyond it all are forgotten.
const MAX_KEPT: usize = 64;
/// Addresses of one holder that are tried, all at once.
const MAX_ADDRESSES: usize = 4;
const PING_EVERY: Duration = Duration::from_secs(10);

/// Where holders are reached from.
#[derive(Debug)]
pub(crate) struct Holders {
    credentials: Option<PathBuf>,
    within: Duration,
    kept: Mutex<HashMap<String, Channel>>,
}

/// Why a holder cannot be fetched from.
#[derive(Debug, Error)]
pub(crate) enum HolderUnreachable {
    #[error("this worker has no certificate to show to others")]
    NoCredentials,
    #[error("it listens nowhere")]
    NoAddress,
    #[error("{0:?} is neither the name of a worker nor an address")]
    Malformed(String),
    #[error("it does not answer in time")]
    Late,
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("it does not speak HTTP/2")]
    Transport(#[from] tonic::transport::Error),
}

impl Holders {
    /// As the worker of this certificate; each connection is there within this time, or not at all.
    pub(crate) fn new(credentials: Option<PathBuf>, within: Duration) -> Self {
        Self { credentials, within, kept: Mutex::default() }
    }

    /// How long each may take to answer.
    pub(crate) fn within(&self) -> Duration {
        self.within
    }

    /// A client of the holder, over the connection there is or a new one.
    pub(crate) async fn client(&self, holder: &v1::Holder) -> Result<PeerClient<Channel>, HolderUnreachable> {
        let kept = self.lock().get(&holder.worker).cloned();
        let channel = if let Some(channel) = kept {
            channel
        } else {
            let dialled = tokio::time::timeout(self.within, self.dial(holder)).await;
            let channel = dialled.map_err(|_| HolderUnreachable::Late)??;
            let mut kept = self.lock();
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(holder.worker.clone(), channel.clone());
            channel
        };
        Ok(PeerClient::new(channel).max_decoding_message_size(fleet_wire::MAX_MESSAGE))
    }

    /// The connection there is may be broken: the next one is new.
    pub(crate) fn forget(&self, holder: &str) {
        self.lock().remove(holder);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Channel>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(&self, holder: &v1::Holder) -> Result<Channel, HolderUnreachable> {
        let file = self.credentials.clone().ok_or(HolderUnreachable::NoCredentials)?;
        let malformed = |text: &str| HolderUnreachable::Malformed(text.chars().take(300).collect());
        let name: Name = holder.worker.parse().map_err(|_| malformed(&holder.worker))?;
        let config = tls::peer_client_config(&*own(file).await?, name)?;
        let ways = holder.addresses.iter().take(MAX_ADDRESSES).map(|address| {
            let config = config.clone();
            Box::pin(async move {
                let (host, port) = split(address).ok_or_else(|| malformed(address))?;
                Ok::<_, HolderUnreachable>(tls::dial(config, &host, port, self.within).await?)
            })
        });
        let ways: Vec<_> = ways.collect();
        if ways.is_empty() {
            return Err(HolderUnreachable::NoAddress);
        }
        let (stream, _) = select_ok(ways).await?;
        let mut stream = Some(TokioIo::new(stream));
        // A channel that lost its connection is forgotten, not mended: by then another certificate may be needed.
        let once = tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        });
        let endpoint = tonic::transport::Endpoint::from_static("https://worker")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_EVERY)
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_with_connector(once).await?)
    }
}

async fn own(file: PathBuf) -> Result<Arc<Credentials>, CredentialsError> {
    let reading = tokio::task::spawn_blocking(move || Credentials::read(&file).map(Arc::new));
    match reading.await {
        Ok(read) => read,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// HOST:PORT, an IPv6 address in brackets.
fn split(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bare {
        Some(inner) => inner,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        let good =
            [("a.example:1", "a.example", 1), ("[::1]:7144", "::1", 7144), ("10.0.0.1:9", "10.0.0.1", 9)];
        for (text, host, port) in good {
            assert_eq!(split(text), Some((host.to_owned(), port)));
        }
        for text in ["", "a", ":1", "a:", "a:0", "a:99999", "::1:5", "[]:5", "[::1]"] {
            assert_eq!(split(text), None, "{text}");
        }
    }
}
