//! Paths from one source as checked chunks in order, several of them being opened at once. What is here already is read
//! here, in its place among the others.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleet_nix::store_path::StorePath;
use fleet_store::{ChunkError, Digest, open_frame};
use fleet_wire::v1;
use fleet_wire::v1::fetch_reply::Reply;
use fleet_wire::v1::fetch_request::Request as Ask;
use fleet_wire::v1::peer_client::PeerClient;
use futures::StreamExt;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::locate::{Locate, read_manifest};
use crate::transfer::manifest_cache::{Piece, Pieces};
use crate::transfer::seeds::Seeds;

/// Chunks that are being opened, or wait to be imported.
const OPENING: usize = 6;
/// A source that sends nothing for so long, while we wait, has stalled.
const STALLED_AFTER: Duration = Duration::from_mins(1);
/// Digests in one question to the coordinator.
const MAX_ASKED: usize = 65_536;
/// Requests on their way: a want is as large as its manifest has chunks, in bits.
const ASKING: usize = 4;

/// A path that a source is to give.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Its position in the plan.
    pub(super) item: usize,
    pub(super) path: StorePath,
    pub(super) nar_size: u64,
    /// Where it is cut, as far as that is known.
    pub(super) pieces: Option<Pieces>,
    /// Whether some of it may be here.
    pub(super) seeded: bool,
}

/// What a source does next.
#[derive(Debug)]
pub(super) enum Event {
    Chunk(JoinHandle<Result<Opened, StreamFault>>),
    /// All of this item was given.
    End(usize),
    /// The source does not have this item any more, and goes on with the next.
    Gone(usize),
    /// Nothing more comes.
    Broken(StreamFault),
}

/// A checked chunk.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) piece: Piece,
    pub(super) data: Bytes,
    /// Bytes that were sent for it.
    pub(super) sent: Option<usize>,
}

/// Why a source gives no more.
#[derive(Debug, Error)]
pub(super) enum StreamFault {
    #[error("{}", .0.message())]
    Status(Box<Status>),
    #[error("it does not answer in time")]
    Late,
    #[error("it sent nothing for {} s", STALLED_AFTER.as_secs())]
    Stalled,
    #[error("it stopped before the end")]
    Ended,
    #[error(transparent)]
    Damaged(#[from] ChunkError),
    #[error("it sent {0}")]
    Wrong(&'static str),
    #[error("a chunk that was here is gone")]
    SeedLost,
    #[error("opening a chunk was interrupted")]
    Interrupted,
}

/// Events of one source. Dropping it ends the stream.
#[derive(Debug)]
pub(super) struct Chunks {
    events: mpsc::Receiver<Event>,
    _task: JoinSet<()>,
}

impl Chunks {
    /// From a worker.
    pub(super) fn of_holder(
        client: PeerClient<Channel>,
        ticket: v1::Ticket,
        wanted: Vec<Wanted>,
        seeds: Option<Arc<Seeds>>,
        within: Duration,
    ) -> Self {
        Self::spawn(wanted, seeds, move |line| fetch(client, ticket, line, within))
    }

    /// From the coordinator; each must say where it is cut.
    pub(super) fn of_coordinator<L: Locate>(
        locate: Arc<L>,
        right: v1::WorkRight,
        wanted: Vec<Wanted>,
        seeds: Option<Arc<Seeds>>,
    ) -> Self {
        Self::spawn(wanted, seeds, move |line| get(locate, right, line))
    }

    pub(super) async fn next(&mut self) -> Event {
        self.events.recv().await.unwrap_or(Event::Broken(StreamFault::Ended))
    }

    fn spawn<F: Future<Output = Result<(), StreamFault>> + Send + 'static>(
        wanted: Vec<Wanted>,
        seeds: Option<Arc<Seeds>>,
        run: impl FnOnce(Line) -> F,
    ) -> Self {
        let (sender, events) = mpsc::channel(OPENING);
        let running = run(Line { wanted, seeds, events: sender.clone() });
        let mut task = JoinSet::new();
        task.spawn(async move {
            if let Err(fault) = running.await {
                // Nobody may listen any more.
                let _ = sender.send(Event::Broken(fault)).await;
            }
        });
        Self { events, _task: task }
    }
}

/// What is wanted of a source, and where it goes.
struct Line {
    wanted: Vec<Wanted>,
    seeds: Option<Arc<Seeds>>,
    events: mpsc::Sender<Event>,
}

impl Line {
    async fn emit(&self, event: Event) -> Result<(), StreamFault> {
        self.events.send(event).await.map_err(|_| StreamFault::Interrupted)
    }

    fn is_here(&self, wanted: &Wanted, piece: &Piece) -> bool {
        wanted.seeded && self.seeds.as_ref().is_some_and(|seeds| seeds.has(piece))
    }

    async fn open(&self, digest: Digest, frame: Bytes) -> Result<(), StreamFault> {
        let opening = tokio::task::spawn_blocking(move || {
            let data = open_frame(digest, &frame)?;
            let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
            Ok(Opened { piece: Piece { digest, size }, data: data.into(), sent: Some(frame.len()) })
        });
        self.emit(Event::Chunk(opening)).await
    }

    async fn read_here(&self, piece: Piece) -> Result<(), StreamFault> {
        let seeds = self.seeds.clone().ok_or(StreamFault::SeedLost)?;
        let reading = tokio::task::spawn_blocking(move || {
            let data = seeds.read(&piece).ok_or(StreamFault::SeedLost)?;
            Ok(Opened { piece, data: data.into(), sent: None })
        });
        self.emit(Event::Chunk(reading)).await
    }
}

async fn fetch(
    mut client: PeerClient<Channel>,
    ticket: v1::Ticket,
    line: Line,
    within: Duration,
) -> Result<(), StreamFault> {
    let (asking, asked) = mpsc::channel(ASKING);
    let paths = line.wanted.iter();
    let paths = paths.map(|w| v1::FetchPath { path: w.path.to_string(), manifest_first: w.seeded }).collect();
    let open = Ask::Open(v1::FetchOpen { ticket: Some(ticket), paths });
    let _ = asking.try_send(v1::FetchRequest { request: Some(open) });
    let opened = tokio::time::timeout(within, client.fetch(ReceiverStream::new(asked))).await;
    let replies =
        opened.map_err(|_| StreamFault::Late)?.map_err(|status| StreamFault::Status(status.into()))?;
    let total = line.wanted.len();
    let course = Course { line, asking, current: 0, manifests: HashMap::new(), position: 0 };
    course.run(replies.into_inner(), total).await
}

/// Where a holder's stream stands.
struct Course {
    line: Line,
    asking: mpsc::Sender<v1::FetchRequest>,
    /// Among what is wanted.
    current: usize,
    /// Of paths that are to come.
    manifests: HashMap<usize, Pieces>,
    /// Chunks of the current path that were seen, where its manifest is known.
    position: usize,
}

impl Course {
    async fn run(mut self, mut replies: Streaming<v1::FetchReply>, total: usize) -> Result<(), StreamFault> {
        while self.current < total {
            self.read_here().await?;
            let next = tokio::time::timeout(STALLED_AFTER, replies.message()).await;
            let next = next.map_err(|_| StreamFault::Stalled)?;
            let next =
                next.map_err(|status| StreamFault::Status(status.into()))?.ok_or(StreamFault::Ended)?;
            match next.reply {
                Some(Reply::Manifest(manifest)) => self.want(&manifest).await?,
                Some(Reply::Chunk(chunk)) => self.take(chunk).await?,
                Some(Reply::End(end)) if self.is_current(end.path) && self.is_whole() => {
                    self.line.emit(Event::End(self.line.wanted[self.current].item)).await?;
                    self.advance();
                }
                Some(Reply::Gone(gone)) if self.is_current(gone.path) => {
                    self.line.emit(Event::Gone(self.line.wanted[self.current].item)).await?;
                    self.advance();
                }
                Some(Reply::End(_) | Reply::Gone(_)) => {
                    return Err(StreamFault::Wrong("an end out of place"));
                }
                None => return Err(StreamFault::Wrong("something unknown")),
            }
        }
        Ok(())
    }

    fn is_current(&self, path: u32) -> bool {
        usize::try_from(path) == Ok(self.current)
    }

    fn is_whole(&self) -> bool {
        self.manifests.get(&self.current).is_none_or(|pieces| self.position == pieces.len())
    }

    fn advance(&mut self) {
        self.manifests.remove(&self.current);
        (self.current, self.position) = (self.current + 1, 0);
    }

    /// Says which chunks of a path are to be sent.
    async fn want(&mut self, manifest: &v1::FetchManifest) -> Result<(), StreamFault> {
        let wrong = || StreamFault::Wrong("a manifest that was not asked for, or a bad one");
        let index = usize::try_from(manifest.path).map_err(|_| wrong())?;
        let wanted = self.line.wanted.get(index).filter(|wanted| wanted.seeded && index >= self.current);
        let wanted = wanted.ok_or_else(wrong)?;
        let pieces = manifest.manifest.as_ref().and_then(read_manifest).ok_or_else(wrong)?;
        let size: u64 = pieces.iter().map(|piece| u64::from(piece.size)).sum();
        if size != wanted.nar_size
            || self.manifests.contains_key(&index)
            || self.position > 0 && index == self.current
        {
            return Err(wrong());
        }
        let mut chunks = vec![0_u8; pieces.len().div_ceil(8)];
        for (position, piece) in pieces.iter().enumerate() {
            if !self.line.is_here(wanted, piece) {
                chunks[position / 8] |= 1 << (position % 8);
            }
        }
        let want = Ask::Want(v1::FetchWant { path: manifest.path, chunks: chunks.into() });
        let request = v1::FetchRequest { request: Some(want) };
        self.asking.send(request).await.map_err(|_| StreamFault::Ended)?;
        self.manifests.insert(index, pieces);
        Ok(())
    }

    /// Gives what is here and comes next in the current path.
    async fn read_here(&mut self) -> Result<(), StreamFault> {
        let Some(pieces) = self.manifests.get(&self.current) else { return Ok(()) };
        let wanted = &self.line.wanted[self.current];
        while let Some(piece) = pieces.get(self.position).filter(|piece| self.line.is_here(wanted, piece)) {
            self.line.read_here(*piece).await?;
            self.position += 1;
        }
        Ok(())
    }

    async fn take(&mut self, chunk: v1::FetchChunk) -> Result<(), StreamFault> {
        if !self.is_current(chunk.path) {
            return Err(StreamFault::Wrong("a chunk out of place"));
        }
        let digest = Digest::try_from(&*chunk.digest)?;
        if let Some(pieces) = self.manifests.get(&self.current) {
            if pieces.get(self.position).map(|piece| piece.digest) != Some(digest) {
                return Err(StreamFault::Wrong("another chunk than its manifest says"));
            }
            self.position += 1;
        }
        self.line.open(digest, chunk.frame).await
    }
}

/// The coordinator's chunks, in as few questions as their number allows.
async fn get<L: Locate>(locate: Arc<L>, right: v1::WorkRight, line: Line) -> Result<(), StreamFault> {
    let mut pending: Vec<(usize, Vec<Piece>)> = Vec::new();
    let mut asked = 0;
    for (index, wanted) in line.wanted.iter().enumerate() {
        let pieces = wanted.pieces.as_ref().ok_or(StreamFault::Wrong("no manifest"))?;
        for part in pieces.chunks(MAX_ASKED) {
            if asked + part.len() > MAX_ASKED {
                get_some(&*locate, right, &line, &pending).await?;
                (pending, asked) = (Vec::new(), 0);
            }
            asked += part.len();
            pending.push((index, part.to_vec()));
        }
        // A path whose last part it is ends there.
        pending.push((index, Vec::new()));
    }
    get_some(&*locate, right, &line, &pending).await
}

async fn get_some<L: Locate>(
    locate: &L,
    right: v1::WorkRight,
    line: &Line,
    parts: &[(usize, Vec<Piece>)],
) -> Result<(), StreamFault> {
    let mut paths = Vec::new();
    for (index, pieces) in parts {
        let wanted = &line.wanted[*index];
        let absent = pieces.iter().filter(|piece| !line.is_here(wanted, piece));
        let digests: Vec<Bytes> = absent.map(|piece| piece.digest.0.to_vec().into()).collect();
        if !digests.is_empty() {
            paths.push(v1::PathChunks { path: wanted.path.to_string(), digests });
        }
    }
    let mut chunks = futures::stream::empty().boxed();
    if !paths.is_empty() {
        let request = v1::GetRequest { right: Some(right), paths };
        chunks = locate.chunks(request).await.map_err(|status| StreamFault::Status(status.into()))?;
    }
    for (index, pieces) in parts {
        let wanted = &line.wanted[*index];
        for piece in pieces {
            if line.is_here(wanted, piece) {
                line.read_here(*piece).await?;
                continue;
            }
            let next = tokio::time::timeout(STALLED_AFTER, chunks.next()).await;
            let next = next.map_err(|_| StreamFault::Stalled)?.ok_or(StreamFault::Ended)?;
            let chunk = next.map_err(|status| StreamFault::Status(status.into()))?;
            if *chunk.digest != piece.digest.0 {
                return Err(StreamFault::Wrong("another chunk than the one that was asked for"));
            }
            line.open(piece.digest, chunk.frame).await?;
        }
        if pieces.is_empty() {
            line.emit(Event::End(wanted.item)).await?;
        }
    }
    Ok(())
}
