//! Moving content between the chunk store and whoever may have it.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;

use fleet_nix::StorePath;
use fleet_store::{ChunkStore, Digest, MAX_CHUNK};
use fleet_wire::v1;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::paths::{ask, speaks_as};
use super::status;
use crate::access::Caller;
use crate::infos;
use crate::paths::PathTable;
use crate::shell::{Asking, Input};

const MAX_DIGESTS: usize = 65_536;
/// Frames read ahead for one receiver: at most 1 MiB each.
const READ_AHEAD: usize = 8;
/// Frames of one sender that are written at once.
const WRITTEN_AT_ONCE: usize = 8;
/// zstd adds little to what it cannot compress.
const MAX_FRAME: usize = MAX_CHUNK + (64 << 10);

/// The service `fleet.v1.Chunks`.
#[derive(Debug)]
pub(crate) struct ChunksService {
    pub(crate) store: ChunkStore,
    pub(crate) table: PathTable,
    pub(crate) shell: mpsc::Sender<Input>,
}

#[tonic::async_trait]
impl v1::chunks_server::Chunks for ChunksService {
    async fn find_missing(
        &self,
        request: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingReply>, Status> {
        let digests = digests(&request.into_inner().digests)?;
        let missing =
            self.table.usage().missing(&self.store, digests).await.map_err(|error| status::store(&error))?;
        let missing = missing.into_iter().map(|digest| digest.0.to_vec().into()).collect();
        Ok(Response::new(v1::FindMissingReply { missing }))
    }

    async fn put(&self, request: Request<Streaming<v1::Chunk>>) -> Result<Response<v1::PutReply>, Status> {
        let written = request.into_inner().map(|chunk| async {
            let chunk = chunk?;
            let digest = digest(&chunk.digest)?;
            if chunk.frame.len() > MAX_FRAME {
                return Err(Status::invalid_argument(format!("a frame has at most {MAX_FRAME} bytes")));
            }
            let put = self.table.usage().put(&self.store, digest, chunk.frame).await;
            put.map_err(|error| status::store(&error))
        });
        let count = |stored: u64, ()| std::future::ready(Ok(stored + 1));
        let stored = written.buffer_unordered(WRITTEN_AT_ONCE).try_fold(0, count).await?;
        Ok(Response::new(v1::PutReply { stored }))
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let worker = speaks_as(&Caller::of(request.extensions()));
        let wanted = self.allowed(worker, request.into_inner()).await?;
        let (store, table) = (self.store.clone(), self.table.clone());
        let frames = futures::stream::iter(wanted).map(move |(path, digest)| {
            let (store, table) = (store.clone(), table.clone());
            async move {
                match store.get(digest).await {
                    Ok(frame) => Ok(v1::Chunk { digest: digest.0.to_vec().into(), frame }),
                    Err(error) => {
                        // Before the answer: who asks where else it is must not be sent back here.
                        if let Some(path) = path {
                            table.failed(&path, &error).await.map_err(|error| status::paths(&error))?;
                        }
                        Err(status::store(&error))
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(frames.buffered(READ_AHEAD))))
    }
}

impl ChunksService {
    /// The chunks that are asked for and the path of each that is no source, if the right that is named gives access to
    /// all of them.
    async fn allowed(
        &self,
        worker: Option<Arc<str>>,
        request: v1::GetRequest,
    ) -> Result<Vec<(Option<Arc<StorePath>>, Digest)>, Status> {
        if request.paths.iter().map(|path| path.digests.len()).sum::<usize>() > MAX_DIGESTS {
            return Err(too_many());
        }
        let (mut paths, mut source, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        for v1::PathChunks { path, digests: listed } in request.paths {
            let named = digests(&listed)?.into_iter();
            if path.is_empty() {
                wanted.extend(named.map(|digest| (None, digest)));
                source.extend(listed);
            } else {
                let path = Arc::new(infos::store_path(&path).map_err(|error| status::refused(&error))?);
                wanted.extend(named.map(|digest| (Some(path.clone()), digest)));
                paths.push((path, listed));
            }
        }
        if wanted.is_empty() {
            return Err(status::no_right("it names no path whose chunks it wants"));
        }
        let asking = Asking::new(worker, request.right.as_ref())?;
        let names = paths.iter().map(|(path, _)| StorePath::clone(path)).collect();
        ask(&self.shell, |reply| Input::MayRead(asking, names, source, reply)).await?;
        for (path, listed) in paths {
            let manifest = self.table.manifest(&path).await.map_err(|error| status::paths(&error))?;
            let manifest = manifest.ok_or_else(|| status::not_kept(&path))?;
            let own: HashSet<&[u8]> = manifest.pieces.iter().map(|piece| &piece.digest.0[..]).collect();
            if !listed.iter().all(|digest| own.contains(&digest[..])) {
                return Err(status::no_right(&format!("a chunk is no part of {path}")));
            }
        }
        Ok(wanted)
    }
}

fn too_many() -> Status {
    Status::invalid_argument(format!("at most {MAX_DIGESTS} digests a call"))
}

fn digest(bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn digests(list: &[bytes::Bytes]) -> Result<Vec<Digest>, Status> {
    if list.len() > MAX_DIGESTS {
        return Err(too_many());
    }
    list.iter().map(|bytes| digest(bytes)).collect()
}
