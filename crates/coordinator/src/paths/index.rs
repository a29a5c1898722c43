//! Which paths are kept and published, in memory: what is asked most often and for what is mostly not there. Owns that
//! list; it is made from a listing of the store at the start, and follows every change after that.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fleet_nix::StorePath;
use fleet_nix::store_path::HASH_PART_LEN;
use fleet_paths::collector::ChunkKey;
use fleet_store::{Manifest, Objects, StoreError};
use futures::TryStreamExt;

use super::usage::key;

/// Paths that are kept at most.
pub(super) const MAX_KEPT: usize = 1 << 22;

type HashPart = [u8; HASH_PART_LEN];

/// What can be said of a path without its manifest.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) references: Vec<StorePath>,
    pub(crate) chunks: Box<[ChunkKey]>,
    pub(super) nar_size: u64,
}

impl Summary {
    pub(super) fn new(references: Vec<StorePath>, nar_size: u64, manifest: &Manifest) -> Self {
        Self {
            references,
            nar_size,
            chunks: manifest.pieces.iter().map(|piece| key(&piece.digest)).collect(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    path: StorePath,
    published: bool,
    /// Once somebody looked.
    summary: Option<Arc<Summary>>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: RwLock<HashMap<HashPart, Entry>>,
}

impl Index {
    /// What the store holds. Marks of what is not kept are removed: a crash left them.
    pub(super) async fn load(objects: &Objects) -> Result<Self, StoreError> {
        let mut entries = HashMap::new();
        let mut manifests = objects.manifests().list();
        while let Some(found) = manifests.try_next().await? {
            if let Ok(path) = found.name.parse::<StorePath>()
                && entries.len() < MAX_KEPT
            {
                entries.insert(part(&path), Entry { path, published: false, summary: None });
            }
        }
        let mut stray = Vec::new();
        let mut marks = objects.published().list();
        while let Some(found) = marks.try_next().await? {
            let hash = found.name.as_bytes().first_chunk::<HASH_PART_LEN>();
            match hash.and_then(|hash| entries.get_mut(hash)) {
                Some(entry) => entry.published = true,
                None => stray.push(found.name),
            }
        }
        if !stray.is_empty() {
            tracing::warn!(
                marks = stray.len(),
                "paths were published that are not kept: they are not any more"
            );
            objects.published().clear(&stray).await?;
        }
        Ok(Self { entries: RwLock::new(entries) })
    }

    pub(super) fn has(&self, path: &StorePath) -> bool {
        self.read().get(&part(path)).is_some_and(|entry| entry.path == *path)
    }

    pub(super) fn is_published(&self, path: &StorePath) -> bool {
        self.read().get(&part(path)).is_some_and(|entry| entry.path == *path && entry.published)
    }

    /// The path with this hash part, if it is published.
    pub(super) fn published(&self, hash_part: &str) -> Option<StorePath> {
        let hash = hash_part.as_bytes().try_into().ok()?;
        let entries = self.read();
        entries.get::<HashPart>(hash).filter(|entry| entry.published).map(|entry| entry.path.clone())
    }

    pub(super) fn summary(&self, path: &StorePath) -> Option<Arc<Summary>> {
        self.read().get(&part(path)).and_then(|entry| entry.summary.clone())
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.read().len() < MAX_KEPT
    }

    pub(super) fn keep(&self, path: &StorePath, summary: Arc<Summary>) {
        let mut entries = self.write();
        let fresh = || Entry { path: path.clone(), published: false, summary: None };
        entries.entry(part(path)).or_insert_with(fresh).summary = Some(summary);
    }

    /// Remembers what was read of a path, if it is still here.
    pub(super) fn note(&self, path: &StorePath, summary: Arc<Summary>) {
        if let Some(entry) = self.write().get_mut(&part(path)) {
            entry.summary = Some(summary);
        }
    }

    pub(super) fn publish(&self, path: &StorePath, published: bool) {
        if let Some(entry) = self.write().get_mut(&part(path)) {
            entry.published = published;
        }
    }

    pub(super) fn forget(&self, path: &StorePath) {
        self.write().remove(&part(path));
    }

    /// All paths, and whether each is published.
    pub(super) fn all(&self) -> Vec<(StorePath, bool)> {
        self.read().values().map(|entry| (entry.path.clone(), entry.published)).collect()
    }

    /// Paths, published ones, and bytes of their archives as far as these were looked at.
    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let entries = self.read();
        let published = entries.values().filter(|entry| entry.published).count();
        let bytes =
            entries.values().filter_map(|entry| entry.summary.as_ref()).map(|summary| summary.nar_size);
        (entries.len() as u64, published as u64, bytes.sum())
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<HashPart, Entry>> {
        // No change stops half way.
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<HashPart, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn part(path: &StorePath) -> HashPart {
    path.hash_part().as_bytes().try_into().expect("a hash part has 32 characters")
}
