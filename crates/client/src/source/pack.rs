//! A sorted list of entries and their contents become a NAR.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fleet_nix::nar::{NarError, NarWriteError, NarWriter};

use super::git::GitError;
use super::tree::{Entry, EntryKind};

/// Of a symbolic link's target.
const MAX_TARGET_BYTES: u64 = fleet_nix::nar::MAX_TARGET_LEN as u64;

/// Why a tree could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The NAR cannot be written.
    #[error("cannot write the packed flake")]
    Write(#[source] io::Error),
    /// The tree cannot be a NAR.
    #[error("{path} cannot be packed", path = path.display())]
    Nar {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: NarWriteError,
    },
    /// A file shrank while it was read.
    #[error("{path} changed while it was read", path = .0.display())]
    Changed(PathBuf),
    /// A socket, a device.
    #[error("{path} is neither a file, a directory nor a symbolic link", path = .0.display())]
    Unsupported(PathBuf),
    /// More directories in one another than Nix takes.
    #[error("{path} is too many directories deep", path = .0.display())]
    TooDeep(PathBuf),
    /// Git gave no content.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl PackError {
    /// An entry that cannot be read.
    pub(super) fn read(entry: &Entry, source: io::Error) -> Self {
        Self::Read { path: entry.as_path().to_owned(), source }
    }
}

/// The content of one entry: at least `size` bytes.
pub(super) struct Content<'a> {
    /// How many bytes belong to it.
    pub size: u64,
    /// Where they come from.
    pub bytes: Box<dyn Read + 'a>,
}

/// Where contents come from.
pub(super) trait Contents {
    /// The content of a file, the target of a link.
    fn open(&mut self, entry: &Entry) -> Result<Content<'_>, PackError>;
}

/// Writes the NAR of the tree.
pub(super) fn pack<W: Write>(entries: &[Entry], contents: &mut dyn Contents, to: W) -> Result<W, PackError> {
    let failed = |source| unpackable(Path::new("."), source);
    let mut nar = NarWriter::new(to).map_err(failed)?;
    nar.begin_directory().map_err(failed)?;
    let mut open: Vec<&[u8]> = Vec::new();
    for entry in entries {
        let failed = |source| unpackable(entry.as_path(), source);
        let mut parts: Vec<&[u8]> = entry.parts().collect();
        let Some(name) = parts.pop() else { continue };
        let shared = open.iter().zip(&parts).take_while(|(a, b)| a == b).count();
        close(&mut nar, &mut open, shared).map_err(failed)?;
        for part in &parts[shared..] {
            nar.entry(part).and_then(|()| nar.begin_directory()).map_err(failed)?;
            open.push(part);
        }
        nar.entry(name).map_err(failed)?;
        leaf(&mut nar, entry, contents)?;
    }
    close(&mut nar, &mut open, 0).map_err(failed)?;
    nar.end_directory().map_err(failed)?;
    nar.finish().map_err(failed)
}

/// Writes the NAR of a single file or link.
pub(super) fn pack_leaf<W: Write>(entry: &Entry, contents: &mut dyn Contents, to: W) -> Result<W, PackError> {
    let failed = |source| unpackable(entry.as_path(), source);
    let mut nar = NarWriter::new(to).map_err(failed)?;
    leaf(&mut nar, entry, contents)?;
    nar.finish().map_err(failed)
}

fn close<W: Write>(nar: &mut NarWriter<W>, open: &mut Vec<&[u8]>, to: usize) -> Result<(), NarWriteError> {
    while open.len() > to {
        open.pop();
        nar.end_directory()?;
    }
    Ok(())
}

fn leaf<W: Write>(
    nar: &mut NarWriter<W>,
    entry: &Entry,
    contents: &mut dyn Contents,
) -> Result<(), PackError> {
    let failed = |source| unpackable(entry.as_path(), source);
    let executable = match entry.kind {
        EntryKind::EmptyDirectory => {
            return nar.begin_directory().and_then(|()| nar.end_directory()).map_err(failed);
        }
        EntryKind::Symlink => {
            let target = target(entry, contents)?;
            return nar.symlink(&target).map_err(failed);
        }
        EntryKind::Executable => true,
        EntryKind::Regular => false,
    };
    let content = contents.open(entry)?;
    let mut bytes = Checked { entry, left: content.size, from: content.bytes, failure: None };
    match nar.file(executable, content.size, &mut bytes) {
        Ok(()) => Ok(()),
        Err(error) => Err(bytes.failure.take().unwrap_or_else(|| failed(error))),
    }
}

fn unpackable(path: &Path, error: NarWriteError) -> PackError {
    match error {
        NarWriteError::Io(source) => PackError::Write(source),
        NarWriteError::Nar(NarError::TooDeep) => PackError::TooDeep(path.to_owned()),
        source => PackError::Nar { path: path.to_owned(), source },
    }
}

fn target(entry: &Entry, contents: &mut dyn Contents) -> Result<Vec<u8>, PackError> {
    let content = contents.open(entry)?;
    if content.size > MAX_TARGET_BYTES {
        return Err(PackError::Unsupported(entry.as_path().to_owned()));
    }
    let mut target = Vec::new();
    content
        .bytes
        .take(content.size)
        .read_to_end(&mut target)
        .map_err(|source| PackError::read(entry, source))?;
    Ok(target)
}

/// Exactly the promised bytes; remembers whether a failure was one of reading.
struct Checked<'a> {
    entry: &'a Entry,
    left: u64,
    from: Box<dyn Read + 'a>,
    failure: Option<PackError>,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        match self.from.read(&mut buffer[..wanted]) {
            Ok(0) => {
                let path = self.entry.as_path().to_owned();
                self.failure = Some(PackError::Changed(path));
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(read) => {
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failure = Some(PackError::read(self.entry, io::Error::from(error.kind())));
                Err(error)
            }
        }
    }
}

/// Whether the tree has a file at this path.
pub(super) fn has_file(entries: &[Entry], path: &Path) -> bool {
    entries.iter().any(|entry| entry.as_path() == path)
}
