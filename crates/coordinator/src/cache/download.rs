//! Archives and logs on their way out, in pieces. Owns how many downloads there are at a time, in all and for one
//! address, and ends those that nobody takes. What was begun and cannot be finished is broken off, so that it never
//! looks whole.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use fleet_nix::StorePath;
use fleet_store::{Manifest, StoreError};
use futures::stream::{BoxStream, StreamExt};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::body::Body;
use tonic::codegen::http::header::X_CONTENT_TYPE_OPTIONS;
use tonic::codegen::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE};
use tonic::codegen::http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::asked::Part;
use super::shelf::Shelf;
use super::{Unreadable, page};
use crate::logs::LogReader;
use crate::server::{Peer, PeerOrigin, network};

/// Downloads at a time; further ones wait. Each has at most [`AHEAD`] frames in memory besides the one that is sent.
const DOWNLOADS: usize = 128;
/// Of these, to one address.
const OF_ADDRESS: usize = 32;
/// Frames read before they are sent.
const AHEAD: usize = 2;
/// Bytes that are sent at a time.
const PIECE: usize = 64 << 10;
/// How long a client may take for a piece.
const TAKEN_WITHIN: Duration = Duration::from_mins(2);
/// What an archive of zstd frames is.
const NAR: &str = "application/zstd";

/// How many downloads there are.
#[derive(Debug)]
pub(super) struct Downloads {
    all: Arc<Semaphore>,
    /// Those that somebody holds.
    addresses: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
}

/// Room for a download.
pub(super) type Room = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// An archive, or a part of it.
pub(super) struct Wanted<'a> {
    pub(super) path: StorePath,
    pub(super) manifest: Manifest,
    /// The headers that say which part.
    pub(super) part: &'a HeaderMap,
    pub(super) tag: &'a HeaderValue,
}

impl Default for Downloads {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(DOWNLOADS)), addresses: Mutex::default() }
    }
}

impl Wanted<'_> {
    fn part(&self) -> Part {
        let range = self.part.get(RANGE).and_then(|range| range.to_str().ok());
        let same = self.part.get(IF_RANGE).is_none_or(|tag| tag == self.tag);
        match range {
            Some(range) if same => Part::of(range, self.manifest.frames_len()),
            _ => Part::Whole,
        }
    }

    /// The answer without its content.
    pub(super) fn head(&self) -> Response<Body> {
        let length = self.manifest.frames_len();
        let mut response = page::whole(NAR, Bytes::new());
        let headers = response.headers_mut();
        let text = |text: String| HeaderValue::from_str(&text).expect("digits and letters");
        match self.part() {
            Part::Whole => {
                headers.insert(CONTENT_LENGTH, length.into());
            }
            Part::Bytes(first, last) => {
                headers.insert(CONTENT_LENGTH, (last - first + 1).into());
                headers.insert(CONTENT_RANGE, text(format!("bytes {first}-{last}/{length}")));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            }
            Part::Outside => {
                headers.insert(CONTENT_RANGE, text(format!("bytes */{length}")));
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            }
        }
        response
    }

    /// The answer and its content, which is sent as it is read.
    pub(super) async fn begin(
        self,
        room: Room,
        from: &Shelf,
        peer: &Peer,
    ) -> Result<Response<Body>, Unreadable> {
        let head = self.head();
        let range = match self.part() {
            Part::Whole => 0..self.manifest.frames_len(),
            Part::Bytes(first, last) => first..last + 1,
            Part::Outside => return Ok(head),
        };
        let mut frames = from.chunks().frame_range(&self.manifest, range, AHEAD);
        // What is damaged at its beginning is told in time.
        let first = match frames.next().await {
            Some(Ok(first)) => first,
            None => return Ok(head),
            Some(Err(error)) => {
                from.failed(&self.path, &error).await;
                return Err(Unreadable);
            }
        };
        let (sender, pieces) = mpsc::channel(1);
        let sending = Sending { sender, shelf: from.clone(), path: self.path, peer: peer.clone() };
        tokio::spawn(sending.send_all(first, frames));
        Ok(head.map(|_| body(pieces, room)))
    }
}

impl Downloads {
    /// Waits for room for one more download.
    pub(super) async fn room(&self, peer: &Peer) -> Room {
        let own = match &peer.origin {
            PeerOrigin::Remote { address, .. } => self.of(network(*address)).acquire_owned().await.ok(),
            PeerOrigin::Here => None,
        };
        let all = self.all.clone().acquire_owned().await.expect("it is never closed");
        (all, own)
    }

    fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = addresses.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        // As many are left as there are downloads and waiting requests.
        addresses.retain(|_, known| known.strong_count() > 0);
        let new = Arc::new(Semaphore::new(OF_ADDRESS));
        addresses.insert(address, Arc::downgrade(&new));
        new
    }
}

/// One download.
struct Sending {
    sender: mpsc::Sender<Result<Bytes, io::Error>>,
    shelf: Shelf,
    path: StorePath,
    peer: Peer,
}

impl Sending {
    async fn send_all(self, first: Bytes, mut frames: BoxStream<'static, Result<Bytes, StoreError>>) {
        let mut next = Some(Ok(first));
        while let Some(frame) = next {
            let mut frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    self.shelf.failed(&self.path, &error).await;
                    let broken = io::Error::other("what is kept cannot be read");
                    self.send(Err(broken)).await;
                    return;
                }
            };
            while !frame.is_empty() {
                let piece = frame.split_to(frame.len().min(PIECE));
                if !self.send(Ok(piece)).await {
                    return;
                }
            }
            next = frames.next().await;
        }
        // The last piece, too, must be taken in time.
        let taken = tokio::time::timeout(TAKEN_WITHIN, self.wait_for_the_end()).await;
        if taken.is_err() {
            self.cut();
        }
    }

    /// Returns when all that was sent is taken, or nobody wants it any more.
    async fn wait_for_the_end(&self) {
        // Room for one more: the last was taken.
        let _ = self.sender.reserve().await;
    }

    /// Whether somebody wants more.
    async fn send(&self, piece: Result<Bytes, io::Error>) -> bool {
        let sent = tokio::time::timeout(TAKEN_WITHIN, self.sender.send(piece)).await;
        sent.map_or_else(
            |_| {
                self.cut();
                false
            },
            |sent| sent.is_ok(),
        )
    }

    /// Whoever takes nothing does not see an end either, unless the connection has one.
    fn cut(&self) {
        tracing::info!(peer = ?self.peer.origin, path = %self.path, "a download that nobody takes is cut");
        self.peer.cut.cancel();
    }
}

fn body(pieces: mpsc::Receiver<Result<Bytes, io::Error>>, room: Room) -> Body {
    let pieces = futures::stream::unfold((pieces, room), |(mut pieces, room)| async move {
        let piece = pieces.recv().await?;
        Some((piece.map(Frame::data), (pieces, room)))
    });
    Body::new(StreamBody::new(pieces))
}

/// The rest of a log, as far as it is there.
pub(super) fn log(reader: LogReader) -> Response<Body> {
    let pieces = futures::stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.pull().await {
            Ok(pull) => pull.map(|pull| (Ok(Frame::data(pull.data)), Some(reader))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let mut response = Response::new(Body::new(StreamBody::new(pieces)));
    page::set(&mut response, CONTENT_TYPE, "text/plain; charset=utf-8");
    page::set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}
