//! HTTP over accepted connections, with a bound on everything a peer can ask of it. HTTP/2 is tonic's, HTTP/1.1
//! hyper's own: it has one request at a time, and no gRPC.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use futures::StreamExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Server;

use super::connection::{Connection, Protocol};

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
/// Header fields of an HTTP/1.1 request.
const MAX_FIELDS: usize = 64;
/// How long the headers of an HTTP/1.1 request may take; the first begin with the connection.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);

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
    let stopping = CancellationToken::new();
    let older = Http1 { services: services.clone(), stop: stopping.clone(), connections: TaskTracker::new() };
    let served = older.clone();
    let accepted = ReceiverStream::new(accepted).filter_map(move |connection| {
        let newer = match connection.protocol() {
            Protocol::Http2 => Some(Ok::<_, io::Error>(connection)),
            Protocol::Http1 => {
                served.serve(connection);
                None
            }
        };
        std::future::ready(newer)
    });
    let keepalive = match audience {
        Audience::ThisProcess => None,
        Audience::Others(keepalive) => Some(keepalive),
    };
    let stop = async {
        stop.await;
        stopping.cancel();
    };
    let ended = Server::builder()
        .http2_keepalive_interval(keepalive)
        .http2_keepalive_timeout(keepalive)
        .max_concurrent_streams(max_streams)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .serve_with_incoming_shutdown(services, accepted, stop)
        .await;
    older.ends().await;
    ended
}

/// Connections of the older protocol, each a task of its own; how many there are is the business of `admission`.
#[derive(Clone, Debug)]
struct Http1<S> {
    services: S,
    stop: CancellationToken,
    connections: TaskTracker,
}

impl<S> Http1<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    fn serve(&self, connection: Connection) {
        let peer = connection.peer().clone();
        let services = self.services.clone();
        let answer = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            services.clone().call(request)
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_HEADERS as usize)
            .serve_connection(TokioIo::new(connection), answer);
        let stop = self.stop.clone();
        self.connections.spawn(async move {
            let mut served = std::pin::pin!(served);
            let ended = tokio::select! {
                ended = &mut served => ended,
                () = stop.cancelled() => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!("an HTTP/1.1 connection ended: {}", fleet_telemetry::with_causes(&error));
            }
        });
    }

    async fn ends(&self) {
        self.stop.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}
