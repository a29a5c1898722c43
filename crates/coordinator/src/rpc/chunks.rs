//! Moving content between the chunk store and whoever may have it.

use std::pin::Pin;

use fleet_store::{ChunkStore, Digest, MAX_CHUNK};
use fleet_wire::v1;
use futures::{Stream, StreamExt, TryStreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::status;

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
}

#[tonic::async_trait]
impl v1::chunks_server::Chunks for ChunksService {
    async fn find_missing(
        &self,
        request: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingReply>, Status> {
        let digests = digests(&request.into_inner().digests)?;
        let missing = self.store.missing(digests).await.map_err(|error| status::store(&error))?;
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
            self.store.put(digest, chunk.frame).await.map_err(|error| status::store(&error))
        });
        let count = |stored: u64, ()| std::future::ready(Ok(stored + 1));
        let stored = written.buffer_unordered(WRITTEN_AT_ONCE).try_fold(0, count).await?;
        Ok(Response::new(v1::PutReply { stored }))
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let digests = digests(&request.into_inner().digests)?;
        let store = self.store.clone();
        let frames = futures::stream::iter(digests).map(move |digest| {
            let store = store.clone();
            async move {
                let frame = store.get(digest).await?;
                Ok(v1::Chunk { digest: digest.0.to_vec().into(), frame })
            }
        });
        let frames = frames.buffered(READ_AHEAD).map_err(|error| status::store(&error));
        Ok(Response::new(Box::pin(frames)))
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn digests(list: &[bytes::Bytes]) -> Result<Vec<Digest>, Status> {
    if list.len() > MAX_DIGESTS {
        return Err(Status::invalid_argument(format!("at most {MAX_DIGESTS} digests a call")));
    }
    list.iter().map(|bytes| digest(bytes)).collect()
}
