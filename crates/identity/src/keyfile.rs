//! Files that hold keys and certificates: bounded when read, whole or absent when written.
//!
//! A private key is refused where others could have read or changed it, and where its name is a link that could
//! have been turned to another file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::secret::TokenId;

/// The most bytes a file of keys or certificates may have.
pub const MAX_FILE_LEN: u64 = 256 * 1024;

/// What is wrong with a file, and with which.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is none.
    #[error("{0}: there is no such file")]
    Missing(PathBuf),
    /// A private key must stand where its name says.
    #[error("{0}: is a symbolic link; name the private key's own file")]
    Symlink(PathBuf),
    /// A directory, device or pipe.
    #[error("{0}: is not a regular file")]
    NotAFile(PathBuf),
    /// Others can read or change a private key.
    #[error(
        "{path}: others can read or change this private key (mode {mode:03o}): chmod 600 it, and replace the key"
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user owns a private key.
    #[error("{path}: belongs to user {owner}, neither to this process nor to root")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its user id.
        owner: u32,
    },
    /// More than [`MAX_FILE_LEN`].
    #[error("{0}: is larger than any file of keys or certificates")]
    TooLarge(PathBuf),
    /// The system said no.
    #[error("{path}: cannot be accessed")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Reads a file that holds a private key.
///
/// Its group may read it, as service managers hand out credentials; nobody else, and no one but its owner writes.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let opened = open(path, OFlags::NOFOLLOW | OFlags::NONBLOCK);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => FileError::Symlink(path.to_owned()),
        _ => access_error(path, error),
    })?;
    let metadata = file.metadata().map_err(|error| access_error(path, error))?;
    let mode = metadata.mode() & 0o777;
    if metadata.is_file() && mode & 0o037 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), mode });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(FileError::Owner { path: path.to_owned(), owner });
    }
    read_bounded(path, &file).map(Zeroizing::new)
}

/// Reads a file of certificates or public keys.
pub fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = open(path, OFlags::NONBLOCK).map_err(|error| access_error(path, error))?;
    read_bounded(path, &file)
}

/// Puts a file of mode 0600 in place, whole, over one that may be there.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let aside = aside(path);
    let written = write_new(&aside, bytes).and_then(|()| std::fs::rename(&aside, path));
    let written = written.and_then(|()| sync_directory(path));
    written.map_err(|error| {
        // What stands aside is of no use; that it cannot be removed either changes nothing.
        let _ = std::fs::remove_file(&aside);
        access_error(path, error)
    })
}

/// As [`write_private`], but never over a file that is there: then nothing is written, and the answer is false.
pub fn create_private(path: &Path, bytes: &[u8]) -> Result<bool, FileError> {
    let aside = aside(path);
    let linked = write_new(&aside, bytes).and_then(|()| std::fs::hard_link(&aside, path));
    let _ = std::fs::remove_file(&aside);
    match linked.and_then(|()| sync_directory(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(access_error(path, error)),
    }
}

/// Callers give NONBLOCK: opening a pipe would wait for its writer without it.
fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = i32::try_from(flags.bits()).expect("open flags are ints");
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read_bounded(path: &Path, file: &File) -> Result<Vec<u8>, FileError> {
    let metadata = file.metadata().map_err(|error| access_error(path, error))?;
    if !metadata.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE_LEN + 1).read_to_end(&mut bytes);
    read.map_err(|error| access_error(path, error))?;
    if bytes.len() as u64 > MAX_FILE_LEN {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

/// A name of its own beside the file: two writers never share one.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", TokenId::random()));
    name.into()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn access_error(path: &Path, error: io::Error) -> FileError {
    if error.kind() == io::ErrorKind::NotFound {
        FileError::Missing(path.to_owned())
    } else {
        FileError::Io { path: path.to_owned(), source: error }
    }
}
