//! Why a coordinator hung up on us: it looks at our certificate only after our half of the handshake, and what it
//! answers then is lost on the way from the stream to the request. The stream keeps it here, the channel asks.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use fleet_identity::Identity;
use fleet_identity::tls::{TlsFailure, explain};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, StdError, http};
use tonic::transport::Channel;

use super::connection::ReachError;

/// What the last stream saw; shared between it and the channel.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<Mutex<Option<ReachError>>>);

impl Witness {
    fn saw(&self, failure: ReachError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    fn tell(&self) -> Option<ReachError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A TLS stream, watched until the coordinator has said anything at all.
#[derive(Debug)]
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) endpoint: String,
    pub(super) own: Option<Identity>,
    pub(super) witness: Witness,
    pub(super) heard: bool,
}

impl<S> Watched<S> {
    /// The end came before a word: by the alert it was our certificate, or our own clock knows.
    fn ended(&mut self, error: Option<&io::Error>) {
        if std::mem::replace(&mut self.heard, true) {
            return;
        }
        let now = fleet_identity::unix_now();
        let alert = error.and_then(|error| explain(error, self.own.as_ref(), now));
        let by_clock = || match self.own.as_ref()? {
            own if own.not_after < now => Some(TlsFailure::OwnExpired),
            own if now < own.not_before => Some(TlsFailure::OwnNotYetValid),
            _ => None,
        };
        if let Some(source) = alert.or_else(by_clock) {
            self.witness.saw(ReachError::Tls { endpoint: self.endpoint.clone(), source });
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        match &read {
            Ok(()) if buffer.filled().len() > before => self.heard = true,
            Ok(()) => self.ended(None),
            Err(error) => self.ended(Some(error)),
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A channel whose failures are told as the witness saw them.
#[derive(Clone, Debug)]
pub struct Telling {
    pub(super) channel: Channel,
    pub(super) witness: Witness,
}

impl Service<http::Request<Body>> for Telling {
    type Response = http::Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<Self::Response, StdError>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.channel.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, witness) = (self.channel.call(request), self.witness.clone());
        Box::pin(async move {
            answer.await.map_err(|error| match witness.tell() {
                // In the words of a status: its kind is found among its causes.
                Some(seen) => {
                    let mut status = tonic::Status::unavailable(seen.to_string());
                    status.set_source(Arc::new(seen));
                    status.into()
                }
                None => error.into(),
            })
        })
    }
}
