//! A path as a worker describes it, checked as far as that needs no chunks.

use std::collections::BTreeSet;

use fleet_nix::store_path::StorePathError;
use fleet_nix::{ContentAddress, NarHash, PathInfo, Signature, StoreDir, StorePath};
use fleet_store::{Digest, MAX_CHUNK, Manifest, Piece, StoreError};
use fleet_wire::v1;
use prost::Message;
use thiserror::Error;

use super::{PathsError, note};

const MAX_REFERENCES: usize = 1 << 16;
const MAX_SIGNATURES: usize = 64;
const MAX_SIGNATURE: usize = 1024;

/// What is wrong with a description.
#[derive(Debug, Error)]
pub(crate) enum InvalidPath {
    #[error("a path without {0}")]
    Missing(&'static str),
    #[error("{0:?} is not a store path")]
    Path(String, #[source] StorePathError),
    #[error("{path} has a bad {what}")]
    Bad { path: StorePath, what: &'static str },
    #[error("{path} has more {what} than the {limit} that are taken")]
    TooMany { path: StorePath, what: &'static str, limit: usize },
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
        let manifest = sent.manifest.clone();
        let info = path_info(sent)?;
        let path = &info.path;
        if info.content_address.is_some() && !info.is_content_addressed(store_dir) {
            return Err(InvalidPath::ContentAddress(path.clone()));
        }
        let pieces = pieces(path, info.nar_size, &manifest.ok_or(InvalidPath::Missing("manifest"))?)?;
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

/// The info in a description. Content address and signatures stand in it, or beside it.
pub(super) fn path_info(sent: v1::StoredPath) -> Result<PathInfo, InvalidPath> {
    let v1::StoredPath { info, mut content_address, mut signatures, .. } = sent;
    let info = info.ok_or(InvalidPath::Missing("path info"))?;
    let path = store_path(&info.path)?;
    let bad = |what| InvalidPath::Bad { path: path.clone(), what };
    let too_many = |what, limit| InvalidPath::TooMany { path: path.clone(), what, limit };
    if content_address.is_empty() {
        content_address = info.content_address;
    }
    if signatures.is_empty() {
        signatures = info.signatures;
    }
    if info.references.len() > MAX_REFERENCES {
        return Err(too_many("references", MAX_REFERENCES));
    }
    if signatures.len() > MAX_SIGNATURES {
        return Err(too_many("signatures", MAX_SIGNATURES));
    }
    let signature = |text: &String| (text.len() <= MAX_SIGNATURE).then(|| text.parse::<Signature>().ok());
    let signatures = signatures.iter().map(|text| signature(text).flatten()).collect::<Option<_>>();
    let content_address = match &*content_address {
        "" => None,
        text => Some(text.parse::<ContentAddress>().map_err(|_| bad("content address"))?),
    };
    let deriver = Some(&info.deriver).filter(|path| !path.is_empty());
    Ok(PathInfo {
        deriver: deriver.map(|path| store_path(path)).transpose()?,
        nar_hash: NarHash(info.nar_hash.as_ref().try_into().map_err(|_| bad("NAR hash"))?),
        references: info
            .references
            .iter()
            .map(|path| store_path(path))
            .collect::<Result<BTreeSet<_>, _>>()?,
        registration_time: 0,
        nar_size: info.nar_size,
        ultimate: false,
        signatures: signatures.ok_or_else(|| bad("signature"))?,
        content_address,
        path,
    })
}

fn pieces(path: &StorePath, nar_size: u64, manifest: &v1::Manifest) -> Result<Vec<Piece>, InvalidPath> {
    let piece = |chunk: &v1::ChunkRef| {
        let fits = chunk.size > 0 && chunk.size as usize <= MAX_CHUNK;
        let digest = Digest::try_from(&*chunk.digest).ok().filter(|_| fits);
        digest.map(|digest| Piece { digest, size: chunk.size, frame: 0 })
    };
    let pieces: Option<Vec<Piece>> = manifest.chunks.iter().map(piece).collect();
    let pieces = pieces.ok_or_else(|| InvalidPath::Bad { path: path.clone(), what: "chunk" })?;
    let sum = pieces.iter().map(|piece| u64::from(piece.size)).sum();
    if sum != nar_size || sum == 0 {
        return Err(InvalidPath::Sum { path: path.clone(), sum, nar_size });
    }
    Ok(pieces)
}

fn to_note(info: &PathInfo) -> v1::StoredPath {
    let base_name = |path: &StorePath| path.to_string();
    v1::StoredPath {
        info: Some(v1::PathInfo {
            path: base_name(&info.path),
            nar_hash: info.nar_hash.0.to_vec().into(),
            nar_size: info.nar_size,
            references: info.references.iter().map(base_name).collect(),
            deriver: info.deriver.as_ref().map(base_name).unwrap_or_default(),
            ..v1::PathInfo::default()
        }),
        content_address: info.content_address.as_ref().map(ToString::to_string).unwrap_or_default(),
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        ..v1::StoredPath::default()
    }
}

fn store_path(text: &str) -> Result<StorePath, InvalidPath> {
    text.parse().map_err(|error| InvalidPath::Path(text.chars().take(80).collect(), error))
}
