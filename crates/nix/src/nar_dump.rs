//! Packs a tree of the file system as the archive Nix makes of it. The one place of the lower layer that reads
//! files.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::nar::{NarWriteError, NarWriter};

/// Why a tree cannot be packed.
#[derive(Debug, Error)]
pub enum NarDumpError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither file, directory nor symbolic link.
    #[error("{0} is neither a file, a directory nor a symlink")]
    UnsupportedType(PathBuf),
    /// The archive cannot take it, or cannot be written.
    #[error("cannot pack {path}")]
    Write {
        /// What was being packed.
        path: PathBuf,
        /// Why.
        source: NarWriteError,
    },
}

/// Writes the archive of `path` to `sink`. Symbolic links are not followed, at the root neither.
pub fn dump_path<W: Write>(path: &Path, sink: W) -> Result<W, NarDumpError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NarDumpError::Write { path, source }
    };
    let mut writer = NarWriter::new(sink).map_err(failed(path))?;
    // Names still to be packed in each open directory, last first.
    let mut open: Vec<Vec<OsString>> = Vec::new();
    let mut current = path.to_owned();
    let mut pending = Some(current.clone());
    loop {
        if let Some(node) = pending.take()
            && let Some(names) = dump_node(&mut writer, &node)?
        {
            open.push(names);
            current = node;
        }
        let Some(names) = open.last_mut() else {
            return writer.finish().map_err(failed(path));
        };
        if let Some(name) = names.pop() {
            let node = current.join(&name);
            writer.entry(name.as_bytes()).map_err(failed(&node))?;
            pending = Some(node);
        } else {
            open.pop();
            writer.end_directory().map_err(failed(&current))?;
            if !open.is_empty() {
                current.pop();
            }
        }
    }
}

/// Writes a file or a link, or begins a directory and returns its names, last first.
fn dump_node<W: Write>(
    writer: &mut NarWriter<W>,
    path: &Path,
) -> Result<Option<Vec<OsString>>, NarDumpError> {
    let unreadable = |source| NarDumpError::Read { path: path.to_owned(), source };
    let unwritable = |source| NarDumpError::Write { path: path.to_owned(), source };
    let metadata = fs::symlink_metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        writer.begin_directory().map_err(unwritable)?;
        return sorted_names(path).map(Some).map_err(unreadable);
    }
    if metadata.is_symlink() {
        let target = fs::read_link(path).map_err(unreadable)?.into_os_string().into_vec();
        writer.symlink(&target).map_err(unwritable)?;
    } else if metadata.is_file() {
        let file = fs::File::open(path).map_err(unreadable)?;
        // Nix looks at the owner's permission only.
        let executable = metadata.permissions().mode() & 0o100 != 0;
        writer.file(executable, metadata.len(), file).map_err(unwritable)?;
    } else {
        return Err(NarDumpError::UnsupportedType(path.to_owned()));
    }
    Ok(None)
}

fn sorted_names(directory: &Path) -> std::io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<Vec<OsString>>>()?;
    names.sort_unstable_by(|a, b| OsStr::as_bytes(b).cmp(OsStr::as_bytes(a)));
    Ok(names)
}
