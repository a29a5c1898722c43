//! Temp roots of everything a worker touches, on one connection that lives as long as the worker. Without
//! them a garbage collection could take inputs and results between two jobs. A connection that was lost, or cut
//! by a cancelled job, is made again with all it held.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError};
use fleet_nix::store_path::StorePath;
use tokio::sync::Mutex;

use crate::lane;

/// Roots held until it is dropped.
#[derive(Debug)]
pub(crate) struct Roots {
    address: DaemonAddress,
    patience: Duration,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    daemon: Daemon,
    paths: HashSet<StorePath>,
}

impl Roots {
    /// Holds nothing yet.
    pub(crate) async fn connect(address: DaemonAddress, patience: Duration) -> Result<Self, DaemonError> {
        let daemon = Daemon::connect(&address).await?;
        Ok(Self { address, patience, held: Mutex::new(Held { daemon, paths: HashSet::new() }) })
    }

    /// Protects `paths` from now on; whether they are valid is to be asked afterwards.
    pub(crate) async fn hold(&self, paths: impl IntoIterator<Item = &StorePath>) -> Result<(), DaemonError> {
        let mut held = self.held.lock().await;
        let fresh: BTreeSet<StorePath> =
            paths.into_iter().filter(|p| !held.paths.contains(*p)).cloned().collect();
        if !held.daemon.is_poisoned() {
            match held.daemon.add_temp_roots(&fresh).await {
                Ok(()) => {
                    held.paths.extend(fresh);
                    return Ok(());
                }
                Err(error) if error.remote().is_some() => return Err(error),
                Err(error) => tracing::warn!(%error, "the connection that holds roots broke: making another"),
            }
        }
        let mut daemon = lane::connect(&self.address, self.patience).await?;
        daemon.add_temp_roots(held.paths.iter().chain(&fresh)).await?;
        held.daemon = daemon;
        held.paths.extend(fresh);
        Ok(())
    }
}
