//! The chunk store: content-defined pieces of archives, named by BLAKE3, over any object store.
//!
//! [`chunk`] cuts and frames bytes (pure), [`chunk_store`] keeps frames, [`manifest`] keeps which of them make an
//! archive. A chunk is whole or absent: a frame is checked against its name before it is written, and again when
//! it is opened. A manifest is there only after its chunks.

pub mod chunk;
pub mod chunk_store;
pub mod manifest;

use std::error::Error;
use std::io;

pub use chunk::{ChunkError, Digest, MAX_CHUNK, RawChunk, cut, open_frame, seal_frame};
pub use chunk_store::{ChunkStore, StoreError};
pub use manifest::{Kept, Manifest, ManifestError, Manifests, Piece};

/// Whether a full disk is among the causes.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}
