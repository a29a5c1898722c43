//! The tracked files as they are in the work tree: what Nix takes unless a commit is named.
//!
//! Nix reads the work tree even when it is clean, so contents are those after checkout filters.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Cursor};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::git::{Git, GitError};
use super::pack::{Content, Contents, PackError};
use super::tree::{self, Entry, EntryKind};

/// Reads files below a directory without following links.
#[derive(Debug)]
pub(super) struct WorkTree {
    root: PathBuf,
}

impl WorkTree {
    /// Below this directory.
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

/// The entries of the index that exist, as what they are now. Submodules are left out, as Nix does.
pub(super) fn tracked(git: &Git) -> Result<Vec<Entry>, GitError> {
    let mut directories = HashMap::new();
    let mut entries = tree::of_index(git)?;
    entries.retain_mut(|entry| {
        if entry.kind == EntryKind::EmptyDirectory || !in_plain_directory(git.root(), entry, &mut directories)
        {
            return false;
        }
        let found = git.root().join(entry.as_path()).symlink_metadata().ok();
        match found.and_then(|metadata| kind(&metadata)) {
            // An untracked directory in place of a tracked file: git calls the file deleted.
            None | Some(EntryKind::EmptyDirectory) => false,
            Some(kind) => {
                entry.kind = kind;
                true
            }
        }
    });
    Ok(entries)
}

/// What a directory entry is for a NAR; none for sockets, devices and the like.
pub(super) fn kind(metadata: &Metadata) -> Option<EntryKind> {
    const OWNER_MAY_EXECUTE: u32 = 0o100;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        Some(EntryKind::Symlink)
    } else if kind.is_dir() {
        Some(EntryKind::EmptyDirectory)
    } else if kind.is_file() && metadata.mode() & OWNER_MAY_EXECUTE != 0 {
        Some(EntryKind::Executable)
    } else {
        kind.is_file().then_some(EntryKind::Regular)
    }
}

/// Whether every directory above the entry is one, not a link to somewhere else.
fn in_plain_directory(root: &Path, entry: &Entry, known: &mut HashMap<PathBuf, bool>) -> bool {
    let parents = entry.as_path().ancestors().skip(1).filter(|path| !path.as_os_str().is_empty());
    for parent in parents {
        if let Some(plain) = known.get(parent) {
            if *plain {
                continue;
            }
            return false;
        }
        let plain = root.join(parent).symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        known.insert(parent.to_owned(), plain);
        if !plain {
            return false;
        }
    }
    true
}

impl Contents for WorkTree {
    fn open(&mut self, entry: &Entry) -> Result<Content<'_>, PackError> {
        let path = self.root.join(entry.as_path());
        let read = || -> io::Result<Content<'static>> {
            if entry.kind == EntryKind::Symlink {
                let target = path.read_link()?.as_os_str().as_bytes().to_vec();
                return Ok(Content { size: target.len() as u64, bytes: Box::new(Cursor::new(target)) });
            }
            let file = open_without_following(&path)?;
            Ok(Content { size: file.metadata()?.len(), bytes: Box::new(file) })
        };
        read().map_err(|source| PackError::read(entry, source))
    }
}

fn open_without_following(path: &Path) -> io::Result<File> {
    // Not blocking: a FIFO put there since the listing must not hang us.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}
