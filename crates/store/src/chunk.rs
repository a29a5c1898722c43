//! Cutting a stream into chunks, and the frames they travel and rest in. Owns the parameters of the cut;
//! changing any of them loses all deduplication against older chunks, so a golden test pins them.

use std::fmt;
use std::io::{self, Read};

use bytes::Bytes;
use fastcdc::v2020::StreamCDC;
use thiserror::Error;

/// Largest chunk, uncompressed bytes.
pub const MAX_CHUNK: usize = 1 << 20;
const AVERAGE_CHUNK: usize = 256 << 10;
const MIN_CHUNK: usize = 64 << 10;
const LEVEL: i32 = 3;

/// BLAKE3 of a chunk's uncompressed bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The name of these bytes.
    pub fn of(data: &[u8]) -> Self {
        Self(*blake3::hash(data).as_bytes())
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = ChunkError;

    fn try_from(bytes: &[u8]) -> Result<Self, ChunkError> {
        bytes.try_into().map(Self).map_err(|_| ChunkError::NotADigest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A piece of a stream, uncompressed.
#[derive(Clone, Debug)]
pub struct RawChunk {
    /// Its name.
    pub digest: Digest,
    /// At most [`MAX_CHUNK`] bytes.
    pub data: Vec<u8>,
}

/// Why a chunk cannot be made or opened.
#[derive(Debug, Error)]
pub enum ChunkError {
    /// Reading the stream failed.
    #[error("cannot read what is to be chunked")]
    Read(#[source] fastcdc::v2020::Error),
    /// Names are 32 bytes.
    #[error("a digest has 32 bytes")]
    NotADigest,
    /// The frame is not one zstd frame of at most [`MAX_CHUNK`] bytes.
    #[error("chunk {digest} is not a valid frame")]
    BadFrame {
        /// Its claimed name.
        digest: Digest,
        /// What zstd says.
        source: std::io::Error,
    },
    /// The content is not what the name says.
    #[error("chunk {expected} holds other content, {actual}")]
    Mismatch {
        /// Its claimed name.
        expected: Digest,
        /// The name of what is in it.
        actual: Digest,
    },
}

/// Cuts `reader` into content-defined chunks: FastCDC 2020, 64 KiB to 1 MiB, 256 KiB on average.
pub fn cut(reader: impl Read) -> impl Iterator<Item = Result<RawChunk, ChunkError>> {
    StreamCDC::new(reader, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK).map(|piece| {
        let data = piece.map_err(ChunkError::Read)?.data;
        Ok(RawChunk { digest: Digest::of(&data), data })
    })
}

/// The frame of a chunk: its bytes as one zstd frame.
pub fn seal_frame(chunk: &RawChunk) -> Result<Bytes, ChunkError> {
    zstd::bulk::compress(&chunk.data, LEVEL)
        .map(Bytes::from)
        .map_err(|source| ChunkError::BadFrame { digest: chunk.digest, source })
}

/// The bytes of a frame, checked against its name. Never allocates more than [`MAX_CHUNK`].
pub fn open_frame(digest: Digest, frame: &[u8]) -> Result<Vec<u8>, ChunkError> {
    let bad_frame = |source| ChunkError::BadFrame { digest, source };
    // The library would go on with whatever follows, and skip what it does not know.
    if zstd::zstd_safe::find_frame_compressed_size(frame).is_ok_and(|length| length != frame.len()) {
        return Err(bad_frame(io::Error::new(io::ErrorKind::InvalidData, "something follows the frame")));
    }
    let data = zstd::bulk::decompress(frame, MAX_CHUNK).map_err(bad_frame)?;
    let actual = Digest::of(&data);
    if actual == digest { Ok(data) } else { Err(ChunkError::Mismatch { expected: digest, actual }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn cut_points_stay_where_they_are() {
        let sizes: Vec<usize> = cut(&noise(3 << 20)[..]).map(|c| c.expect("reads").data.len()).collect();
        assert_eq!(sizes.iter().sum::<usize>(), 3 << 20);
        assert_eq!(sizes, GOLDEN);
    }

    const GOLDEN: &[usize] =
        &[272_051, 227_471, 167_298, 376_860, 485_171, 500_350, 403_813, 454_116, 258_598];

    #[test]
    fn one_inserted_byte_changes_few_chunks() {
        let before = noise(8 << 20);
        let mut after = before.clone();
        after.insert(4 << 20, 7);
        let names = |data: &[u8]| -> std::collections::BTreeSet<Digest> {
            cut(data).map(|c| c.expect("reads").digest).collect()
        };
        let (before, after) = (names(&before), names(&after));
        assert!(after.difference(&before).count() <= 2);
    }

    #[test]
    fn a_frame_opens_only_under_its_own_name() {
        let chunk = RawChunk { digest: Digest::of(b"content"), data: b"content".to_vec() };
        let frame = seal_frame(&chunk).expect("compresses");
        assert_eq!(open_frame(chunk.digest, &frame).expect("opens"), b"content");
        let other = Digest::of(b"other");
        assert!(matches!(open_frame(other, &frame), Err(ChunkError::Mismatch { .. })));
        assert!(matches!(open_frame(chunk.digest, &frame[..5]), Err(ChunkError::BadFrame { .. })));
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("compresses");
        assert!(matches!(open_frame(Digest([0; 32]), &bomb), Err(ChunkError::BadFrame { .. })));
    }
}
