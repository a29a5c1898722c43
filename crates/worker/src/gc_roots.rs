//! Garbage collector roots that outlive this process: a symlink in the state directory for each output that was built
//! here and that nobody else may have yet. Owns that directory. Does not decide when a root is let go for room.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fleet_nix::daemon::{Daemon, DaemonError};
use fleet_nix::store_path::{StoreDir, StorePath};
use thiserror::Error;

/// Paths that are kept; beyond this the oldest are let go.
const MAX_KEPT: usize = 50_000;
/// A link that is not in its place yet.
const UNFINISHED: &str = ".new";

/// Why an output is not rooted.
#[derive(Debug, Error)]
pub(crate) enum GcRootError {
    #[error("{} cannot be used for garbage collector roots", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the Nix daemon does not take a garbage collector root")]
    Daemon(#[from] DaemonError),
}

/// Links, each to a path of the store.
#[derive(Debug)]
pub(crate) struct GcRoots {
    /// None for a worker that ends with its session.
    directory: Option<PathBuf>,
    kept: Mutex<HashMap<StorePath, Kept>>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    since: SystemTime,
    /// By this process: a link that an earlier one left may never have been told to the daemon.
    is_registered: bool,
}

impl GcRoots {
    /// In a state directory, with what an earlier start left there.
    pub(crate) fn open(state_dir: Option<&Path>) -> io::Result<Self> {
        let Some(state_dir) = state_dir else {
            return Ok(Self { directory: None, kept: Mutex::default() });
        };
        let directory = state_dir.join("gcroots");
        let kept = Mutex::new(read(&directory)?);
        Ok(Self { directory: Some(directory), kept })
    }

    /// Keeps valid, rooted paths from now on.
    pub(crate) async fn keep<'p>(
        &self,
        daemon: &mut Daemon,
        store: &StoreDir,
        paths: impl IntoIterator<Item = &'p StorePath>,
    ) -> Result<(), GcRootError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        for path in paths {
            let link = directory.join(path.to_string());
            let failed = |source| GcRootError::File { path: link.clone(), source };
            set_link(directory, path, store).map_err(failed)?;
            let is_registered = self.lock().get(path).is_some_and(|kept| kept.is_registered);
            if !is_registered {
                daemon.add_indirect_root(&link).await?;
            }
            self.lock().insert(path.clone(), Kept { since: SystemTime::now(), is_registered: true });
        }
        self.stay_bounded();
        Ok(())
    }

    /// These are somewhere else as well, or nobody wants them any more.
    pub(crate) fn release<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) {
        let Some(directory) = &self.directory else { return };
        for path in paths {
            if self.lock().remove(path).is_some()
                && let Err(error) = std::fs::remove_file(directory.join(path.to_string()))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, %path, "a garbage collector root cannot be removed");
            }
        }
    }

    /// What has been kept for longer than this, the oldest first.
    pub(crate) fn older_than(&self, age: Duration) -> Vec<StorePath> {
        let now = SystemTime::now();
        let mut old: Vec<(SystemTime, StorePath)> = self
            .lock()
            .iter()
            .filter(|(_, kept)| now.duration_since(kept.since).is_ok_and(|kept_for| kept_for >= age))
            .map(|(path, kept)| (kept.since, path.clone()))
            .collect();
        old.sort_unstable();
        old.into_iter().map(|(_, path)| path).collect()
    }

    fn stay_bounded(&self) {
        let too_many = self.lock().len().saturating_sub(MAX_KEPT);
        if too_many > 0 {
            // Some more, so that this is rare.
            let oldest = self.older_than(Duration::ZERO);
            self.release(oldest.iter().take(too_many + MAX_KEPT / 16));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StorePath, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Made anew even if it is there: its time says since when.
fn set_link(directory: &Path, path: &StorePath, store: &StoreDir) -> io::Result<()> {
    // Two leases may keep one path at once.
    let unfinished = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .make_in(directory, |name| std::os::unix::fs::symlink(store.print(path), name))?;
    unfinished.persist(directory.join(path.to_string()))?;
    Ok(())
}

fn read(directory: &Path) -> io::Result<HashMap<StorePath, Kept>> {
    std::fs::create_dir_all(directory)?;
    let mut kept = HashMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Ok(path) = name.parse::<StorePath>() {
            let since = entry.metadata()?.modified()?;
            kept.insert(path, Kept { since, is_registered: false });
        } else if name.starts_with(UNFINISHED) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(number: u32) -> StorePath {
        format!("{number:0>32}-x").parse().expect("a store path")
    }

    #[test]
    fn links_of_an_earlier_start_count_and_what_was_half_made_is_removed() {
        let state = tempfile::tempdir().expect("a directory");
        let directory = state.path().join("gcroots");
        std::fs::create_dir_all(&directory).expect("a directory");
        let store = StoreDir::default();
        set_link(&directory, &path(1), &store).expect("links");
        set_link(&directory, &path(1), &store).expect("links again");
        set_link(&directory, &path(2), &store).expect("links");
        std::os::unix::fs::symlink("/nonexistent", directory.join(".newXYZ")).expect("links");
        std::fs::write(directory.join("README"), "not ours").expect("writes");
        assert_eq!(
            std::fs::read_link(directory.join(path(1).to_string())).expect("a link"),
            Path::new(&store.print(&path(1)))
        );

        let roots = GcRoots::open(Some(state.path())).expect("opens");
        assert_eq!(roots.older_than(Duration::ZERO).len(), 2);
        assert!(roots.older_than(Duration::from_hours(1)).is_empty());
        assert!(directory.join(".newXYZ").symlink_metadata().is_err(), "removed");
        roots.release([&path(1), &path(9)]);
        assert!(directory.join(path(1).to_string()).symlink_metadata().is_err(), "removed");
        assert_eq!(roots.older_than(Duration::ZERO), [path(2)]);
    }

    #[test]
    fn a_worker_without_a_state_directory_keeps_nothing() {
        let roots = GcRoots::open(None).expect("opens");
        roots.release([&path(1)]);
        assert!(roots.older_than(Duration::ZERO).is_empty());
    }
}
