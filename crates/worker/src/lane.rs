//! Connections to work on: one for each lease or realise job that runs, kept for the next one. A connection that
//! saw an error or a cancellation is dropped, which is also what ends its build.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError, Settings, Trust};
use tokio::time::Instant;

/// Between tries to reach a daemon that restarts: doubled each time, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Idle connections.
#[derive(Debug)]
pub(crate) struct Lanes {
    address: DaemonAddress,
    patience: Duration,
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
    Build { timeout_s: u32, max_silent_s: u32, max_log_bytes: u64 },
    /// Making paths valid that a substituter serves.
    Substitute,
}

impl Lanes {
    /// A daemon that restarts is waited for with this patience.
    pub(crate) fn new(address: DaemonAddress, patience: Duration) -> Self {
        Self { address, patience, idle: Mutex::default() }
    }

    /// A connection set to a purpose.
    pub(crate) async fn take(&self, purpose: Purpose) -> Result<Lane, DaemonError> {
        if let Some(lane) = self.take_idle(purpose) {
            return Ok(lane);
        }
        let mut daemon = connect(&self.address, self.patience).await?;
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

/// Connects to a daemon that may be restarting.
pub(crate) async fn connect(address: &DaemonAddress, patience: Duration) -> Result<Daemon, DaemonError> {
    let deadline = Instant::now() + patience;
    let (mut wait, longest) = RETRY;
    loop {
        match Daemon::connect(address).await {
            Err(error @ (DaemonError::Connect { .. } | DaemonError::HungUp { .. })) => {
                if Instant::now() + wait > deadline {
                    return Err(error);
                }
                tracing::debug!(%error, "waiting for the Nix daemon");
            }
            other => return other,
        }
        tokio::time::sleep(wait).await;
        wait = longest.min(2 * wait);
    }
}

fn settings(purpose: Purpose, daemon: &Daemon) -> Settings {
    match purpose {
        Purpose::Substitute => Settings::for_substituting(daemon.trust()),
        Purpose::Build { timeout_s, max_silent_s, max_log_bytes } => {
            let mut settings = Settings {
                timeout_s: timeout_s.into(),
                max_silent_s: max_silent_s.into(),
                ..Settings::for_building(daemon.trust())
            };
            if daemon.trust() == Trust::Trusted {
                // Our own limit sees a line only when it ends: one without an end fills the daemon's memory.
                settings.set("max-build-log-size", &max_log_bytes.to_string());
            }
            settings
        }
    }
}
