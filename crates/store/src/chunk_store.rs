//! Frames in an object store. Owns the layout (`chunks/ab/abcdef…`) and nothing else; writes once, whole.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use thiserror::Error;

use crate::chunk::{ChunkError, Digest, open_frame};

/// Requests to the object store at once.
const PARALLEL: usize = 16;

/// Why the store cannot do it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The object store failed.
    #[error("the chunk store failed")]
    Objects(#[from] object_store::Error),
    /// The directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The chunk is not what it should be.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// No such chunk is here.
    #[error("chunk {0} is not in the chunk store")]
    Absent(Digest),
    /// What was kept is no longer what the name says.
    #[error("chunk {0} was damaged on disk and is removed: send its source again")]
    Damaged(Digest),
    /// Checking was interrupted.
    #[error("checking a chunk was interrupted")]
    Interrupted,
}

/// Chunks by name.
#[derive(Clone, Debug)]
pub struct ChunkStore {
    objects: Arc<dyn ObjectStore>,
}

impl ChunkStore {
    /// A store in a local directory, which is created.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| StoreError::Directory { path: directory.display().to_string(), source })?;
        Ok(Self { objects: Arc::new(LocalFileSystem::new_with_prefix(directory)?) })
    }

    /// Those of `digests` that are absent, in their order.
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, StoreError> {
        let absent = futures::stream::iter(digests).map(|digest| async move {
            match self.objects.head(&location(digest)).await {
                Ok(_) => Ok(None),
                Err(object_store::Error::NotFound { .. }) => Ok(Some(digest)),
                Err(other) => Err(StoreError::from(other)),
            }
        });
        absent.buffered(PARALLEL).try_filter_map(|digest| async move { Ok(digest) }).try_collect().await
    }

    /// Keeps a frame under its name, after checking that it holds what the name says.
    pub async fn put(&self, digest: Digest, frame: Bytes) -> Result<(), StoreError> {
        check(digest, &frame).await?;
        let once = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(&location(digest), frame.into(), once).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// The frame of a chunk. One that was damaged at rest is removed, so that it can be put again.
    pub async fn get(&self, digest: Digest) -> Result<Bytes, StoreError> {
        let frame = match self.objects.get(&location(digest)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(StoreError::Absent(digest)),
            Err(other) => return Err(other.into()),
        };
        if let Err(error) = check(digest, &frame).await {
            if matches!(error, StoreError::Chunk(_)) {
                self.objects.delete(&location(digest)).await?;
                return Err(StoreError::Damaged(digest));
            }
            return Err(error);
        }
        Ok(frame)
    }
}

/// Whether a frame holds what its name says.
async fn check(digest: Digest, frame: &Bytes) -> Result<(), StoreError> {
    let frame = frame.clone();
    let opened = tokio::task::spawn_blocking(move || open_frame(digest, &frame).map(drop)).await;
    Ok(opened.map_err(|_| StoreError::Interrupted)??)
}

fn location(digest: Digest) -> object_store::path::Path {
    let name = digest.to_string();
    object_store::path::Path::from_iter(["chunks", &name[..2], &name])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{RawChunk, seal_frame};

    #[tokio::test]
    async fn a_chunk_is_kept_once_and_a_forged_one_never() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = ChunkStore::open(directory.path()).expect("opens");
        let chunk = RawChunk { digest: Digest::of(b"one"), data: b"one".to_vec() };
        let frame = seal_frame(&chunk).expect("compresses");
        let forged = Digest::of(b"two");
        store.put(chunk.digest, frame.clone()).await.expect("stores");
        store.put(chunk.digest, frame.clone()).await.expect("again is fine");
        assert!(matches!(store.put(forged, frame.clone()).await, Err(StoreError::Chunk(_))));
        assert_eq!(store.missing(vec![forged, chunk.digest]).await.expect("answers"), vec![forged]);
        assert_eq!(store.get(chunk.digest).await.expect("reads"), frame);
        assert!(matches!(store.get(forged).await, Err(StoreError::Absent(digest)) if digest == forged));
    }

    #[tokio::test]
    async fn a_chunk_damaged_at_rest_is_never_given_and_can_be_put_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = ChunkStore::open(directory.path()).expect("opens");
        let chunk = RawChunk { digest: Digest::of(b"one"), data: b"one".to_vec() };
        let frame = seal_frame(&chunk).expect("compresses");
        store.put(chunk.digest, frame.clone()).await.expect("stores");
        let file = directory.path().join(location(chunk.digest).as_ref());
        std::fs::write(&file, b"").expect("a crash leaves an empty file");
        assert!(matches!(store.get(chunk.digest).await, Err(StoreError::Damaged(_))));
        assert_eq!(store.missing(vec![chunk.digest]).await.expect("answers"), vec![chunk.digest]);
        store.put(chunk.digest, frame.clone()).await.expect("stores again");
        assert_eq!(store.get(chunk.digest).await.expect("reads"), frame);
    }
}
