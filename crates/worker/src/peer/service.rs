//! Answers fetches: who asks, with which ticket, for which paths; then their chunks. Owns how much is under way at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_identity::unix_now;
use fleet_nix::store_path::StorePath;
use fleet_store::{ChunkError, Level, RawChunk, Sealer};
use fleet_wire::v1;
use fleet_wire::v1::fetch_reply::Reply;
use fleet_wire::v1::fetch_request::Request as Asked;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::reading::{Cutting, Files, ReadingError, Rooted};
use super::server::{Caller, Gone, Keys};
use super::ticket::{Gate, TicketError};
use crate::transfer::manifest_cache::{ManifestCache, Piece, Pieces};

/// Fetches that wait for one of those that run.
const MAX_WAITING: usize = 64;
/// Chunks that were cut and not sealed, are being sealed, and are sealed and not sent: for each fetch.
const CUT_AHEAD: usize = 4;
const SEALING: usize = 4;
const SEALED_AHEAD: usize = 4;
/// Paths of one fetch.
const MAX_PATHS: usize = 65_536;
/// Manifests that are sent before they are due.
const ANNOUNCED_AHEAD: usize = 8;
/// Chunks of the largest manifest that fits a message.
const MAX_MANIFEST: usize = 300_000;
/// For the first message of a fetch.
const OPENED_WITHIN: Duration = Duration::from_secs(10);

type Replies = mpsc::Sender<Result<v1::FetchReply, Status>>;

/// What all fetches share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) files: Files,
    pub(super) keys: Keys,
    pub(super) gone: Gone,
    pub(super) manifests: Option<Arc<ManifestCache>>,
    pub(super) running: Semaphore,
    pub(super) waiting: Arc<Semaphore>,
    pub(super) taken_within: Duration,
    pub(super) sealers: Arc<Sealers>,
}

impl Service {
    pub(super) fn waiting() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_WAITING))
    }
}

/// Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Serving(pub(super) Arc<Service>);

#[tonic::async_trait]
impl v1::peer_server::Peer for Serving {
    type FetchStream = BoxStream<'static, Result<v1::FetchReply, Status>>;

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("who is asking?"))?;
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(OPENED_WITHIN, requests.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("nothing was asked for"))??;
        let Some(Asked::Open(open)) = first.and_then(|first| first.request) else {
            return Err(Status::invalid_argument("a fetch begins with what is wanted"));
        };
        if open.paths.len() > MAX_PATHS {
            return Err(Status::invalid_argument(format!("at most {MAX_PATHS} paths at a time")));
        }
        let keys = self.0.keys.current();
        let gate = Gate { keys: &keys, holder: &caller.holder, receiver: &caller.name, now: unix_now() };
        let paths = gate.admit(&open).map_err(|error| {
            tracing::warn!(receiver = caller.name, "refused a fetch: {error}");
            refusal(&error)
        })?;
        let waiting = self.0.waiting.clone().try_acquire_owned();
        let waiting =
            waiting.map_err(|_| Status::resource_exhausted("too many fetch from here: try others"))?;
        let (replies, sending) = mpsc::channel(SEALED_AHEAD);
        let (end, ended) = oneshot::channel();
        let service = self.0.clone();
        let manifest_first = open.paths.iter().map(|path| path.manifest_first).collect();
        tokio::spawn(async move {
            let gone = replies.clone();
            let serving = async {
                let Ok(_permit) = service.running.acquire().await else { return };
                drop(waiting);
                let out = Out { replies, within: service.taken_within };
                let fetch =
                    Fetch { service: &service, paths, manifest_first, requests, out, wants: HashMap::new() };
                if let Err(status) = fetch.run(&caller).await {
                    // Who hung up hears nothing.
                    let _ = end.send(Err(status));
                }
            };
            // Who hung up needs nothing more.
            tokio::select! { () = gone.closed() => {}, () = serving => {} }
        });
        // What broke it is said even where nothing was taken.
        let end = futures::stream::once(ended).filter_map(|end| async { end.ok() });
        Ok(Response::new(ReceiverStream::new(sending).chain(end).boxed()))
    }
}

fn refusal(error: &TicketError) -> Status {
    match error {
        TicketError::Absent | TicketError::Malformed => Status::invalid_argument(error.to_string()),
        _ => Status::permission_denied(error.to_string()),
    }
}

/// Why a fetch ends early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("its receiver takes nothing any more")]
    Untaken,
    #[error("its receiver asks wrongly: {0}")]
    Asked(&'static str),
    #[error("the Nix daemon failed")]
    Daemon(#[from] fleet_nix::daemon::DaemonError),
    #[error("{path} cannot be read")]
    Reading { path: StorePath, source: ReadingError },
    #[error("a chunk cannot be sealed")]
    Sealing(#[from] ChunkError),
    #[error("it was interrupted")]
    Interrupted,
}

/// What goes to the receiver, at its pace.
struct Out {
    replies: Replies,
    within: Duration,
}

impl Out {
    async fn say(&self, reply: Reply) -> Result<(), Broken> {
        let reply = Ok(v1::FetchReply { reply: Some(reply) });
        match tokio::time::timeout(self.within, self.replies.send(reply)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Broken::Untaken),
        }
    }
}

struct Fetch<'a> {
    service: &'a Service,
    paths: Vec<StorePath>,
    manifest_first: Vec<bool>,
    requests: Streaming<v1::FetchRequest>,
    out: Out,
    wants: HashMap<usize, Vec<u8>>,
}

impl Fetch<'_> {
    async fn run(mut self, caller: &Caller) -> Result<(), Status> {
        let Err(broken) = self.serve().await else { return Ok(()) };
        tracing::info!(
            receiver = caller.name,
            "a fetch ended early: {}",
            fleet_telemetry::with_causes(&broken)
        );
        Err(match broken {
            Broken::Asked(what) => Status::invalid_argument(what),
            Broken::Untaken => Status::deadline_exceeded("nothing was taken for too long"),
            other => Status::internal(other.to_string()),
        })
    }

    async fn serve(&mut self) -> Result<(), Broken> {
        let set: BTreeSet<StorePath> = self.paths.iter().cloned().collect();
        let mut rooted = self.service.files.root(&set).await?;
        let mut announced: HashMap<usize, Pieces> = HashMap::new();
        let mut ahead = 0;
        for index in 0..self.paths.len() {
            let (path, number) = (self.paths[index].clone(), wire_index(index));
            if !rooted.has(&path) {
                self.service.gone.tell(&path);
                self.out.say(Reply::Gone(v1::FetchGone { path: number })).await?;
                continue;
            }
            let mut known = announced.remove(&index);
            if known.is_none() {
                known = self.known(&path).await;
                if self.manifest_first[index] {
                    let pieces = match known.take() {
                        Some(pieces) => pieces,
                        None => self.cut(&mut rooted, &path).await?,
                    };
                    self.announce(number, &pieces).await?;
                    known = Some(pieces);
                }
            }
            ahead = ahead.max(index + 1);
            while ahead < self.paths.len() && announced.len() < ANNOUNCED_AHEAD && ahead < index + 64 {
                if self.manifest_first[ahead]
                    && rooted.has(&self.paths[ahead])
                    && let Some(pieces) = self.known(&self.paths[ahead]).await
                {
                    self.announce(wire_index(ahead), &pieces).await?;
                    announced.insert(ahead, pieces);
                }
                ahead += 1;
            }
            let is_partial =
                self.manifest_first[index] && known.as_ref().is_some_and(|p| p.len() <= MAX_MANIFEST);
            let wanted = if is_partial { Some(self.want(index).await?) } else { None };
            self.send(&mut rooted, &path, number, Cutting { known, wanted }).await?;
            self.out.say(Reply::End(v1::FetchEnd { path: number })).await?;
        }
        Ok(())
    }

    async fn known(&self, path: &StorePath) -> Option<Pieces> {
        self.service.manifests.as_ref()?.get(path).await
    }

    /// A manifest that no message holds is not sent: then all chunks are.
    async fn announce(&self, path: u32, pieces: &[Piece]) -> Result<(), Broken> {
        if pieces.len() > MAX_MANIFEST {
            return Ok(());
        }
        let chunk = |piece: &Piece| v1::ChunkRef { digest: piece.digest.0.to_vec().into(), size: piece.size };
        let manifest = Some(v1::Manifest { chunks: pieces.iter().map(chunk).collect() });
        self.out.say(Reply::Manifest(v1::FetchManifest { path, manifest })).await
    }

    /// Which chunks of a path are wanted.
    async fn want(&mut self, index: usize) -> Result<Vec<u8>, Broken> {
        loop {
            if let Some(wanted) = self.wants.remove(&index) {
                return Ok(wanted);
            }
            let next = tokio::time::timeout(self.out.within, self.requests.message()).await;
            let next = next.map_err(|_| Broken::Untaken)?.map_err(|_| Broken::Untaken)?;
            match next.and_then(|next| next.request) {
                Some(Asked::Want(want)) => {
                    let path = usize::try_from(want.path).unwrap_or(usize::MAX);
                    let is_asked = self.manifest_first.get(path) == Some(&true);
                    if !is_asked || want.chunks.len() > MAX_MANIFEST.div_ceil(8) {
                        return Err(Broken::Asked("a want is about a path whose manifest comes first"));
                    }
                    // Of no more can it know the manifests.
                    if self.wants.len() > ANNOUNCED_AHEAD {
                        return Err(Broken::Asked("a want comes after its manifest"));
                    }
                    self.wants.insert(path, want.chunks.to_vec());
                }
                _ => return Err(Broken::Asked("after a manifest comes what is wanted of it")),
            }
        }
    }

    async fn cut(&self, rooted: &mut Rooted, path: &StorePath) -> Result<Pieces, Broken> {
        let (chunks, mut cut) = mpsc::channel(CUT_AHEAD);
        let collecting = async {
            let mut pieces = Vec::new();
            while let Some(chunk) = cut.recv().await {
                pieces.push(piece(&chunk));
            }
            pieces
        };
        let cutting = Cutting { known: None, wanted: None };
        let (sent, pieces) = tokio::join!(rooted.send(path, cutting, chunks), collecting);
        sent.map_err(|source| Broken::Reading { path: path.clone(), source })?;
        self.remember(path, &pieces).await;
        Ok(pieces.into())
    }

    async fn remember(&self, path: &StorePath, pieces: &[Piece]) {
        if let Some(manifests) = &self.service.manifests {
            manifests.put(path, pieces.to_vec()).await;
        }
    }

    /// Seals several chunks at once, and sends them in order.
    async fn send(
        &self,
        rooted: &mut Rooted,
        path: &StorePath,
        number: u32,
        cutting: Cutting,
    ) -> Result<(), Broken> {
        let is_new = cutting.known.is_none() && cutting.wanted.is_none();
        let (chunks, cut) = mpsc::channel(CUT_AHEAD);
        let sealing = async {
            let mut pieces = Vec::new();
            let mut sealed = ReceiverStream::new(cut)
                .map(|chunk| {
                    if is_new {
                        pieces.push(piece(&chunk));
                    }
                    self.seal(chunk)
                })
                .buffered(SEALING);
            while let Some(chunk) = sealed.next().await {
                let v1::Chunk { digest, frame } = chunk?;
                self.out.say(Reply::Chunk(v1::FetchChunk { path: number, digest, frame })).await?;
            }
            drop(sealed);
            Ok::<_, Broken>(pieces)
        };
        let (read, sent) = tokio::join!(rooted.send(path, cutting, chunks), sealing);
        let pieces = sent?;
        if let Err(source) = read {
            if let Some(manifests) = &self.service.manifests {
                manifests.forget(path);
            }
            return Err(Broken::Reading { path: path.clone(), source });
        }
        if is_new {
            self.remember(path, &pieces).await;
        }
        Ok(())
    }

    fn seal(&self, chunk: RawChunk) -> impl Future<Output = Result<v1::Chunk, Broken>> + use<> {
        let sealers = self.service.sealers.clone();
        let sealing = tokio::task::spawn_blocking(move || sealers.seal(&chunk));
        async move { Ok(sealing.await.map_err(|_| Broken::Interrupted)??) }
    }
}

/// As many as ever sealed at once: their memory is used again.
#[derive(Debug, Default)]
pub(super) struct Sealers(Mutex<Vec<Sealer>>);

impl Sealers {
    fn seal(&self, chunk: &RawChunk) -> Result<v1::Chunk, ChunkError> {
        let idle = self.lock().pop();
        let mut sealer = match idle {
            Some(sealer) => sealer,
            None => Sealer::new(Level::Fast)
                .map_err(|source| ChunkError::BadFrame { digest: chunk.digest, source })?,
        };
        let frame = sealer.seal(chunk)?;
        self.lock().push(sealer);
        Ok(v1::Chunk { digest: chunk.digest.0.to_vec().into(), frame })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sealer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn piece(chunk: &RawChunk) -> Piece {
    Piece { digest: chunk.digest, size: u32::try_from(chunk.data.len()).unwrap_or(u32::MAX) }
}

/// There are never more paths than [`MAX_PATHS`].
fn wire_index(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
