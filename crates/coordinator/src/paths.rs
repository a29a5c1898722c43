//! The store paths that are kept here: their manifests, which of them are published, what is used. What a path's chunks
//! hold is read back, hashed and searched for references before the path is believed. Knows nothing of rights.

mod checked;
mod content;
mod index;
mod keeping;
mod publish;
mod usage;
mod verify;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use fleet_nix::nar::NarError;
use fleet_nix::{NarHash, PathInfo, StoreDir, StorePath};
use fleet_store::{ChunkStore, Digest, Manifest, Manifests, Objects, Published, StoreError};
use fleet_wire::v1;
use prost::Message;
use thiserror::Error;
use tokio::sync::{Mutex, Semaphore, mpsc};

use checked::CheckedPath;
pub(crate) use checked::InvalidPath;
use index::Index;
pub(crate) use usage::{Usage, key};

/// Archives read back at a time: each takes a processor, and some megabytes.
const VERIFIERS: usize = 4;
/// Paths that one closure may have here.
pub(crate) const MAX_CLOSURE: usize = 1 << 18;

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
    #[error("a closure of more than {MAX_CLOSURE} paths is not described")]
    TooMany,
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

    /// Those of `paths` that are kept, in their order.
    pub(crate) async fn stored(&self, mut paths: Vec<String>) -> Result<Vec<String>, PathsError> {
        let kept = self.manifests.which(paths.clone()).await?;
        let mut kept = kept.into_iter();
        paths.retain(|_| kept.next().unwrap_or_default());
        self.usage.use_paths(&paths.iter().filter_map(|path| path.parse().ok()).collect::<Vec<_>>());
        Ok(paths)
    }

    /// These paths and what of their closures is kept, references first. A path that lost a chunk is forgotten:
    /// whoever has it may bring it again.
    pub(crate) async fn describe(&self, roots: Vec<String>) -> Result<Vec<v1::StoredPath>, PathsError> {
        let mut kept = closure(&self.manifests, roots).await?;
        let needed: BTreeSet<Digest> =
            kept.iter().flat_map(|(_, manifest)| &manifest.pieces).map(|piece| piece.digest).collect();
        let lost = self.chunks.missing(needed.into_iter().collect()).await?;
        let lost: HashSet<Digest> = lost.into_iter().collect();
        if !lost.is_empty() {
            let has_lost = |manifest: &Manifest| manifest.pieces.iter().any(|p| lost.contains(&p.digest));
            let broken = kept.extract_if(.., |(_, manifest)| has_lost(manifest));
            let broken: Vec<String> = broken.map(|(path, _)| path.info.unwrap_or_default().path).collect();
            for path in broken.iter().filter_map(|path| path.parse().ok()) {
                self.forget(&path, "it lost a chunk").await?;
            }
        }
        Ok(kept.into_iter().map(|(path, manifest)| with_manifest(path, &manifest)).collect())
    }
}

type Described = (v1::StoredPath, Manifest);

/// Depth first, with a stack of our own: closures are deep.
async fn closure(manifests: &Manifests, roots: Vec<String>) -> Result<Vec<Described>, PathsError> {
    enum Visit {
        Enter(String),
        Leave(Box<Described>),
    }
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    let mut stack: Vec<Visit> = roots.into_iter().rev().map(Visit::Enter).collect();
    while let Some(visit) = stack.pop() {
        let path = match visit {
            Visit::Enter(path) => path,
            Visit::Leave(described) => {
                order.push(*described);
                continue;
            }
        };
        if !seen.insert(path.clone()) {
            continue;
        }
        if seen.len() > MAX_CLOSURE {
            return Err(PathsError::TooMany);
        }
        let Some(manifest) = manifests.read(&path).await? else { continue };
        let stored = stored(&path, &manifest)?;
        let references = stored.info.as_ref().map(|info| info.references.clone()).unwrap_or_default();
        stack.push(Visit::Leave(Box::new((stored, manifest))));
        stack.extend(references.into_iter().map(Visit::Enter));
    }
    Ok(order)
}

/// What is noted about a path, beside its chunks.
fn stored(path: &str, manifest: &Manifest) -> Result<v1::StoredPath, StoreError> {
    v1::StoredPath::decode(&*manifest.note).map_err(|_| StoreError::DamagedManifest(path.to_owned()))
}

/// The same as it is known elsewhere.
fn note(path: &str, manifest: &Manifest) -> Result<PathInfo, StoreError> {
    let info = checked::path_info(stored(path, manifest)?).ok().filter(|info| info.path.as_str() == path);
    info.ok_or_else(|| StoreError::DamagedManifest(path.to_owned()))
}

fn with_manifest(path: v1::StoredPath, manifest: &Manifest) -> v1::StoredPath {
    let chunks = manifest.pieces.iter();
    let chunks = chunks.map(|p| v1::ChunkRef { digest: p.digest.0.to_vec().into(), size: p.size }).collect();
    v1::StoredPath { manifest: Some(v1::Manifest { chunks }), ..path }
}

#[cfg(test)]
mod tests;
