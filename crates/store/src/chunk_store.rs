//! Chunks in the object store. Owns their layout (`chunks/ab/abcdef…`) and that none is written or given that is not
//! what its name says.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use crate::StoreError;
use crate::chunk::{ChunkError, Digest};
use crate::frame::{FrameFault, MAX_FRAME, open_frame};
use crate::objects::{Content, Created, Durable, Listed, Objects};

const SHELVES: &str = "chunks";
/// How often a chunk is written in the place of a damaged one.
const ATTEMPTS: usize = 3;

/// A chunk as it is kept, and what it holds.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// One zstd frame.
    pub frame: Bytes,
    /// Uncompressed.
    pub data: Vec<u8>,
}

/// Chunks by name, shared by its clones.
#[derive(Clone, Debug)]
pub struct ChunkStore {
    objects: Objects,
}

impl ChunkStore {
    pub(crate) fn new(objects: Objects) -> Self {
        Self { objects }
    }

    /// Those of `digests` that are absent, in their order.
    pub async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, StoreError> {
        let sizes = self.frame_sizes(digests.clone()).await?;
        Ok(digests
            .into_iter()
            .zip(sizes)
            .filter(|(_, size)| size.is_none())
            .map(|(digest, _)| digest)
            .collect())
    }

    /// Bytes of the frame of each chunk that is here, in their order.
    pub async fn frame_sizes(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, StoreError> {
        let paths = digests.into_iter().map(|digest| location(&digest));
        self.objects.sizes(futures::stream::iter(paths)).try_collect().await
    }

    /// Keeps a frame under its name, after checking that it holds what the name says. Whether it survives a loss of
    /// power, [`ChunkStore::make_durable`] says.
    pub async fn put(&self, digest: Digest, frame: Bytes) -> Result<(), StoreError> {
        check(digest, frame.clone()).await?;
        for _ in 0..ATTEMPTS {
            match self.objects.create(&location(&digest), frame.clone(), Durable::WhenSynced).await? {
                Created::Now => return Ok(()),
                // Whoever puts what is there already was told that it is missing, or is damaged.
                Created::Before => match self.fetch(digest).await {
                    Err(StoreError::Damaged(_) | StoreError::Absent(_)) => {}
                    fetched => return fetched.map(drop),
                },
            }
        }
        Err(StoreError::Damaged(digest))
    }

    /// A chunk, checked. One that was damaged at rest is set aside, so that it can be put again.
    pub async fn fetch(&self, digest: Digest) -> Result<Fetched, StoreError> {
        match self.load(digest).await {
            Err(StoreError::Chunk(_)) => {}
            loaded => return loaded,
        }
        let mut again = None;
        let still_damaged = async {
            match self.load(digest).await {
                Ok(whole) => again = Some(whole),
                Err(StoreError::Chunk(_)) => return Ok(true),
                Err(StoreError::Absent(_)) => {}
                Err(other) => return Err(other),
            }
            Ok(false)
        };
        self.objects.set_aside(&location(&digest), still_damaged).await?;
        again.ok_or(StoreError::Damaged(digest))
    }

    /// The frame of a chunk, as [`ChunkStore::fetch`] gives it.
    pub async fn get(&self, digest: Digest) -> Result<Bytes, StoreError> {
        Ok(self.fetch(digest).await?.frame)
    }

    /// The bytes of a chunk, as [`ChunkStore::fetch`] gives them.
    pub async fn read(&self, digest: Digest) -> Result<Vec<u8>, StoreError> {
        Ok(self.fetch(digest).await?.data)
    }

    /// Returns when chunks that were put survive a loss of power: on S3 at once.
    pub async fn make_durable(&self, digests: BTreeSet<Digest>) -> Result<(), StoreError> {
        let absent = |error| match &error {
            StoreError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => None,
            _ => Some(error),
        };
        let digests: Vec<Digest> = digests.into_iter().collect();
        let synced = self.objects.sync(digests.iter().map(location).collect()).await;
        let Err(error) = synced else { return Ok(()) };
        match absent(error) {
            Some(error) => Err(error),
            None => match self.missing(digests).await?.first() {
                Some(missing) => Err(StoreError::Absent(*missing)),
                None => Err(StoreError::Interrupted),
            },
        }
    }

    /// All chunks, as they are found.
    pub fn list(&self) -> BoxStream<'static, Result<Listed<Digest>, StoreError>> {
        let named = |found: object_store::ObjectMeta| {
            let name = Digest::from_hex(found.location.filename()?)?;
            (found.location == location(&name)).then(|| Listed {
                name,
                size: found.size,
                modified: found.last_modified.into(),
            })
        };
        self.objects.list(SHELVES).try_filter_map(move |found| std::future::ready(Ok(named(found)))).boxed()
    }

    /// Removes chunks, as far as they are here.
    pub async fn delete(&self, digests: Vec<Digest>) -> Result<(), StoreError> {
        self.objects.delete(digests.iter().map(location).collect()).await
    }

    async fn load(&self, digest: Digest) -> Result<Fetched, StoreError> {
        match self.objects.read(&location(&digest), MAX_FRAME as u64).await? {
            None => Err(StoreError::Absent(digest)),
            Some(Content::Whole(frame)) => {
                let data = check(digest, frame.clone()).await?;
                Ok(Fetched { frame, data })
            }
            Some(Content::TooLarge(size)) => {
                let source = FrameFault::TooLong(usize::try_from(size).unwrap_or(usize::MAX));
                Err(ChunkError::BadFrame { digest, source }.into())
            }
        }
    }
}

/// What a frame holds, if it is what its name says.
async fn check(digest: Digest, frame: Bytes) -> Result<Vec<u8>, StoreError> {
    let opened = tokio::task::spawn_blocking(move || open_frame(digest, &frame)).await;
    Ok(opened.map_err(|_| StoreError::Interrupted)??)
}

fn location(digest: &Digest) -> Path {
    let name = digest.to_string();
    Path::from_iter([SHELVES, &name[..2], &name])
}
