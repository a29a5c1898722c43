//! The chunk store: content-defined pieces of archives, named by BLAKE3, over any object store.
//!
//! [`chunk`] cuts and frames bytes (pure), [`chunk_store`] keeps frames. A chunk is whole or absent: a frame
//! is checked against its name before it is written, and again when it is opened.

pub mod chunk;
pub mod chunk_store;

pub use chunk::{ChunkError, Digest, MAX_CHUNK, RawChunk, cut, open_frame, seal_frame};
pub use chunk_store::{ChunkStore, StoreError};
