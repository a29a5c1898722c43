//! Content at rest: chunks named by BLAKE3, manifests of which of them make an archive, and marks of what is
//! published; all of them objects in one directory or one S3 bucket.
//!
//! Cutting and framing is pure and needs no store:
//!
//! ```
//! use fleet_store::{Level, Sealer, cut, open_frame};
//! let mut sealer = Sealer::new(Level::Fast).unwrap();
//! for chunk in cut(&b"an archive"[..]) {
//!     let chunk = chunk.unwrap();
//!     let frame = sealer.seal(&chunk).unwrap();
//!     assert_eq!(open_frame(chunk.digest, &frame).unwrap(), chunk.data);
//! }
//! ```
//!
//! [`Objects::open`] opens a store, [`Objects::probe`] tries it; [`Objects::chunks`], [`Objects::manifests`] and
//! [`Objects::published`] are cheap handles to clone:
//!
//! - [`ChunkStore`]: `put` checks and writes once; `fetch`, `get`, `read` check again, and set a damaged chunk aside
//!   ([`StoreError::Damaged`] names it); `missing`, `frame_sizes`, `list`, `delete`; [`ChunkStore::make_durable`]
//!   before a manifest names what was put.
//! - [`ChunkStore::contents`] and [`ChunkStore::frames`] give a manifest's chunks in order, some read ahead;
//!   [`ChunkStore::frame_range`] a range of bytes of the frames in a row, whose length is [`Manifest::frames_len`].
//! - [`Manifests`]: `keep` (the first of a name stays; durable), `replace`, `read`, `has`, `list`, `forget` (sets
//!   aside), `delete`.
//! - [`Published`]: `set` (durable), `get`, `list`, `clear`.
//!
//! A chunk is whole or absent: a frame is checked against its name before it is written, and again when it is read.
//! A manifest is there only after its chunks, a mark only after its manifest: that is up to their writer.

pub mod chunk;
pub mod chunk_store;
pub mod frame;
pub mod manifest;
pub mod manifests;
pub mod objects;
pub mod place;
pub mod published;
mod reading;
#[cfg(test)]
mod testing;

use std::error::Error;
use std::io;

use thiserror::Error;

pub use chunk::{ChunkError, Digest, MAX_CHUNK, RawChunk, cut};
pub use chunk_store::{ChunkStore, Fetched};
pub use frame::{FrameFault, Level, MAX_FRAME, Sealer, open_frame, seal_frame};
pub use manifest::{Manifest, Piece};
pub use manifests::{Kept, Manifests};
pub use objects::{Listed, Objects};
pub use place::{Place, PlaceError};
pub use published::Published;

/// Why the store cannot do it.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be used, or what the environment says about S3 is not enough, or wrong.
    #[error("cannot use {place} as an object store")]
    Setup {
        /// The store.
        place: String,
        /// Why.
        source: Box<object_store::Error>,
    },
    /// The object store failed.
    #[error("cannot {doing} {object} of {place}")]
    Objects {
        /// What was tried.
        doing: &'static str,
        /// With what.
        object: String,
        /// The store.
        place: String,
        /// Why.
        source: Box<object_store::Error>,
    },
    /// The chunk is not what it should be.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// No such chunk is here.
    #[error("chunk {0} is not in the chunk store")]
    Absent(Digest),
    /// What was kept is no longer what the name says.
    #[error("chunk {0} was damaged at rest and is set aside: send its source again")]
    Damaged(Digest),
    /// The chunk is whole, but the manifest was made for another frame or size of it.
    #[error("chunk {digest} has {actual} bytes, and {expected} in a manifest")]
    OtherSize {
        /// Which.
        digest: Digest,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes as they are.
        actual: u64,
    },
    /// The manifest is not what was written.
    #[error("manifest {0} was damaged at rest and is set aside")]
    DamagedManifest(String),
    /// The manifest is larger than the limit.
    #[error("a manifest of {0} bytes exceeds the limit of {max}", max = manifest::MAX_MANIFEST)]
    TooLarge(u64),
    /// Manifests and marks have names like store paths.
    #[error("{0:?} cannot name a manifest or mark")]
    Name(String),
    /// The file system failed.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which file or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A thread that worked on it is gone.
    #[error("the work was interrupted")]
    Interrupted,
}

impl StoreError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
