//! Cutting a stream into chunks. Pure. Owns the parameters of the cut; changing any of them loses all deduplication
//! against older chunks, so a golden test pins them.

use std::fmt;
use std::io::Read;

use fastcdc::v2020::StreamCDC;
use thiserror::Error;

use crate::frame::FrameFault;

/// Largest chunk, uncompressed bytes.
pub const MAX_CHUNK: usize = 1 << 20;
const AVERAGE_CHUNK: usize = 256 << 10;
const MIN_CHUNK: usize = 64 << 10;

/// BLAKE3 of a chunk's uncompressed bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The name of these bytes.
    pub fn of(data: &[u8]) -> Self {
        Self(*blake3::hash(data).as_bytes())
    }

    /// Reads what [`Digest`] prints: 64 lowercase hexadecimal digits.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let lowercase = text.bytes().all(|byte| !byte.is_ascii_uppercase());
        blake3::Hash::from_hex(text).ok().filter(|_| lowercase).map(|hash| Self(*hash.as_bytes()))
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

impl RawChunk {
    /// These bytes with their name.
    pub fn new(data: Vec<u8>) -> Self {
        Self { digest: Digest::of(&data), data }
    }
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
    /// The frame is not one plain zstd frame of at most [`MAX_CHUNK`] bytes.
    #[error("chunk {digest} is not a valid frame")]
    BadFrame {
        /// Its claimed name.
        digest: Digest,
        /// What is wrong.
        source: FrameFault,
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

/// Cuts `reader` into content-defined chunks: FastCDC 2020, 64 KiB to 1 MiB, 256 KiB on average. Memory does not grow
/// with the stream.
pub fn cut(reader: impl Read) -> impl Iterator<Item = Result<RawChunk, ChunkError>> {
    StreamCDC::new(reader, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK)
        .map(|piece| Ok(RawChunk::new(piece.map_err(ChunkError::Read)?.data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

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
    fn a_digest_is_read_as_it_is_printed() {
        let digest = Digest::of(b"content");
        let text = digest.to_string();
        assert_eq!(Digest::from_hex(&text), Some(digest));
        for other in ["", &text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replace('a', "g")] {
            assert_eq!(Digest::from_hex(other), None, "{other}");
        }
    }
}
