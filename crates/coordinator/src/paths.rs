//! The store paths that are kept here, so that one worker's outputs become another's inputs. Owns the manifests;
//! what a path's chunks hold is read back and hashed before the path is believed. Knows nothing of rights.

mod checked;
mod verify;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use fleet_nix::nar::NarError;
use fleet_nix::{NarHash, StoreDir};
use fleet_store::{ChunkStore, Digest, Kept, Manifest, Manifests, Objects, StoreError};
use fleet_wire::v1;
use prost::Message;
use thiserror::Error;
use tokio::sync::Semaphore;

use checked::CheckedPath;
pub(crate) use checked::InvalidPath;

/// Archives read back at a time: each takes a processor, and some megabytes.
const VERIFIERS: usize = 4;
/// Paths that one closure may have here.
pub(crate) const MAX_CLOSURE: usize = 1 << 18;

/// Why a path is not kept or given.
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
    #[error("{path} is kept with other contents or references: its derivation is not deterministic")]
    Differs { path: String },
    #[error("chunk {chunk} of {path} is not here: put it first")]
    NoChunk { path: String, chunk: Digest },
    #[error("a closure of more than {MAX_CLOSURE} paths is not described")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("keeping paths was interrupted")]
    Interrupted,
}

/// A path that is what it is said to be.
#[derive(Debug)]
pub(crate) struct VerifiedPath(CheckedPath);

/// The table of paths, shared by its clones.
#[derive(Clone, Debug)]
pub(crate) struct PathTable {
    store_dir: StoreDir,
    manifests: Manifests,
    chunks: ChunkStore,
    verifiers: Arc<Semaphore>,
}

impl PathTable {
    /// The paths that `objects` keeps.
    pub(crate) fn new(objects: &Objects) -> Self {
        Self {
            store_dir: StoreDir::default(),
            manifests: objects.manifests(),
            chunks: objects.chunks(),
            verifiers: Arc::new(Semaphore::new(VERIFIERS)),
        }
    }

    /// Those of `paths` that are kept, in their order.
    pub(crate) async fn stored(&self, mut paths: Vec<String>) -> Result<Vec<String>, PathsError> {
        let kept = self.manifests.which(paths.clone()).await?;
        let mut kept = kept.into_iter();
        paths.retain(|_| kept.next().unwrap_or_default());
        Ok(paths)
    }

    /// Looks whether a path is what it is said to be: its chunks are here, they survive a loss of power, and make
    /// this archive.
    pub(crate) async fn verify(&self, path: v1::StoredPath) -> Result<VerifiedPath, PathsError> {
        let mut path = CheckedPath::new(&self.store_dir, path)?;
        match self.manifests.read(path.info.path.as_str()).await {
            Ok(Some(earlier)) => return path.agrees_with(&earlier).map(|()| VerifiedPath(path)),
            // Set aside by now: this one takes its place.
            Ok(None) | Err(StoreError::DamagedManifest(_)) => {}
            Err(other) => return Err(other.into()),
        }
        let _permit = self.verifiers.acquire().await.map_err(|_| PathsError::Interrupted)?;
        verify::archive(&self.chunks, &mut path).await?;
        let digests = path.manifest.pieces.iter().map(|piece| piece.digest).collect();
        self.chunks.make_durable(digests).await.map_err(|error| path.chunk_error(error))?;
        Ok(VerifiedPath(path))
    }

    /// Keeps a path; durable when this returns. Keeping it twice is nothing, and of two contents the first stays.
    pub(crate) async fn keep(&self, VerifiedPath(path): VerifiedPath) -> Result<(), PathsError> {
        match self.manifests.keep(path.info.path.as_str(), &path.manifest).await? {
            Kept::Now => Ok(()),
            Kept::Before(earlier) => path.agrees_with(&earlier),
        }
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
            tracing::error!(?broken, "paths lost chunks and are forgotten");
            for path in &broken {
                self.manifests.forget(path).await?;
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
        let stored = note(&path, &manifest)?;
        let references = stored.info.as_ref().map(|info| info.references.clone()).unwrap_or_default();
        stack.push(Visit::Leave(Box::new((stored, manifest))));
        stack.extend(references.into_iter().map(Visit::Enter));
    }
    Ok(order)
}

/// What is noted about a path, beside its chunks.
fn note(path: &str, manifest: &Manifest) -> Result<v1::StoredPath, StoreError> {
    v1::StoredPath::decode(&*manifest.note).map_err(|_| StoreError::DamagedManifest(path.to_owned()))
}

fn with_manifest(path: v1::StoredPath, manifest: &Manifest) -> v1::StoredPath {
    let chunks = manifest.pieces.iter();
    let chunks = chunks.map(|p| v1::ChunkRef { digest: p.digest.0.to_vec().into(), size: p.size }).collect();
    v1::StoredPath { manifest: Some(v1::Manifest { chunks }), ..path }
}

#[cfg(test)]
mod tests;
