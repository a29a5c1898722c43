//! Where the bytes of a path's archive are in its files, so that some can be read without packing the rest.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Files of a path that is looked at; what has more is not.
const MAX_FILES: usize = 200_000;
/// Nesting that is followed.
const MAX_DEPTH: usize = 256;

/// An archive as a row of what stands between files, and files.
#[derive(Debug)]
pub(super) struct Layout {
    /// Each with the position of its end in the archive.
    segments: Vec<(u64, Segment)>,
}

#[derive(Debug)]
enum Segment {
    Between(Vec<u8>),
    File(PathBuf),
}

impl Layout {
    /// Of the tree at `root`, as Nix packs it.
    pub(super) fn of(root: &Path) -> io::Result<Self> {
        let mut walk = Walk { layout: Self { segments: Vec::new() }, between: Vec::new(), files: 0 };
        walk.word(b"nix-archive-1");
        walk.node(root, 0)?;
        walk.end_between();
        Ok(walk.layout)
    }

    /// Bytes of the archive.
    pub(super) fn len(&self) -> u64 {
        self.segments.last().map_or(0, |(end, _)| *end)
    }

    /// `length` bytes from `position` on.
    pub(super) fn read(&self, position: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; length];
        let mut filled = 0;
        let first = self.segments.partition_point(|(end, _)| *end <= position);
        let mut begin = first.checked_sub(1).map_or(0, |before| self.segments[before].0);
        for (end, segment) in &self.segments[first..] {
            if filled == length {
                break;
            }
            let offset = position + filled as u64 - begin;
            let left = usize::try_from(end - begin - offset).unwrap_or(usize::MAX);
            let target = &mut data[filled..];
            let count = left.min(target.len());
            match segment {
                Segment::Between(bytes) => {
                    let from = usize::try_from(offset).unwrap_or(usize::MAX);
                    target[..count].copy_from_slice(&bytes[from..from + count]);
                }
                Segment::File(path) => File::open(path)?.read_exact_at(&mut target[..count], offset)?,
            }
            filled += count;
            begin = *end;
        }
        if filled == length { Ok(data) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

struct Walk {
    layout: Layout,
    between: Vec<u8>,
    files: usize,
}

impl Walk {
    fn node(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        self.files += 1;
        if self.files > MAX_FILES || depth > MAX_DEPTH {
            return Err(io::Error::other("too large a tree"));
        }
        let metadata = fs::symlink_metadata(path)?;
        self.words(&[b"(", b"type"]);
        if metadata.is_symlink() {
            let target = fs::read_link(path)?.into_os_string().into_vec();
            self.words(&[b"symlink", b"target", &target]);
        } else if metadata.is_dir() {
            self.word(b"directory");
            let mut names =
                fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
            names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
            for name in names {
                self.words(&[b"entry", b"(", b"name", name.as_bytes(), b"node"]);
                self.node(&path.join(&name), depth + 1)?;
                self.word(b")");
            }
        } else if metadata.is_file() {
            self.word(b"regular");
            if metadata.permissions().mode() & 0o100 != 0 {
                self.words(&[b"executable", b""]);
            }
            self.word(b"contents");
            self.between.extend_from_slice(&metadata.len().to_le_bytes());
            if metadata.len() > 0 {
                self.end_between();
                let end = self.layout.len() + metadata.len();
                self.layout.segments.push((end, Segment::File(path.to_owned())));
            }
            self.pad(metadata.len());
        } else {
            return Err(io::Error::other("neither a file, a directory nor a symlink"));
        }
        self.word(b")");
        Ok(())
    }

    fn words(&mut self, words: &[&[u8]]) {
        for word in words {
            self.word(word);
        }
    }

    fn word(&mut self, word: &[u8]) {
        self.between.extend_from_slice(&(word.len() as u64).to_le_bytes());
        self.between.extend_from_slice(word);
        self.pad(word.len() as u64);
    }

    fn pad(&mut self, length: u64) {
        let padding = usize::try_from(length.next_multiple_of(8) - length).unwrap_or(0);
        self.between.resize(self.between.len() + padding, 0);
    }

    fn end_between(&mut self) {
        if !self.between.is_empty() {
            let bytes = std::mem::take(&mut self.between);
            self.layout.segments.push((self.layout.len() + bytes.len() as u64, Segment::Between(bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_nix::nar_dump::dump_path;

    #[test]
    fn any_part_is_as_nix_packs_it() {
        let tree = tempfile::tempdir().expect("a directory");
        let root = tree.path().join("root");
        fs::create_dir_all(root.join("empty/er")).expect("made");
        fs::create_dir(root.join("b")).expect("made");
        fs::write(root.join("b/file"), b"twelve bytes").expect("written");
        fs::write(root.join("b/nothing"), b"").expect("written");
        fs::write(root.join("b-"), vec![7; 100_001]).expect("written");
        fs::set_permissions(root.join("b-"), fs::Permissions::from_mode(0o755)).expect("ours");
        std::os::unix::fs::symlink("../nowhere", root.join("link")).expect("made");
        let nar = dump_path(&root, Vec::new()).expect("packs");
        let layout = Layout::of(&root).expect("walks");
        assert_eq!(layout.len(), nar.len() as u64);
        assert_eq!(layout.read(0, nar.len()).expect("reads"), nar);
        for position in (0..nar.len()).step_by(37) {
            let length = 500.min(nar.len() - position);
            let part = layout.read(position as u64, length).expect("reads");
            assert_eq!(part, nar[position..position + length], "{position}");
        }
        assert!(layout.read(nar.len() as u64 - 1, 2).is_err());
        let lone = root.join("b/file");
        let nar = dump_path(&lone, Vec::new()).expect("packs");
        assert_eq!(Layout::of(&lone).expect("walks").read(0, nar.len()).expect("reads"), nar);
    }
}
