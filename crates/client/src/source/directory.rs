//! Every file of a directory, tracked or not: what Nix takes for a `path:` flake.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use fleet_nix::nar::MAX_DEPTH;

use super::pack::PackError;
use super::tree::{Entry, EntryKind};
use super::work_tree;

/// What a directory holds.
#[derive(Debug)]
pub(super) struct Listing {
    /// Sorted as a NAR is.
    pub entries: Vec<Entry>,
    /// The newest modification of anything in it, in seconds since 1970.
    pub modified: u64,
}

/// Lists a directory with everything below it.
pub(super) fn list(root: &Path) -> Result<Listing, PackError> {
    let failed = |path: &Path, source: io::Error| PackError::Read { path: path.to_owned(), source };
    let top = root.symlink_metadata().map_err(|source| failed(root, source))?;
    let mut listing = Listing { entries: Vec::new(), modified: seconds(top.mtime()) };
    let mut waiting: Vec<(Vec<u8>, usize)> = vec![(Vec::new(), 1)];
    while let Some((below, depth)) = waiting.pop() {
        let path = if below.is_empty() { root.to_owned() } else { root.join(bytes_path(&below)) };
        if depth >= MAX_DEPTH {
            return Err(PackError::TooDeep(path));
        }
        let mut children = 0_u64;
        for child in path.read_dir().map_err(|source| failed(&path, source))? {
            let child = child.map_err(|source| failed(&path, source))?;
            let metadata = child.metadata().map_err(|source| failed(&child.path(), source))?;
            let mut name = below.clone();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(child.file_name().as_bytes());
            children += 1;
            listing.modified = listing.modified.max(seconds(metadata.mtime()));
            match work_tree::kind(&metadata) {
                None => return Err(PackError::Unsupported(child.path())),
                Some(EntryKind::EmptyDirectory) => waiting.push((name, depth + 1)),
                Some(kind) => listing.entries.push(Entry { path: name, kind, object: String::new() }),
            }
        }
        if children == 0 && !below.is_empty() {
            let kind = EntryKind::EmptyDirectory;
            listing.entries.push(Entry { path: below, kind, object: String::new() });
        }
    }
    listing.entries.sort_by(|a, b| a.parts().cmp(b.parts()));
    Ok(listing)
}

fn bytes_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

fn seconds(mtime: i64) -> u64 {
    u64::try_from(mtime).unwrap_or(0)
}
