//! Connections to build on: one for each lease that runs, kept for the next one. A connection that saw an error
//! or a cancellation is dropped, which is also what ends its build.

use std::sync::{Mutex, PoisonError};

use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError, Settings, Trust};

/// Idle build connections.
#[derive(Debug)]
pub(crate) struct Lanes {
    address: DaemonAddress,
    idle: Mutex<Vec<Lane>>,
}

/// One build connection and the limits it was last given.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) daemon: Daemon,
    limits: Option<Limits>,
}

/// What the daemon enforces for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) timeout_s: u32,
    pub(crate) max_silent_s: u32,
}

impl Lanes {
    pub(crate) fn new(address: DaemonAddress) -> Self {
        Self {
            address,
            idle: Mutex::default(),
        }
    }

    /// A connection with these limits set.
    pub(crate) async fn take(&self, limits: Limits) -> Result<Lane, DaemonError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut lane = match idle {
            Some(lane) => lane,
            None => Lane {
                daemon: Daemon::connect(&self.address).await?,
                limits: None,
            },
        };
        if lane.limits != Some(limits) {
            let settings = settings(limits, lane.daemon.trust());
            lane.daemon.set_options(&settings).await?;
            lane.limits = Some(limits);
        }
        Ok(lane)
    }

    /// Keeps a connection whose last operation ended well. There are never more than slots.
    pub(crate) fn give_back(&self, lane: Lane) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(lane);
    }
}

/// Builds here and now: no build hook, no remote builders; a daemon that does not trust us keeps its own.
fn settings(limits: Limits, trust: Trust) -> Settings {
    let mut settings = Settings {
        timeout_s: limits.timeout_s.into(),
        max_silent_s: limits.max_silent_s.into(),
        max_jobs: 1,
        use_substitutes: true,
        ..Settings::default()
    };
    if trust == Trust::Trusted {
        for name in ["build-hook", "builders"] {
            settings.overrides.insert(name.to_owned(), String::new());
        }
        settings
            .overrides
            .insert("narinfo-cache-negative-ttl".to_owned(), "0".to_owned());
    }
    settings
}
