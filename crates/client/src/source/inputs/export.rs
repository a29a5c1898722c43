//! What `.gitattributes` keeps out of exports, for inputs that are locked with `exportIgnore`.

use std::collections::BTreeSet;

use crate::source::git::{Git, GitError};
use crate::source::tree::{Entry, EntryKind};

/// The entries that are exported. A directory of which nothing is left stays as an empty one, as Nix has it.
pub(super) fn exported(git: &Git, rev: &str, entries: &[Entry]) -> Result<Vec<Entry>, GitError> {
    let mut paths: BTreeSet<&[u8]> = BTreeSet::new();
    for entry in entries {
        paths.extend(parents(&entry.path));
        paths.insert(&entry.path);
    }
    let ignored = ignored(git, rev, &paths)?;
    let is_kept =
        |path: &[u8]| !ignored.contains(path) && !parents(path).any(|parent| ignored.contains(parent));
    let directories: BTreeSet<Vec<u8>> = entries
        .iter()
        .flat_map(|entry| parents(&entry.path))
        .filter(|path| is_kept(path))
        .map(<[u8]>::to_vec)
        .collect();
    let mut kept: Vec<Entry> = entries.iter().filter(|entry| is_kept(&entry.path)).cloned().collect();
    let mut filled: BTreeSet<Vec<u8>> = BTreeSet::new();
    for path in kept.iter().map(|entry| &entry.path).chain(&directories) {
        filled.extend(parents(path).map(<[u8]>::to_vec));
    }
    let kind = EntryKind::EmptyDirectory;
    kept.extend(directories.difference(&filled).map(|path| Entry {
        path: path.clone(),
        kind,
        object: String::new(),
    }));
    kept.sort_by(|a, b| a.parts().cmp(b.parts()));
    Ok(kept)
}

/// Every directory above a path, without the top.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

fn ignored(git: &Git, rev: &str, paths: &BTreeSet<&[u8]>) -> Result<BTreeSet<Vec<u8>>, GitError> {
    let mut asked = Vec::new();
    for path in paths {
        asked.extend_from_slice(path);
        asked.push(0);
    }
    let source = format!("--source={rev}");
    let answer = git.run_with(["check-attr", "-z", "--stdin", &source, "export-ignore"], asked)?;
    let mut fields = answer.split(|&byte| byte == 0);
    let mut ignored = BTreeSet::new();
    // Each answer: path, attribute, value.
    while let (Some(path), Some(_), Some(value)) = (fields.next(), fields.next(), fields.next()) {
        if value == b"set" {
            ignored.insert(path.to_vec());
        }
    }
    Ok(ignored)
}
