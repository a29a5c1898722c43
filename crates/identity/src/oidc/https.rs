//! One bounded GET over https: no redirects, no proxies, no other scheme.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::source::SourceError;
use crate::tls;

/// An https address that names a host.
#[derive(Clone, Debug)]
pub(super) struct Address {
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let authority = uri.authority()?;
        // A password in it would be sent nowhere, and forgotten in a file.
        let plain = uri.scheme_str() == Some("https") && !authority.as_str().contains('@');
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = authority.port_u16().unwrap_or(443);
        (plain && !host.is_empty()).then(|| Self { host, port, authority: authority.to_string(), path })
    }
}

/// The body of the answer, if it is 200 and has at most `max_len` bytes, all within `limit`.
pub(super) async fn get(
    address: &Address,
    config: Arc<ClientConfig>,
    max_len: usize,
    limit: Duration,
) -> Result<Bytes, SourceError> {
    let fetched = timeout(limit, exchange(address, config, max_len, limit)).await;
    fetched.unwrap_or(Err(SourceError::Late))
}

async fn exchange(
    address: &Address,
    config: Arc<ClientConfig>,
    max_len: usize,
    limit: Duration,
) -> Result<Bytes, SourceError> {
    let stream = tls::dial(config, &address.host, address.port, limit).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this call, whatever becomes of it.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request =
        Request::get(&address.path).header(HOST, &address.authority).header(ACCEPT, "application/json");
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| SourceError::Answer)?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(SourceError::Status(response.status().as_u16()));
    }
    let body = Limited::new(response.into_body(), max_len).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|_| SourceError::Answer)
}
