//! Temp roots of everything a session touches, on one connection that lives as long as the session. Without
//! them a garbage collection could take inputs and results between two jobs.

use std::collections::{BTreeSet, HashSet};

use fleet_nix::daemon::{Daemon, DaemonError};
use fleet_nix::store_path::StorePath;
use tokio::sync::Mutex;

/// Roots held until it is dropped.
#[derive(Debug)]
pub(crate) struct Roots(Mutex<Held>);

#[derive(Debug)]
struct Held {
    daemon: Daemon,
    paths: HashSet<StorePath>,
}

impl Roots {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self(Mutex::new(Held { daemon, paths: HashSet::new() }))
    }

    /// Protects `paths` from now on; whether they are valid is to be asked afterwards.
    pub(crate) async fn hold(&self, paths: impl IntoIterator<Item = &StorePath>) -> Result<(), DaemonError> {
        let mut held = self.0.lock().await;
        let fresh: BTreeSet<StorePath> =
            paths.into_iter().filter(|p| !held.paths.contains(*p)).cloned().collect();
        held.daemon.add_temp_roots(&fresh).await?;
        held.paths.extend(fresh);
        Ok(())
    }
}
