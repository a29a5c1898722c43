//! A store of a test's own, and the files below it.

use std::fs;
use std::path::{Path, PathBuf};

use fleet_store::{Digest, Objects, Piece, Place, RawChunk, cut, seal_frame};
use fleet_testkit::S3Server;
use tempfile::TempDir;

/// A store, empty at first.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) objects: Objects,
    files: PathBuf,
    _server: Option<S3Server>,
    _directory: Option<TempDir>,
}

impl Store {
    pub(crate) fn in_a_directory() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let files = directory.path().join("objects");
        let objects = Objects::open(&Place::Directory(files.clone())).expect("opens");
        Self { objects, files, _server: None, _directory: Some(directory) }
    }

    pub(crate) fn in_s3() -> Self {
        let server = S3Server::start();
        let place = server.place("a/prefix").parse().expect("a place");
        let objects = Objects::open_with(&place, server.environment()).expect("opens");
        Self { objects, files: server.bucket().join("a/prefix"), _server: Some(server), _directory: None }
    }

    /// The file of an object, where it is or will be.
    pub(crate) fn file(&self, shelves: &str, name: &str) -> PathBuf {
        self.files.join(shelves).join(&name[..2]).join(name.replace('?', "%3F"))
    }

    pub(crate) fn chunk_file(&self, digest: Digest) -> PathBuf {
        self.file("chunks", &digest.to_string())
    }

    /// Names of all objects below a directory of the store.
    pub(crate) fn names(&self, below: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut directories = vec![self.files.join(below)];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = fs::read_dir(directory) else { continue };
            for entry in entries {
                let path = entry.expect("lists").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    names.push(path.file_name().expect("a name").to_string_lossy().into_owned());
                }
            }
        }
        names
    }

    pub(crate) async fn put(&self, data: &[u8]) -> Digest {
        let chunk = RawChunk::new(data.to_vec());
        let frame = seal_frame(&chunk).expect("compresses");
        self.objects.chunks().put(chunk.digest, frame).await.expect("stores");
        chunk.digest
    }

    /// Puts an archive, and answers its pieces.
    pub(crate) async fn put_archive(&self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for chunk in cut(bytes) {
            let chunk = chunk.expect("in memory");
            let frame = seal_frame(&chunk).expect("compresses");
            let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("small");
            pieces.push(Piece { digest: chunk.digest, size: length(&chunk.data), frame: length(&frame) });
            self.objects.chunks().put(chunk.digest, frame).await.expect("stores");
        }
        pieces
    }
}

/// Writes a file in the place of what was there, as the disk would when it fails.
pub(crate) fn overwrite(file: &Path, bytes: &[u8]) {
    fs::create_dir_all(file.parent().expect("a shelf")).expect("creates");
    fs::write(file, bytes).expect("writes");
}

/// Bytes without a pattern.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
