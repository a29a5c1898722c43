//! Where archives of this machine's paths were cut, kept on disk: such a path is handed out again without looking for
//! the cuts, and its chunks need not be fetched for another version of it. Owns its directory. A cache: what is damaged
//! or not there is cut again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::{Buf, BufMut};
use fleet_nix::store_path::StorePath;
use fleet_store::{Digest, MAX_CHUNK};

const MAGIC: &[u8] = b"fleet-cut-1\n";
const CHECKSUM: usize = 32;
const PIECE: usize = 32 + 4;
/// Paths that are remembered, and the bytes of what is remembered of them. Beyond it an eighth is forgotten, what was
/// not used for longest first.
const MAX_PATHS: usize = 8192;
const MAX_BYTES: u64 = 128 << 20;
/// What is remembered of one path: an archive of some 25 GB.
const MAX_PIECES: usize = 100_000;
/// A smaller archive is cut as soon as it is read.
const MIN_PIECES: usize = 3;
/// Other versions that are looked at for one path.
const MAX_KIN: usize = 2;

/// One chunk of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its name.
    pub(crate) digest: Digest,
    /// Uncompressed bytes.
    pub(crate) size: u32,
}

/// All chunks of an archive, in order.
pub(crate) type Pieces = Arc<[Piece]>;

/// The cache. Every call but [`ManifestCache::open`] may be made from async code; files are read on other threads.
#[derive(Debug)]
pub struct ManifestCache {
    directory: PathBuf,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    entries: HashMap<StorePath, Entry>,
    /// Paths by their names without versions, the newest last.
    kin: HashMap<String, Vec<StorePath>>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    used: u64,
}

impl ManifestCache {
    /// The cache in this directory, which is made. Blocks.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let path = entry.file_name().to_str().and_then(|name| name.parse::<StorePath>().ok());
            match path {
                Some(path) => {
                    let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((used, path, metadata.len()));
                }
                // What a crash left half.
                None => fs::remove_file(entry.path())?,
            }
        }
        found.sort_by_key(|(used, _, _)| *used);
        let mut index = Index::default();
        for (_, path, bytes) in found {
            index.add(path, bytes);
        }
        let cache = Self { directory: directory.to_owned(), index: Mutex::new(index) };
        let forgotten = cache.lock().shrink();
        cache.remove(&forgotten);
        Ok(cache)
    }

    /// Where this path's archive was cut.
    pub(crate) async fn get(self: &Arc<Self>, path: &StorePath) -> Option<Pieces> {
        if !self.lock().touch(path) {
            return None;
        }
        let (cache, path) = (self.clone(), path.clone());
        tokio::task::spawn_blocking(move || cache.read(&path)).await.ok()?
    }

    /// Remembers where it was cut.
    pub(crate) async fn put(self: &Arc<Self>, path: &StorePath, pieces: Vec<Piece>) {
        if pieces.len() < MIN_PIECES || pieces.len() > MAX_PIECES || self.lock().entries.contains_key(path) {
            return;
        }
        let (cache, path) = (self.clone(), path.clone());
        let written = tokio::task::spawn_blocking(move || {
            if let Err(error) = cache.write(&path, &pieces) {
                tracing::debug!(%error, "where a path was cut cannot be kept");
            }
        });
        // Nobody depends on it.
        drop(written.await);
    }

    /// Other versions of this path that are remembered, the newest first.
    pub(crate) fn kin(&self, path: &StorePath) -> Vec<StorePath> {
        let index = self.lock();
        let kin = index.kin.get(&stem(path.name())).into_iter().flatten().rev();
        kin.filter(|other| *other != path).take(MAX_KIN).cloned().collect()
    }

    /// This path is not what it was.
    pub(crate) fn forget(&self, path: &StorePath) {
        if self.lock().take_out(path) {
            self.remove(std::slice::from_ref(path));
        }
    }

    fn read(&self, path: &StorePath) -> Option<Pieces> {
        let place = self.directory.join(path.to_string());
        let read = || -> io::Result<Vec<u8>> {
            let file = File::open(&place)?;
            // The file's time says when it was used last.
            let _ = file.set_modified(SystemTime::now());
            let mut bytes = Vec::new();
            file.take((MAGIC.len() + MAX_PIECES * PIECE + CHECKSUM) as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let pieces = read().ok().and_then(|bytes| decode(&bytes));
        if pieces.is_none() {
            tracing::debug!(%path, "where this path was cut has been lost");
            self.forget(path);
        }
        pieces
    }

    fn write(&self, path: &StorePath, pieces: &[Piece]) -> io::Result<()> {
        let bytes = encode(pieces);
        // Not durable: a file that a crash damaged is noticed by its checksum.
        let unnamed = tempfile::NamedTempFile::new_in(&self.directory)?;
        fs::write(unnamed.path(), &bytes)?;
        unnamed.persist(self.directory.join(path.to_string()))?;
        let mut index = self.lock();
        index.add(path.clone(), bytes.len() as u64);
        let forgotten = index.shrink();
        drop(index);
        self.remove(&forgotten);
        Ok(())
    }

    fn remove(&self, paths: &[StorePath]) {
        for path in paths {
            if let Err(error) = fs::remove_file(self.directory.join(path.to_string()))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(%error, %path, "a forgotten file cannot be removed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn add(&mut self, path: StorePath, bytes: u64) {
        self.take_out(&path);
        self.clock += 1;
        self.bytes += bytes;
        self.kin.entry(stem(path.name())).or_default().push(path.clone());
        self.entries.insert(path, Entry { bytes, used: self.clock });
    }

    fn touch(&mut self, path: &StorePath) -> bool {
        self.clock += 1;
        let clock = self.clock;
        self.entries.get_mut(path).map(|entry| entry.used = clock).is_some()
    }

    fn take_out(&mut self, path: &StorePath) -> bool {
        let Some(entry) = self.entries.remove(path) else { return false };
        self.bytes -= entry.bytes;
        let stem = stem(path.name());
        if let Some(kin) = self.kin.get_mut(&stem) {
            kin.retain(|other| other != path);
            if kin.is_empty() {
                self.kin.remove(&stem);
            }
        }
        true
    }

    /// What is forgotten for want of room.
    fn shrink(&mut self) -> Vec<StorePath> {
        let is_over = self.entries.len() > MAX_PATHS || self.bytes > MAX_BYTES;
        if !is_over {
            return Vec::new();
        }
        let mut by_use: Vec<_> =
            self.entries.iter().map(|(path, entry)| (entry.used, path.clone())).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        let mut forgotten = Vec::new();
        for (_, path) in by_use {
            if self.entries.len() <= MAX_PATHS / 8 * 7 && self.bytes <= MAX_BYTES / 8 * 7 {
                break;
            }
            self.take_out(&path);
            forgotten.push(path);
        }
        forgotten
    }
}

/// A name without what looks like a version: the same for other versions of one package's output.
pub(crate) fn stem(name: &str) -> String {
    let is_version = |part: &str| part.starts_with(|first: char| first.is_ascii_digit());
    let mut parts = name.split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.filter(|part| !is_version(part)).fold(first, |stem, part| format!("{stem}-{part}"))
}

fn encode(pieces: &[Piece]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAGIC.len() + pieces.len() * PIECE + CHECKSUM);
    out.put_slice(MAGIC);
    for piece in pieces {
        out.put_slice(&piece.digest.0);
        out.put_u32_le(piece.size);
    }
    let checksum = blake3::hash(&out);
    out.put_slice(checksum.as_bytes());
    out
}

fn decode(bytes: &[u8]) -> Option<Pieces> {
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM>()?;
    let pieces = body.strip_prefix(MAGIC).filter(|_| blake3::hash(body) == *checksum)?;
    if !pieces.len().is_multiple_of(PIECE) {
        return None;
    }
    let piece = |mut bytes: &[u8]| {
        let digest = Digest::try_from(bytes.get(..32)?).ok()?;
        bytes.advance(32);
        let size = bytes.try_get_u32_le().ok()?;
        (size as usize <= MAX_CHUNK).then_some(Piece { digest, size })
    };
    pieces.chunks_exact(PIECE).map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u32, name: &str) -> StorePath {
        format!("{number:0>32}-{name}").parse().expect("a store path")
    }

    fn pieces(count: usize) -> Vec<Piece> {
        (0..count).map(|n| Piece { digest: Digest::of(&n.to_le_bytes()), size: 7 }).collect()
    }

    #[test]
    fn versions_of_one_package_are_kin() {
        for (name, expected) in [
            ("firefox-131.0.2", "firefox"),
            ("linux-6.6.54-modules", "linux-modules"),
            ("gtk+3-3.24", "gtk+3"),
            ("source", "source"),
            ("0ad-data", "0ad-data"),
            ("python3.12-numpy-1.26.4", "python3.12-numpy"),
        ] {
            assert_eq!(stem(name), expected);
        }
    }

    #[tokio::test]
    async fn what_was_cut_is_known_after_a_restart_and_damage_is_noticed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (old, new) = (path(1, "firefox-1"), path(2, "firefox-2"));
        let cache = Arc::new(ManifestCache::open(directory.path()).expect("opens"));
        cache.put(&old, pieces(5)).await;
        cache.put(&path(3, "tiny"), pieces(2)).await;
        fs::write(directory.path().join("half"), "written").expect("writes");
        let cache = Arc::new(ManifestCache::open(directory.path()).expect("opens again"));
        assert_eq!(cache.get(&old).await.expect("known")[..], pieces(5)[..]);
        assert_eq!((cache.kin(&new), cache.kin(&old)), (vec![old.clone()], vec![]));
        assert!(cache.get(&new).await.is_none() && cache.get(&path(3, "tiny")).await.is_none());
        assert_eq!(fs::read_dir(directory.path()).expect("lists").count(), 1);
        let place = directory.path().join(old.to_string());
        let mut bytes = fs::read(&place).expect("reads");
        bytes[20] ^= 1;
        fs::write(&place, bytes).expect("writes");
        assert!(cache.get(&old).await.is_none());
        assert!(cache.kin(&new).is_empty() && !place.exists());
    }

    #[test]
    fn what_was_used_last_stays_when_room_is_needed() {
        let mut index = Index::default();
        let name = |number: u32| format!("x{}", number / 64);
        for number in 0..=u32::try_from(MAX_PATHS).expect("small") {
            index.add(path(number, &name(number)), 10);
            index.touch(&path(0, &name(0)));
        }
        let forgotten = index.shrink();
        assert_eq!(index.entries.len(), MAX_PATHS / 8 * 7);
        assert!(forgotten.contains(&path(1, &name(1))) && index.entries.contains_key(&path(0, &name(0))));
        assert_eq!(index.bytes, 10 * index.entries.len() as u64);
        assert_eq!(index.kin["x0"], [path(0, &name(0))]);
        index.add(path(99_999, "big"), 2 * MAX_BYTES);
        assert!(index.shrink().contains(&path(99_999, "big")));
        assert!(index.bytes <= MAX_BYTES);
    }
}
