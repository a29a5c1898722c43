//! A NAR in a private file that is gone with its value; hashed and counted as it is written.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

use super::pack::PackError;

const SPOOL_PREFIX: &str = "source-";
/// A spool this old belongs to a process that was killed.
const STALE_AFTER: Duration = Duration::from_hours(24);

/// A packed tree.
#[derive(Debug)]
pub(super) struct Spool {
    file: NamedTempFile,
    /// SHA-256 of the NAR.
    pub nar_hash: [u8; 32],
    /// Its bytes.
    pub nar_size: u64,
}

/// The directory for spools cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot create a file in {directory}", directory = directory.display())]
pub struct SpoolError {
    /// Where.
    pub directory: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Why a tree did not get into a spool.
#[derive(Debug, thiserror::Error)]
pub(super) enum FillError {
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Pack(#[from] PackError),
}

/// Where a packer writes to.
pub(super) type Sink<'a> = &'a mut dyn Write;

impl Spool {
    /// Fills a new file in `directory` with what `pack` writes.
    pub(super) fn fill(
        directory: &Path,
        pack: impl FnOnce(Sink<'_>) -> Result<(), PackError>,
    ) -> Result<Self, FillError> {
        let failed = |source| SpoolError { directory: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        // Readable by its owner only, as a flake may hold secrets.
        let file = tempfile::Builder::new().prefix(OsStr::new(SPOOL_PREFIX)).tempfile_in(directory);
        let to = BufWriter::with_capacity(256 * 1024, file.map_err(failed)?);
        let mut counting = Counting { to, hash: Sha256::new(), size: 0 };
        pack(&mut counting)?;
        let file = counting.to.into_inner().map_err(|error| failed(error.into_error()))?;
        Ok(Self { file, nar_hash: counting.hash.finalize().into(), nar_size: counting.size })
    }

    /// The NAR.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }
}

/// A directory of our own for something else than a NAR; gone with the value, or swept like a spool.
pub(super) fn scratch(directory: &Path) -> Result<TempDir, SpoolError> {
    let failed = |source| SpoolError { directory: directory.to_owned(), source };
    fs::create_dir_all(directory).map_err(failed)?;
    tempfile::Builder::new().prefix(OsStr::new(SPOOL_PREFIX)).tempdir_in(directory).map_err(failed)
}

/// Removes what killed processes left.
pub fn sweep_spools(spools: &Path) {
    let Ok(entries) = fs::read_dir(spools) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(SPOOL_PREFIX.as_bytes());
        let metadata = entry.metadata();
        let age = metadata.as_ref().ok().and_then(|metadata| metadata.modified().ok());
        let age = age.and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if ours && age.is_some_and(|age| age > STALE_AFTER) {
            // Another process may have been faster.
            let _ = match metadata {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(entry.path()),
                _ => fs::remove_file(entry.path()),
            };
        }
    }
}

/// Hashes and counts what passes.
struct Counting<W> {
    to: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
