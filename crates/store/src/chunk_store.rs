//! Frames in an object store. Owns the layout (`chunks/ab/abcdef…`) and nothing else; writes once, whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
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
    /// The file system does not say that a chunk is safe.
    #[error("cannot make chunk {digest} durable")]
    Sync {
        /// Which.
        digest: Digest,
        /// Why.
        source: std::io::Error,
    },
    /// Checking was interrupted.
    #[error("checking a chunk was interrupted")]
    Interrupted,
}

impl StoreError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        crate::is_full(self)
    }
}

/// Chunks by name.
#[derive(Clone, Debug)]
pub struct ChunkStore {
    objects: Arc<dyn ObjectStore>,
    directory: PathBuf,
}

impl ChunkStore {
    /// A store in a local directory, which is created.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| StoreError::Directory { path: directory.display().to_string(), source })?;
        let objects = Arc::new(LocalFileSystem::new_with_prefix(directory)?);
        Ok(Self { objects, directory: directory.to_owned() })
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
        Ok(self.fetch(digest).await?.0)
    }

    /// The bytes of a chunk, as [`ChunkStore::get`] gives its frame.
    pub async fn read(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        Ok(self.fetch(digest).await?.1)
    }

    /// Returns when chunks that were put survive a loss of power.
    pub async fn make_durable(&self, digests: BTreeSet<Digest>) -> Result<(), StoreError> {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let parts: Vec<_> =
            digests.chunks(digests.len().div_ceil(PARALLEL).max(1)).map(<[_]>::to_vec).collect();
        let syncs = parts.into_iter().map(|part| {
            let directory = self.directory.clone();
            tokio::task::spawn_blocking(move || sync_all(&directory, &part))
        });
        for synced in futures::future::join_all(syncs).await {
            synced.map_err(|_| StoreError::Interrupted)??;
        }
        Ok(())
    }

    async fn fetch(&self, digest: Digest) -> Result<(Bytes, Vec<u8>), StoreError> {
        let frame = match self.objects.get(&location(digest)).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Err(StoreError::Absent(digest)),
            Err(other) => return Err(other.into()),
        };
        match check(digest, &frame).await {
            Ok(data) => Ok((frame, data)),
            Err(StoreError::Chunk(_)) => {
                self.objects.delete(&location(digest)).await?;
                Err(StoreError::Damaged(digest))
            }
            Err(error) => Err(error),
        }
    }
}

/// What a frame holds, if it is what its name says.
async fn check(digest: Digest, frame: &Bytes) -> Result<Vec<u8>, StoreError> {
    let frame = frame.clone();
    let opened = tokio::task::spawn_blocking(move || open_frame(digest, &frame)).await;
    Ok(opened.map_err(|_| StoreError::Interrupted)??)
}

/// The files, and the directories that name them and those directories.
fn sync_all(root: &Path, digests: &[Digest]) -> Result<(), StoreError> {
    let mut shelves = BTreeSet::new();
    for digest in digests {
        let file = root.join(location(*digest).as_ref());
        let sync = |path: &Path| {
            File::open(path).and_then(|opened| opened.sync_all()).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => StoreError::Absent(*digest),
                _ => StoreError::Sync { digest: *digest, source },
            })
        };
        sync(&file)?;
        for shelf in file.ancestors().skip(1).take(2) {
            if shelves.insert(shelf.to_owned()) {
                sync(shelf)?;
            }
        }
    }
    Ok(())
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
        assert_eq!(store.read(chunk.digest).await.expect("reads"), b"one");
        store.make_durable(BTreeSet::from([chunk.digest])).await.expect("is safe");
        let absent = store.make_durable(BTreeSet::from([chunk.digest, forged])).await;
        assert!(matches!(absent, Err(StoreError::Absent(digest)) if digest == forged));
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
