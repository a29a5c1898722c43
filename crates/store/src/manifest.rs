//! A manifest: which chunks make an archive, and what its keeper notes about it. Pure. Owns the form of the files,
//! which is checked as a whole when it is read. Does not know what a note says.

use bytes::{Buf, BufMut, Bytes};

use crate::chunk::Digest;

/// Largest manifest, bytes: an archive of about 200 GB.
pub const MAX_MANIFEST: u64 = 32 << 20;
const MAGIC: &[u8] = b"fleet-manifest-2\n";
const CHECKSUM: usize = 32;
const PIECE: usize = 32 + 4 + 4;

/// One chunk of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name.
    pub digest: Digest,
    /// Uncompressed bytes.
    pub size: u32,
    /// Bytes of its frame as it is kept; 0 while nobody has looked.
    pub frame: u32,
}

/// The ordered chunks of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Whatever its keeper wants to find with it.
    pub note: Bytes,
    /// In order.
    pub pieces: Vec<Piece>,
}

impl Manifest {
    /// Bytes of all frames in a row.
    pub fn frames_len(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.frame)).sum()
    }

    /// The file of this manifest, for the name that it is read by again.
    pub fn encode(&self, name: &str) -> Vec<u8> {
        let header = MAGIC.len() + 16 + name.len() + self.note.len();
        let mut out = Vec::with_capacity(header + self.pieces.len() * PIECE + CHECKSUM);
        out.put_slice(MAGIC);
        for text in [name.as_bytes(), &self.note] {
            out.put_u64_le(text.len() as u64);
            out.put_slice(text);
        }
        for piece in &self.pieces {
            out.put_slice(&piece.digest.0);
            out.put_u32_le(piece.size);
            out.put_u32_le(piece.frame);
        }
        let checksum = blake3::hash(&out);
        out.put_slice(checksum.as_bytes());
        out
    }

    /// Reads a file back: nothing, if it is not the whole file that was written for this name.
    pub fn decode(name: &str, bytes: &Bytes) -> Option<Self> {
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
        if blake3::hash(body) != *checksum {
            return None;
        }
        let (named, rest) = text(body.strip_prefix(MAGIC)?)?;
        let (note, pieces) = text(rest)?;
        if named != name.as_bytes() || !pieces.len().is_multiple_of(PIECE) {
            return None;
        }
        let piece = |mut bytes: &[u8]| {
            let digest = Digest::try_from(bytes.get(..32)?).ok()?;
            bytes.advance(32);
            Some(Piece { digest, size: bytes.try_get_u32_le().ok()?, frame: bytes.try_get_u32_le().ok()? })
        };
        let pieces = pieces.chunks_exact(PIECE).map(piece).collect::<Option<_>>()?;
        Some(Self { note: Bytes::copy_from_slice(note), pieces })
    }
}

/// A text with its length before it, and what follows.
fn text(mut bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(bytes.try_get_u64_le().ok()?).ok()?;
    bytes.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let piece = |text: &[u8]| Piece { digest: Digest::of(text), size: 7, frame: 16 };
        Manifest { note: Bytes::from_static(b"note"), pieces: vec![piece(b"a"), piece(b"b")] }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        for manifest in [Manifest::default(), manifest()] {
            assert_eq!(Manifest::decode("name", &manifest.encode("name").into()), Some(manifest));
        }
        assert_eq!(manifest().frames_len(), 32);
    }

    #[test]
    fn one_that_is_cut_or_changed_anywhere_or_of_another_name_is_none() {
        let whole = manifest().encode("name");
        let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
        let flipped = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        for bytes in cut.chain(flipped) {
            assert_eq!(Manifest::decode("name", &bytes.into()), None);
        }
        assert_eq!(Manifest::decode("other", &whole.into()), None);
    }

    #[test]
    fn lengths_that_a_forger_chose_are_no_lengths() {
        for length in [5, u64::MAX, u64::MAX - 8] {
            let mut bytes = MAGIC.to_vec();
            bytes.put_u64_le(length);
            bytes.put_slice(b"name");
            let checksum = blake3::hash(&bytes);
            bytes.put_slice(checksum.as_bytes());
            assert_eq!(Manifest::decode("name", &bytes.into()), None);
        }
    }
}
