//! The content of a source tree as a sorted list, before any file of it is read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::git::{Git, GitError};

/// One leaf of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// From the top, `/` between its parts, none of them `.`, `..` or empty.
    pub path: Vec<u8>,
    /// What is there.
    pub kind: EntryKind,
    /// Git's name of its content; empty where there is none.
    pub object: String,
}

/// What a leaf of a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A file.
    Regular,
    /// A file with its executable bit set.
    Executable,
    /// A symbolic link.
    Symlink,
    /// A directory with nothing in it, as a submodule is for Nix.
    EmptyDirectory,
}

impl Entry {
    /// The path for the file system.
    pub(super) fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// Whether it is a directory with nothing in it.
    pub(super) fn is_directory(&self) -> bool {
        self.kind == EntryKind::EmptyDirectory
    }

    /// The parts of the path.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.path.split(|&byte| byte == b'/')
    }
}

/// Everything of a commit's tree.
pub(super) fn of_commit(git: &Git, rev: &str) -> Result<Vec<Entry>, GitError> {
    let listing = git.run(["ls-tree", "-r", "-z", "--full-tree", rev])?;
    // Each record: mode SP type SP object TAB path.
    records(git, "ls-tree", &listing, 2)
}

/// Everything in the index, whether or not it is still in the work tree.
pub(super) fn of_index(git: &Git) -> Result<Vec<Entry>, GitError> {
    let listing = git.run(["ls-files", "--cached", "--stage", "-z"])?;
    // Each record: mode SP object SP stage TAB path; a conflict has up to three stages.
    records(git, "ls-files", &listing, 1)
}

fn records(git: &Git, action: &str, listing: &[u8], object: usize) -> Result<Vec<Entry>, GitError> {
    let mut entries = Vec::new();
    for record in listing.split(|&byte| byte == 0).filter(|record| !record.is_empty()) {
        entries.push(entry(record, object).ok_or_else(|| git.unexpected(action))?);
    }
    entries.sort_by(|a, b| a.parts().cmp(b.parts()));
    entries.dedup_by(|a, b| a.path == b.path);
    Ok(entries)
}

fn entry(record: &[u8], object: usize) -> Option<Entry> {
    let tab = record.iter().position(|&byte| byte == b'\t')?;
    let (fields, path) = (std::str::from_utf8(&record[..tab]).ok()?, &record[tab + 1..]);
    let kind = match fields.split(' ').next()? {
        "100644" | "100664" => EntryKind::Regular,
        "100755" => EntryKind::Executable,
        "120000" => EntryKind::Symlink,
        "160000" => EntryKind::EmptyDirectory,
        _ => return None,
    };
    let object = fields.split(' ').nth(object)?;
    let entry = Entry { path: path.to_owned(), kind, object: object.to_owned() };
    let sound = entry.parts().all(|part| !matches!(part, b"" | b"." | b".."));
    (sound && object.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git() -> Git {
        Git::new(Path::new("/repository"))
    }

    #[test]
    fn a_listing_is_sorted_part_by_part() {
        let listing = b"100644 aa 0\ta.b\x00100755 bb 0\ta/x\x00120000 cc 0\ta-c\x00160000 dd 0\tsub\x00";
        let entries = records(&git(), "ls-files", listing, 1).expect("entries");
        let paths: Vec<_> = entries.iter().map(|entry| entry.as_path().display().to_string()).collect();
        assert_eq!(paths, ["a/x", "a-c", "a.b", "sub"]);
        assert_eq!(entries[0].kind, EntryKind::Executable);
        assert_eq!(entries[3].kind, EntryKind::EmptyDirectory);
    }

    #[test]
    fn a_conflicted_file_is_listed_once() {
        let listing = b"100644 aa 1\tx\x00100644 bb 2\tx\x00100644 cc 3\tx\x00";
        assert_eq!(records(&git(), "ls-files", listing, 1).expect("entries").len(), 1);
    }

    #[test]
    fn a_listing_that_leaves_the_tree_is_refused() {
        for listing in
            [&b"100644 aa 0\t../x\0"[..], b"100644 aa 0\ta//b\0", b"100644 aa 0 x\0", b"040000 aa 0\tx\0"]
        {
            assert!(records(&git(), "ls-files", listing, 1).is_err());
        }
    }
}
