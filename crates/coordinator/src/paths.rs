//! The store paths that are kept here: their manifests, which of them are published, what is used. What a path's chunks
//! hold is read back, hashed and searched for references before the path is believed. Knows nothing of rights.

mod checked;
mod content;
mod index;
mod keeping;
mod publish;
mod usage;
mod verify;

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_nix::nar::NarError;
use fleet_nix::{NarHash, PathInfo, StoreDir, StorePath};
use fleet_store::{ChunkStore, Digest, Manifest, Manifests, Objects, Published, StoreError};
use fleet_wire::v1;
use prost::Message;
use thiserror::Error;
use tokio::sync::{Mutex, Semaphore, mpsc};

use crate::infos;
use checked::CheckedPath;
pub(crate) use checked::InvalidPath;
use index::Index;
pub(crate) use usage::{Usage, key};

/// Archives read back at a time: each takes a processor, and some megabytes.
const VERIFIERS: usize = 4;

/// Why a path is not kept, published or given.
#[derive(Debug, Error)]
pub(crate) enum PathsError {
    #[error(transparent)]
    Invalid(#[from] InvalidPath),
    #[error("chunk {chunk} of {path} has another size than its manifest says")]
    PieceSize { path: String, chunk: Digest },
    #[error("what was put for {path} is no archive")]
    Archive { path: String, source: NarError },
    #[error("what was put for {path} has NAR hash {actual}, not {claimed}")]
    OtherHash { path: String, claimed: NarHash, actual: NarHash },
    #[error("what was put for {path} does not have the content address that it claims: {why}")]
    OtherContent { path: String, why: &'static str },
    #[error("{path} holds the hash part of {reference}, and does not say that it refers to it")]
    Undeclared { path: String, reference: StorePath },
    #[error("{path} says that it refers to {reference}, and does not hold its hash part")]
    NotThere { path: String, reference: StorePath },
    #[error(
        "{path} refers to {reference}, which is neither here nor served by an upstream cache: bring it first"
    )]
    NoReference { path: String, reference: String },
    #[error("{path} is not kept here")]
    NotKept { path: String },
    #[error("{path} is kept with other contents or references: its derivation is not deterministic")]
    Differs { path: String },
    #[error("chunk {chunk} of {path} is not here: put it first")]
    NoChunk { path: String, chunk: Digest },
    #[error("no more than {} paths can be kept: collect what is not needed", index::MAX_KEPT)]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("keeping paths was interrupted")]
    Interrupted,
}

/// What is known of a path before its bytes are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    /// As it was reported or vouched for.
    pub(crate) known: Option<Arc<PathInfo>>,
    /// All that its bytes may name.
    pub(crate) candidates: Vec<StorePath>,
    /// Of its references those that an upstream cache serves: they need not be here.
    pub(crate) upstream: BTreeSet<StorePath>,
    /// Its derivation answers for it that what it names is not needed.
    pub(crate) discards: bool,
}

/// A path that is what it is said to be. Its chunks stay until it is kept.
#[derive(Debug)]
pub(crate) struct VerifiedPath {
    path: CheckedPath,
    upstream: Option<BTreeSet<StorePath>>,
    _hold: usage::Hold,
}

/// The table of paths, shared by its clones.
#[derive(Clone, Debug)]
pub(crate) struct PathTable {
    store_dir: StoreDir,
    manifests: Manifests,
    published: Published,
    chunks: ChunkStore,
    index: Arc<Index>,
    usage: Usage,
    /// Held by who changes what is published.
    marking: Arc<Mutex<()>>,
    verifiers: Arc<Semaphore>,
    forgotten: mpsc::Sender<StorePath>,
}

impl PathTable {
    /// The paths that `objects` keeps. Those that turn out to be damaged, and are kept no more, are told to `forgotten`.
    pub(crate) async fn open(
        objects: &Objects,
        usage: Usage,
        forgotten: mpsc::Sender<StorePath>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            store_dir: StoreDir::default(),
            manifests: objects.manifests(),
            published: objects.published(),
            chunks: objects.chunks(),
            index: Arc::new(Index::load(objects).await?),
            usage,
            marking: Arc::default(),
            verifiers: Arc::new(Semaphore::new(VERIFIERS)),
            forgotten,
        })
    }

    /// Who counts on what.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Whether a path is kept. Whoever is told so may count on it.
    pub(crate) fn has(&self, path: &StorePath) -> bool {
        self.usage.use_paths([path]);
        self.index.has(path)
    }

    /// All that is kept, and whether it is published.
    pub(crate) fn kept(&self) -> Vec<(StorePath, bool)> {
        self.index.all()
    }

    /// Paths that are kept, those that are published, and bytes of archives as far as these were looked at.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        self.index.counts()
    }

    /// Where the bytes of a kept path are. Whoever is told so may count on it.
    pub(crate) async fn manifest(&self, path: &StorePath) -> Result<Option<Manifest>, PathsError> {
        if !self.has(path) {
            return Ok(None);
        }
        Ok(self.read(path).await?.map(|(_, manifest)| manifest))
    }
}

/// What is noted about a path, beside its chunks.
fn note(path: &str, manifest: &Manifest) -> Result<PathInfo, StoreError> {
    let noted = v1::StoredPath::decode(&*manifest.note).ok();
    let info = noted.and_then(|noted| infos::from_wire(&noted.info?).ok());
    info.filter(|info| info.path.as_str() == path).ok_or_else(|| StoreError::DamagedManifest(path.to_owned()))
}

#[cfg(test)]
mod tests;
