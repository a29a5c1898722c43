//! A path as a worker describes it, checked as far as that needs no chunks.

use fleet_nix::{PathInfo, StoreDir, StorePath};
use fleet_store::{Digest, MAX_CHUNK, Manifest, Piece, StoreError};
use fleet_wire::v1;
use prost::Message;
use thiserror::Error;

use super::{PathsError, note};
use crate::infos::{self, InfoError};

/// What is wrong with a description.
#[derive(Debug, Error)]
pub(crate) enum InvalidPath {
    #[error("a path without {0}")]
    Missing(&'static str),
    #[error(transparent)]
    Info(#[from] InfoError),
    #[error("{0} has a bad chunk")]
    Chunk(StorePath),
    #[error("the chunks of {path} have {sum} bytes together, its archive {nar_size}")]
    Sum { path: StorePath, sum: u64, nar_size: u64 },
    #[error("{0} does not follow from the content address it claims")]
    ContentAddress(StorePath),
}

/// Well formed, and consistent in itself.
#[derive(Debug)]
pub(super) struct CheckedPath {
    pub(super) info: PathInfo,
    pub(super) manifest: Manifest,
}

impl CheckedPath {
    pub(super) fn new(store_dir: &StoreDir, sent: v1::StoredPath) -> Result<Self, InvalidPath> {
        let info = infos::from_wire(&sent.info.ok_or(InvalidPath::Missing("path info"))?)?;
        let path = &info.path;
        if info.content_address.is_some() && !info.is_content_addressed(store_dir) {
            return Err(InvalidPath::ContentAddress(path.clone()));
        }
        let pieces = pieces(path, info.nar_size, &sent.manifest.ok_or(InvalidPath::Missing("manifest"))?)?;
        let note = to_note(&info).encode_to_vec().into();
        Ok(Self { info, manifest: Manifest { note, pieces } })
    }

    /// Whether what is kept under this name is the same thing.
    pub(super) fn agrees_with(&self, earlier: &Manifest) -> Result<(), PathsError> {
        let path = self.info.path.as_str();
        let (earlier, ours) = (note(path, earlier)?, &self.info);
        let same = (earlier.nar_hash, earlier.nar_size, &earlier.references)
            == (ours.nar_hash, ours.nar_size, &ours.references);
        if same { Ok(()) } else { Err(PathsError::Differs { path: path.to_owned() }) }
    }

    /// What the chunk store says about a chunk of this path.
    pub(super) fn chunk_error(&self, error: StoreError) -> PathsError {
        match error {
            StoreError::Absent(chunk) | StoreError::Damaged(chunk) => {
                PathsError::NoChunk { path: self.info.path.to_string(), chunk }
            }
            StoreError::OtherSize { digest: chunk, .. } => {
                PathsError::PieceSize { path: self.info.path.to_string(), chunk }
            }
            other => PathsError::Store(other),
        }
    }
}

fn pieces(path: &StorePath, nar_size: u64, manifest: &v1::Manifest) -> Result<Vec<Piece>, InvalidPath> {
    let piece = |chunk: &v1::ChunkRef| {
        let fits = chunk.size > 0 && chunk.size as usize <= MAX_CHUNK;
        let digest = Digest::try_from(&*chunk.digest).ok().filter(|_| fits);
        digest.map(|digest| Piece { digest, size: chunk.size, frame: 0 })
    };
    let pieces: Option<Vec<Piece>> = manifest.chunks.iter().map(piece).collect();
    let pieces = pieces.ok_or_else(|| InvalidPath::Chunk(path.clone()))?;
    let sum = pieces.iter().map(|piece| u64::from(piece.size)).sum();
    if sum != nar_size || sum == 0 {
        return Err(InvalidPath::Sum { path: path.clone(), sum, nar_size });
    }
    Ok(pieces)
}

fn to_note(info: &PathInfo) -> v1::StoredPath {
    v1::StoredPath { info: Some(infos::to_wire(info)), ..v1::StoredPath::default() }
}
