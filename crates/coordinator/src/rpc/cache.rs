//! The service `fleet.v1.Cache`: how full the cache is, what keeps things in it, collecting, checking. Decides nothing.

use std::sync::Arc;

use fleet_nix::StorePath;
use fleet_paths::roots::Root;
use fleet_store::{Objects, Place};
use fleet_wire::v1;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status;
use crate::access::Caller;
use crate::cache::Signer;
use crate::collect::{CollectError, Collection, Progress, Purpose, Verified};
use crate::infos;
use crate::paths::PathTable;
use crate::shell::{Input, PinWhat, Reply, RootsInput};

/// Words about how far something is that wait for a client.
const OUTBOUND: usize = 16;
/// The largest request, bytes.
pub(crate) const MAX_CACHE: usize = 64 << 10;

/// The service `fleet.v1.Cache`.
#[derive(Debug)]
pub(crate) struct CacheService {
    pub(crate) collection: Collection,
    pub(crate) table: PathTable,
    pub(crate) objects: Objects,
    pub(crate) signer: Arc<Signer>,
    pub(crate) shell: mpsc::Sender<Input>,
}

type Told<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl v1::cache_server::Cache for CacheService {
    async fn info(&self, _: Request<v1::CacheInfoRequest>) -> Result<Response<v1::CacheInfoReply>, Status> {
        let seen = self.collection.seen();
        let (paths, published, nar_bytes) = self.table.counts();
        let (condemned_paths, condemned_chunks) = self.table.usage().collector().counts();
        let (roots, upstream) = self.ask(RootsInput::Count).await?;
        Ok(Response::new(v1::CacheInfoReply {
            chunks: seen.chunks,
            chunk_bytes: seen.bytes,
            paths,
            nar_bytes,
            published,
            condemned: (condemned_paths + condemned_chunks) as u64,
            roots,
            upstream,
            public_keys: self.signer.public_keys(),
            place: self.objects.place().to_string(),
            free_bytes: free_bytes(self.objects.place()),
        }))
    }

    type CollectStream = Told<v1::CollectProgress>;

    async fn collect(
        &self,
        request: Request<v1::CollectRequest>,
    ) -> Result<Response<Self::CollectStream>, Status> {
        let by = Caller::of(request.extensions()).owner().to_owned();
        let v1::CollectRequest { dry_run, grace_s } = request.into_inner();
        let purpose = if dry_run { Purpose::Rehearse } else { Purpose::Remove };
        tracing::info!(by, ?purpose, ?grace_s, "collection asked for");
        let (told, telling) = mpsc::channel(OUTBOUND);
        let collection = self.collection.clone();
        // It goes on when nobody listens: what was begun is finished.
        tokio::spawn(async move {
            // A word that does not fit is no loss: the next says more.
            let tell = |progress| drop(told.try_send(Ok(collected(progress, false))));
            let result = collection.collect(purpose, grace_s, tell).await;
            let last = result.map(|progress| collected(progress, true)).map_err(|error| refused(&error));
            let _ = told.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(telling)))
    }

    type VerifyStream = Told<v1::VerifyProgress>;

    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        let (told, telling) = mpsc::channel(OUTBOUND);
        let (word, mut words) = mpsc::channel(1);
        let collection = self.collection.clone();
        tokio::spawn(async move {
            // Whoever goes away ends the check: its words are not taken any more.
            let forward = async {
                while let Some(verified) = words.recv().await {
                    if told.send(Ok(checked(verified, false))).await.is_err() {
                        words.close();
                    }
                }
            };
            let check = async move { collection.verify(&word).await };
            let (result, ()) = tokio::join!(check, forward);
            let end = result.map(|verified| checked(verified, true)).map_err(|error| refused(&error));
            let _ = told.send(end).await;
        });
        Ok(Response::new(ReceiverStream::new(telling)))
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinReply>, Status> {
        let by = Caller::of(request.extensions()).owner().to_owned();
        let v1::PinRequest { what, name } = request.into_inner();
        let what = match what {
            Some(v1::pin_request::What::Run(run)) => PinWhat::Run(run),
            Some(v1::pin_request::What::Path(path)) => {
                PinWhat::Path(infos::store_path(&path).map_err(|error| status::refused(&error))?)
            }
            None => return Err(Status::invalid_argument("a pin is of a run or of a path")),
        };
        // Nothing is removed from the question what is kept until it is used.
        let _entered = self.table.usage().enter().await;
        let root = self.ask(|reply| RootsInput::Pin(what, name, reply)).await?;
        self.table.usage().use_paths(&root.paths);
        tracing::info!(by, pin = root.name, paths = root.paths.len(), "pinned");
        Ok(Response::new(v1::PinReply { name: root.name }))
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Result<Response<v1::UnpinReply>, Status> {
        let by = Caller::of(request.extensions()).owner().to_owned();
        let name = request.into_inner().name;
        self.ask(|reply| RootsInput::Unpin(name.clone(), reply)).await?;
        tracing::info!(by, pin = name, "unpinned");
        Ok(Response::new(v1::UnpinReply {}))
    }

    async fn list_roots(
        &self,
        _: Request<v1::ListRootsRequest>,
    ) -> Result<Response<v1::ListRootsReply>, Status> {
        let roots = self.ask(RootsInput::List).await?;
        Ok(Response::new(v1::ListRootsReply { roots: roots.into_iter().map(listed).collect() }))
    }
}

impl CacheService {
    async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> RootsInput) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let asked = self.shell.send(Input::Roots(question(reply))).await;
        asked.map_err(|_| status::stopping())?;
        answer.await.map_err(|_| status::stopping())?
    }
}

/// Bytes free where the objects are, as far as that is known.
fn free_bytes(place: &Place) -> u64 {
    let Place::Directory(directory) = place else { return 0 };
    rustix::fs::statvfs(directory).map_or(0, |system| system.f_bavail.saturating_mul(system.f_frsize))
}

fn collected(progress: Progress, done: bool) -> v1::CollectProgress {
    v1::CollectProgress {
        looked_at: progress.looked_at,
        condemned: progress.condemned,
        paths_removed: progress.paths_removed,
        chunks_removed: progress.chunks_removed,
        bytes_removed: progress.bytes_removed,
        done,
    }
}

fn checked(verified: Verified, done: bool) -> v1::VerifyProgress {
    let damaged = verified.damaged.into_iter();
    let damaged = damaged.map(|found| v1::DamagedPath { path: found.path.to_string(), why: found.why });
    v1::VerifyProgress { paths: verified.paths, bytes: verified.bytes, damaged: damaged.collect(), done }
}

fn listed((pinned, root): (bool, Root)) -> v1::Root {
    let Root { name, branch, since, paths } = root;
    v1::Root { name, pinned, branch, since, paths: paths.iter().map(StorePath::to_string).collect() }
}

fn refused(error: &CollectError) -> Status {
    match error {
        CollectError::Busy => status::collecting(),
        CollectError::Stopping => status::stopping(),
        CollectError::TooMany => Status::resource_exhausted(error.to_string()),
        CollectError::Paths(error) => status::paths(error),
        CollectError::Store(error) => status::store(error),
    }
}
