//! Requests that are open, whose they are, and their end from our side: a revoked caller's within moments, all of
//! them when the coordinator stops. Whoever is cut off is told why: its stream ends with a status.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use dashmap::DashMap;
use http_body::{Body, Frame};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::codegen::http::HeaderMap;

/// All open requests, each with what its caller has shown.
#[derive(Debug)]
pub(crate) struct OpenStreams<C> {
    open: DashMap<u64, (C, Arc<Ending>)>,
    /// How many each caller has.
    counts: DashMap<String, usize>,
    limit: AtomicUsize,
    next: AtomicU64,
}

/// A caller has as many open requests as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// One open request; it is forgotten when this is dropped.
pub(crate) struct OpenStream<C> {
    number: u64,
    caller: Option<String>,
    ending: Arc<Ending>,
    streams: Arc<OpenStreams<C>>,
}

#[derive(Debug, Default)]
struct Ending {
    why: OnceLock<Status>,
    now: CancellationToken,
}

impl Ending {
    fn end(&self, why: Status) {
        // The first reason is the one.
        let _ = self.why.set(why);
        self.now.cancel();
    }

    fn status(&self) -> Status {
        self.why.get().cloned().unwrap_or_else(|| Status::unavailable("the stream was ended"))
    }
}

impl<C: Send + Sync + 'static> OpenStreams<C> {
    /// For so many requests of each caller.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let (open, counts) = (DashMap::new(), DashMap::new());
        Arc::new(Self { open, counts, limit: limit.into(), next: AtomicU64::new(0) })
    }

    /// Another limit from now on; what is open stays.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// A request begins; those without a caller's name are not counted.
    pub(crate) fn open(
        self: &Arc<Self>,
        caller: Option<String>,
        credential: C,
    ) -> Result<OpenStream<C>, TooMany> {
        if let Some(caller) = &caller {
            let mut count = self.counts.entry(caller.clone()).or_default();
            if *count >= self.limit.load(Ordering::Relaxed) {
                return Err(TooMany);
            }
            *count += 1;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ending = Arc::new(Ending::default());
        self.open.insert(number, (credential, ending.clone()));
        Ok(OpenStream { number, caller, ending, streams: self.clone() })
    }

    /// Ends those that `judge` has a reason to end.
    pub(crate) fn end(&self, judge: impl Fn(&C) -> Option<Status>) {
        for entry in &self.open {
            let (credential, ending) = entry.value();
            if !ending.now.is_cancelled()
                && let Some(why) = judge(credential)
            {
                ending.end(why);
            }
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }
}

impl<C> OpenStream<C> {
    /// Why it was ended, once it was.
    pub(crate) async fn ended(&self) -> Status {
        self.ending.now.cancelled().await;
        self.ending.status()
    }
}

impl<C> Drop for OpenStream<C> {
    fn drop(&mut self) {
        self.streams.open.remove(&self.number);
        if let Some(caller) = self.caller.take() {
            self.streams.counts.remove_if_mut(&caller, |_, count| {
                *count -= 1;
                *count == 0
            });
        }
    }
}

/// A request's or a response's body that ends when its stream is ended.
pub(crate) struct Endable<C> {
    body: tonic::body::Body,
    direction: Direction,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    over: bool,
    stream: Arc<OpenStream<C>>,
}

/// How the end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the service, as an error.
    Request,
    /// To the caller, as the status of the stream.
    Response,
    /// To the caller, by breaking off: what has no status at its end must not look whole.
    Page,
}

impl<C> Endable<C> {
    pub(crate) fn new(body: tonic::body::Body, direction: Direction, stream: Arc<OpenStream<C>>) -> Self {
        let ended = Box::pin(stream.ending.now.clone().cancelled_owned());
        Self { body, direction, ended, over: false, stream }
    }
}

impl<C> Body for Endable<C> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        if this.ended.as_mut().poll(context).is_pending() {
            return Pin::new(&mut this.body).poll_frame(context);
        }
        this.over = true;
        let why = this.stream.ending.status();
        Poll::Ready(Some(match this.direction {
            Direction::Request | Direction::Page => Err(why),
            Direction::Response => {
                let mut trailers = HeaderMap::new();
                why.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
