//! Objects as files: what a directory can do, and must do, that S3 does not. Every call works on a thread of its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::time::{Duration, SystemTime};

use object_store::local::LocalFileSystem;
use object_store::path::Path;

use crate::StoreError;

/// Threads that make files durable for one caller.
const SYNCS_AT_ONCE: usize = 16;

/// A directory of objects.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    root: PathBuf,
    quick: LocalFileSystem,
}

impl Directory {
    /// Creates it, if need be.
    pub(super) fn create(
        root: &FilePath,
        setup: impl FnOnce(object_store::Error) -> StoreError,
    ) -> Result<Self, StoreError> {
        fs::create_dir_all(root)
            .map_err(|source| StoreError::Directory { path: root.display().to_string(), source })?;
        let quick = LocalFileSystem::new_with_prefix(root).map_err(setup)?;
        Ok(Self { root: root.to_owned(), quick })
    }

    /// Writes without waiting for the disk.
    pub(super) fn quick(&self) -> &LocalFileSystem {
        &self.quick
    }

    /// Waits for the disk.
    pub(super) fn durable(&self) -> LocalFileSystem {
        self.quick.clone().with_fsync(true)
    }

    /// Bytes of each file, in their order.
    pub(super) async fn sizes(
        self,
        paths: Vec<Path>,
    ) -> Result<Vec<Result<Option<u64>, StoreError>>, StoreError> {
        blocking(move || {
            let size = |path: &Path| {
                let file = self.file(path);
                match fs::metadata(&file) {
                    Ok(found) => Ok(Some(found.len())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(failed("look for", &file)(error)),
                }
            };
            Ok(paths.iter().map(size).collect())
        })
        .await
    }

    /// Files, the directories that name them, and those that name the directories.
    pub(super) async fn sync(self, paths: Vec<Path>) -> Result<(), StoreError> {
        let share = paths.len().div_ceil(SYNCS_AT_ONCE).max(1);
        let syncs = paths.chunks(share).map(|share| {
            let (directory, share) = (self.clone(), share.to_vec());
            blocking(move || directory.sync_all(&share))
        });
        futures::future::join_all(syncs).await.into_iter().collect()
    }

    fn sync_all(&self, paths: &[Path]) -> Result<(), StoreError> {
        let mut shelves = BTreeSet::new();
        for path in paths {
            let file = self.file(path);
            sync_one(&file).map_err(failed("make durable", &file))?;
            for shelf in file.ancestors().skip(1).take_while(|shelf| shelf.starts_with(&self.root)) {
                if shelves.insert(shelf.to_owned()) {
                    sync_one(shelf).map_err(failed("make durable", shelf))?;
                }
            }
        }
        Ok(())
    }

    /// Directories from which something was removed, as far as they are there.
    pub(super) async fn sync_shelves(self, shelves: BTreeSet<Path>) -> Result<(), StoreError> {
        blocking(move || {
            shelves.iter().map(|shelf| self.file(shelf)).try_for_each(|shelf| match sync_one(&shelf) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("make durable", &shelf)(error))
                }
                _ => Ok(()),
            })
        })
        .await
    }

    /// Removes files that were being written when the process ended: `…#1`, in the directories of objects.
    pub(super) async fn remove_unfinished(self, older_than: Duration) -> Result<u64, StoreError> {
        blocking(move || {
            let Some(before) = SystemTime::now().checked_sub(older_than) else { return Ok(0) };
            let mut removed = 0;
            let mut directories = vec![self.root.clone()];
            while let Some(directory) = directories.pop() {
                for entry in fs::read_dir(&directory).map_err(failed("list", &directory))? {
                    let entry = entry.map_err(failed("list", &directory))?;
                    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                        directories.push(entry.path());
                    } else if is_unfinished(&entry.path(), before) {
                        match fs::remove_file(entry.path()) {
                            Ok(()) => removed += 1,
                            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                            Err(error) => return Err(failed("remove", &entry.path())(error)),
                        }
                    }
                }
            }
            Ok(removed)
        })
        .await
    }

    fn file(&self, path: &Path) -> PathBuf {
        self.root.join(path.as_ref())
    }
}

fn is_unfinished(file: &FilePath, before: SystemTime) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_staged = name
        .split_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    is_staged && fs::metadata(file).and_then(|found| found.modified()).is_ok_and(|time| time <= before)
}

fn sync_one(file: &FilePath) -> io::Result<()> {
    File::open(file)?.sync_all()
}

fn failed(doing: &'static str, path: &FilePath) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::File { doing, path, source }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Interrupted)?
}
