//! HTTP/2 over accepted connections, with a bound on everything a peer can ask of it.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Server;

use super::connection::Connection;

/// All headers of a request together, bytes.
const MAX_HEADERS: u32 = 16 << 10;
/// Bytes of one request that are under way unread.
const STREAM_WINDOW: u32 = 1 << 20;
/// Bytes of one connection that are under way unread.
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Requests that were reset before we looked at them.
const MAX_PENDING_RESETS: usize = 32;
/// Requests that we reset and still hear of.
const MAX_LOCAL_RESETS: usize = 256;

/// Who the connections are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// This process: it lives as long as we do.
    ThisProcess,
    /// Others, who may be gone without a word: how often a silent one is asked whether it lives, and how long it may
    /// take to answer.
    Others(Duration),
}

/// Serves connections until `stop`: then no more are taken, and those that are there are told to finish.
pub(super) async fn serve<S>(
    services: S,
    accepted: mpsc::Receiver<Connection>,
    audience: Audience,
    max_streams: u32,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let accepted = ReceiverStream::new(accepted).map(Ok::<_, io::Error>);
    let keepalive = match audience {
        Audience::ThisProcess => None,
        Audience::Others(keepalive) => Some(keepalive),
    };
    Server::builder()
        .http2_keepalive_interval(keepalive)
        .http2_keepalive_timeout(keepalive)
        .max_concurrent_streams(max_streams)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_with_incoming_shutdown(services, accepted, stop)
        .await
}
