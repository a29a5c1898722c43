//! What is published, as the table of paths has it. Owns nothing, decides nothing; says what could not be read.

use std::sync::Arc;

use fleet_nix::{PathInfo, StorePath};
use fleet_store::{ChunkStore, Manifest, StoreError};
use fleet_telemetry::with_causes;
use tokio::sync::Semaphore;

use super::Unreadable;
use crate::paths::PathTable;

/// Manifests read at a time: one may have megabytes.
const LOOKS: usize = 32;

/// Published paths and their frames.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    paths: PathTable,
    chunks: ChunkStore,
    looks: Arc<Semaphore>,
}

impl Shelf {
    pub(crate) fn new(paths: PathTable, chunks: ChunkStore) -> Self {
        Self { paths, chunks, looks: Arc::new(Semaphore::new(LOOKS)) }
    }

    /// The frames that paths are made of.
    pub(super) fn chunks(&self) -> &ChunkStore {
        &self.chunks
    }

    /// The published path with this hash part.
    pub(super) async fn published(
        &self,
        hash_part: &str,
    ) -> Result<Option<(PathInfo, Manifest)>, Unreadable> {
        let _look = self.looks.acquire().await.map_err(|_| Unreadable)?;
        self.paths.published(hash_part).await.map_err(|error| {
            tracing::error!(hash_part, "cannot look for a published path: {}", with_causes(&error));
            Unreadable
        })
    }

    /// Reading a frame of this path failed. If what is kept is not what it should be, nobody is offered it again.
    pub(super) async fn failed(&self, path: &StorePath, error: &StoreError) {
        let why = with_causes(error);
        match self.paths.failed(path, error).await {
            Ok(true) => tracing::error!(%path, "a published path is damaged and no longer served: {why}"),
            Ok(false) => tracing::error!(%path, "cannot read a published path: {why}"),
            Err(also) => {
                let also = with_causes(&also);
                tracing::error!(%path, "a published path is damaged ({why}) and cannot be withdrawn: {also}");
            }
        }
    }
}
