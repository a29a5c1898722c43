//! Manifests: which chunks make an archive, and what their keeper notes about it. Owns the layout
//! (`manifests/ab/abcdef…`) and the form of the files; writes each once, whole, and only after its chunks
//! are on the disk. Does not know what a note says.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, BufMut, Bytes};
use thiserror::Error;

use crate::chunk::Digest;

const MAGIC: &[u8] = b"fleet-manifest-1\n";
/// Largest manifest, bytes: an archive of about 200 GB.
const MAX_MANIFEST: u64 = 32 << 20;
const CHECKSUM: usize = 32;
const PIECE: usize = 32 + 4;
/// Where manifests are written before they get their names.
const UNNAMED: &str = "new";
/// Where damaged ones are kept for people to look at.
const DAMAGED: &str = "damaged";

/// One chunk of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its name.
    pub digest: Digest,
    /// Uncompressed bytes.
    pub size: u32,
}

/// The ordered chunks of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Whatever its keeper wants to find with it.
    pub note: Bytes,
    /// In order.
    pub pieces: Vec<Piece>,
}

/// What became of a manifest that was to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is on the disk now.
    Now,
    /// There was one of this name, which stays.
    Before(Manifest),
}

/// Why manifests cannot be kept or read.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// The file system failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("manifest {0} was damaged on disk and is set aside")]
    Damaged(String),
    /// The manifest is larger than the limit.
    #[error("a manifest of {0} bytes exceeds the limit of {MAX_MANIFEST}")]
    TooLarge(u64),
    /// Names are plain file names.
    #[error("{0:?} cannot name a manifest")]
    Name(String),
}

impl ManifestError {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        crate::is_full(self)
    }
}

/// Manifests by name, in a local directory. Every call blocks.
#[derive(Debug)]
pub struct Manifests {
    directory: PathBuf,
    next: AtomicU64,
}

impl Manifests {
    /// Those in `directory`, which is created; what a crash left half is removed.
    pub fn open(directory: &Path) -> Result<Self, ManifestError> {
        let unnamed = directory.join(UNNAMED);
        match fs::remove_dir_all(&unnamed) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &unnamed)(error));
            }
            _ => {}
        }
        for made in [unnamed, directory.join(DAMAGED)] {
            fs::create_dir_all(&made).map_err(failed("create", &made))?;
        }
        Ok(Self { directory: directory.to_owned(), next: AtomicU64::new(0) })
    }

    /// Whether there is one of this name. It may turn out to be damaged when it is read.
    pub fn has(&self, name: &str) -> Result<bool, ManifestError> {
        let path = self.place(name)?;
        path.try_exists().map_err(failed("look for", &path))
    }

    /// Reads one; a damaged one is set aside, so that it can be kept again.
    pub fn read(&self, name: &str) -> Result<Option<Manifest>, ManifestError> {
        let path = self.place(name)?;
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_MANIFEST + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
            Ok(_) => {}
        }
        if let Some(manifest) = decode(&bytes) {
            return Ok(Some(manifest));
        }
        self.forget(name)?;
        Err(ManifestError::Damaged(name.to_owned()))
    }

    /// Keeps a manifest whose chunks are on the disk already; durable when this returns. Of two with one name
    /// the first stays.
    pub fn keep(&self, name: &str, manifest: &Manifest) -> Result<Kept, ManifestError> {
        let bytes = encode(manifest);
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLarge(bytes.len() as u64));
        }
        let path = self.place(name)?;
        let parent = path.parent().unwrap_or(&self.directory);
        let unnamed =
            self.directory.join(UNNAMED).join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let written = write_durably(&unnamed, &bytes).and_then(|()| {
            let is_new = !parent.exists();
            fs::create_dir_all(parent).map_err(failed("create", parent))?;
            if is_new {
                sync(&self.directory)?;
            }
            match fs::hard_link(&unnamed, &path) {
                Ok(()) => sync(parent).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(failed("write", &path)(error)),
            }
        });
        // Nothing looks there but the next start, which clears it.
        let _ = fs::remove_file(&unnamed);
        if written? {
            return Ok(Kept::Now);
        }
        match self.read(name)? {
            // Whoever wrote it may not be done.
            Some(earlier) => sync(parent).map(|()| Kept::Before(earlier)),
            None => Err(ManifestError::Damaged(name.to_owned())),
        }
    }

    /// Sets one aside, so that it can be kept again.
    pub fn forget(&self, name: &str) -> Result<(), ManifestError> {
        let path = self.place(name)?;
        match fs::rename(&path, self.directory.join(DAMAGED).join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("set aside", &path)(error)),
            _ => Ok(()),
        }
    }

    fn place(&self, name: &str) -> Result<PathBuf, ManifestError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
        let prefix = name.get(..2).filter(|prefix| prefix.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        match prefix {
            Some(prefix) if name.len() > 2 && name.len() <= 255 && name.bytes().all(plain) => {
                Ok(self.directory.join(prefix).join(name))
            }
            _ => Err(ManifestError::Name(name.chars().take(80).collect())),
        }
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), ManifestError> {
    let mut file = File::create(path).map_err(failed("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

fn sync(directory: &Path) -> Result<(), ManifestError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(failed("write", directory))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ManifestError {
    let path = path.to_owned();
    move |source| ManifestError::Io { doing, path, source }
}

fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(MAGIC.len() + 8 + manifest.note.len() + manifest.pieces.len() * PIECE + CHECKSUM);
    out.put_slice(MAGIC);
    out.put_u64_le(manifest.note.len() as u64);
    out.put_slice(&manifest.note);
    for piece in &manifest.pieces {
        out.put_slice(&piece.digest.0);
        out.put_u32_le(piece.size);
    }
    let checksum = blake3::hash(&out);
    out.put_slice(checksum.as_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Manifest> {
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
    if blake3::hash(body) != *checksum {
        return None;
    }
    let mut rest = body.strip_prefix(MAGIC)?;
    let note_len = usize::try_from(rest.try_get_u64_le().ok()?).ok()?;
    let (note, pieces) = rest.split_at_checked(note_len)?;
    if !pieces.len().is_multiple_of(PIECE) {
        return None;
    }
    let piece = |mut bytes: &[u8]| {
        let digest = Digest::try_from(bytes.get(..32)?).ok()?;
        bytes.advance(32);
        Some(Piece { digest, size: bytes.try_get_u32_le().ok()? })
    };
    let pieces = pieces.chunks_exact(PIECE).map(piece).collect::<Option<_>>()?;
    Some(Manifest { note: Bytes::copy_from_slice(note), pieces })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "00000000000000000000000000000000-x";

    fn manifest(text: &str) -> Manifest {
        let piece = |text: &[u8]| Piece { digest: Digest::of(text), size: 7 };
        Manifest { note: Bytes::copy_from_slice(text.as_bytes()), pieces: vec![piece(b"a"), piece(b"b")] }
    }

    #[test]
    fn the_first_of_a_name_stays() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let manifests = Manifests::open(directory.path()).expect("opens");
        assert_eq!(manifests.read(NAME).expect("reads"), None);
        assert_eq!(manifests.keep(NAME, &manifest("one")).expect("keeps"), Kept::Now);
        let before = Kept::Before(manifest("one"));
        assert_eq!(manifests.keep(NAME, &manifest("two")).expect("keeps"), before);
        let again = Manifests::open(directory.path()).expect("opens again");
        assert!(again.has(NAME).expect("looks"));
        assert_eq!(again.read(NAME).expect("reads"), Some(manifest("one")));
        assert_eq!(fs::read_dir(directory.path().join(UNNAMED)).expect("lists").count(), 0);
    }

    #[test]
    fn a_manifest_cut_or_changed_anywhere_is_set_aside_and_can_be_kept_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let manifests = Manifests::open(directory.path()).expect("opens");
        let whole = encode(&manifest("one"));
        let place = manifests.place(NAME).expect("a place");
        fs::create_dir_all(place.parent().expect("a shelf")).expect("creates");
        let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
        let flipped = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        for bytes in cut.chain(flipped) {
            fs::write(&place, &bytes).expect("writes");
            assert!(matches!(manifests.read(NAME), Err(ManifestError::Damaged(_))));
            assert!(!manifests.has(NAME).expect("looks"));
        }
        assert_eq!(manifests.keep(NAME, &manifest("one")).expect("keeps"), Kept::Now);
    }

    #[test]
    fn names_never_leave_the_directory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let manifests = Manifests::open(directory.path()).expect("opens");
        for name in ["", "..", "../x", "a/../../x", "/etc/passwd", "ab\0", "ab/x", "ne", &"a".repeat(256)] {
            assert!(matches!(manifests.has(name), Err(ManifestError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn what_is_forgotten_can_be_kept_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let manifests = Manifests::open(directory.path()).expect("opens");
        manifests.forget(NAME).expect("there is none");
        manifests.keep(NAME, &manifest("one")).expect("keeps");
        manifests.forget(NAME).expect("forgets");
        assert!(!manifests.has(NAME).expect("looks"));
        assert_eq!(manifests.keep(NAME, &manifest("two")).expect("keeps"), Kept::Now);
    }
}
