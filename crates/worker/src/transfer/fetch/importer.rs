//! Connections to the daemon on which the coordinator's keys count as those of its nix.conf do, for as long as the
//! connection lives: paths are imported with their signatures checked, and no setting of the machine is changed.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError, Settings, Substitute, Trust};

use crate::lane;
use crate::peer::Keys;

/// Idle connections that are kept.
const MAX_IDLE: usize = 4;

#[derive(Debug)]
pub(super) struct Importer {
    address: DaemonAddress,
    patience: Duration,
    keys: Keys,
    idle: Mutex<Vec<Import>>,
}

/// One connection, and which keys it was told.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) daemon: Daemon,
    keys: String,
}

impl Importer {
    pub(super) fn new(address: DaemonAddress, patience: Duration, keys: Keys) -> Self {
        Self { address, patience, keys, idle: Mutex::default() }
    }

    pub(super) fn address(&self) -> &DaemonAddress {
        &self.address
    }

    /// A connection on which the keys of now count, if the daemon trusts us; else only its own count.
    pub(super) async fn take(&self) -> Result<Import, DaemonError> {
        let keys: Vec<String> = self.keys.current().iter().map(ToString::to_string).collect();
        let keys = keys.join(" ");
        while let Some(mut idle) = self.pop() {
            // The end of an idle connection shows only when it is used.
            let nothing = BTreeSet::new();
            if idle.keys == keys && idle.daemon.query_valid_paths(&nothing, Substitute::No).await.is_ok() {
                return Ok(idle);
            }
        }
        let mut daemon = lane::connect(&self.address, self.patience).await?;
        if daemon.trust() != Trust::NotTrusted {
            let mut settings = Settings::default();
            settings.set("extra-trusted-public-keys", &keys);
            daemon.set_options(&settings).await?;
        }
        Ok(Import { daemon, keys })
    }

    /// Keeps a connection whose last operation ended well, and that roots nothing.
    pub(super) fn give_back(&self, import: Import) {
        let mut idle = self.lock();
        if idle.len() < MAX_IDLE && !import.daemon.is_poisoned() {
            idle.push(import);
        }
    }

    fn pop(&self) -> Option<Import> {
        self.lock().pop()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Import>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
