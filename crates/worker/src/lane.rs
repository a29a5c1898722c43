//! Connections to work on: one for each lease or realise job that runs, kept for the next one. A connection that
//! saw an error or a cancellation is dropped, which is also what ends its build.

use std::sync::{Mutex, PoisonError};

use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError, Settings};

/// Idle connections.
#[derive(Debug)]
pub(crate) struct Lanes {
    address: DaemonAddress,
    idle: Mutex<Vec<Lane>>,
}

/// One connection and what it was last set to.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) daemon: Daemon,
    purpose: Purpose,
}

/// What a connection is for, and the limits the daemon enforces on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Steps whose inputs are valid.
    Build { timeout_s: u32, max_silent_s: u32 },
    /// Making paths valid that a substituter serves.
    Substitute,
}

impl Lanes {
    pub(crate) fn new(address: DaemonAddress) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// A connection set to a purpose.
    pub(crate) async fn take(&self, purpose: Purpose) -> Result<Lane, DaemonError> {
        if let Some(lane) = self.take_idle(purpose) {
            return Ok(lane);
        }
        let mut daemon = Daemon::connect(&self.address).await?;
        let settings = settings(purpose, &daemon);
        daemon.set_options(&settings).await?;
        Ok(Lane { daemon, purpose })
    }

    /// Keeps a connection whose last operation ended well. There are never more than jobs at a time.
    pub(crate) fn give_back(&self, lane: Lane) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }

    /// Drops the idle connections: one broke, and they may have met the same end.
    pub(crate) fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take_idle(&self, purpose: Purpose) -> Option<Lane> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let position = idle.iter().position(|lane| lane.purpose == purpose)?;
        Some(idle.swap_remove(position))
    }
}

fn settings(purpose: Purpose, daemon: &Daemon) -> Settings {
    match purpose {
        Purpose::Substitute => Settings::for_substituting(daemon.trust()),
        Purpose::Build { timeout_s, max_silent_s } => Settings {
            timeout_s: timeout_s.into(),
            max_silent_s: max_silent_s.into(),
            ..Settings::for_building(daemon.trust())
        },
    }
}
