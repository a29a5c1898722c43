//! Whether this machine can build: looks at its disks and asks its daemon something from time to time, on a connection
//! of its own and with a deadline. What it finds is what heartbeats say.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError};
use fleet_nix::store_path::{StoreDir, StorePath};
use fleet_wire::v1;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::clock::Moment;
use crate::config::Config;
use crate::machine::{self, Places};

/// A path that no store has: asking for it costs the daemon a look at its database.
const NOBODYS: &str = "00000000000000000000000000000000-fleet-probe";
/// A look that is overdue by this means that looking itself hangs.
const OVERDUE: Duration = Duration::from_mins(1);

/// The last look, and what looks.
#[derive(Debug)]
pub(crate) struct Health {
    shared: Arc<Shared>,
    /// Stops looking when dropped.
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    latest: Mutex<(Moment, v1::Heartbeat)>,
    again: Notify,
}

impl Health {
    /// Looks from now on.
    pub(crate) fn watch(config: &Config, store_dir: &StoreDir) -> Self {
        let probe = Probe {
            address: config.daemon.clone(),
            places: places(config, store_dir),
            deadline: config.probe_deadline,
            min_free: config.min_free_bytes,
        };
        let first = machine::read(&probe.places);
        let shared = Shared { latest: Mutex::new((Moment::now(), first)), again: Notify::new() };
        let (shared, every) = (Arc::new(shared), config.probe_interval);
        let (looking, mut task) = (shared.clone(), JoinSet::new());
        task.spawn(async move {
            loop {
                let found = probe.look().await;
                *looking.latest.lock().unwrap_or_else(PoisonError::into_inner) = (Moment::now(), found);
                let _ = tokio::time::timeout(every, looking.again.notified()).await;
            }
        });
        Self { shared, _task: task }
    }

    /// As of the last look.
    pub(crate) fn latest(&self) -> v1::Heartbeat {
        let (at, mut heartbeat) = self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if at.elapsed() > OVERDUE && heartbeat.unwell.is_empty() {
            let seconds = at.elapsed().as_secs();
            heartbeat.unwell = format!("its store or its daemon has not been looked at for {seconds} s");
        }
        heartbeat
    }

    /// Something went wrong that may not be a step's fault: looks again at once.
    pub(crate) fn suspect(&self) {
        self.shared.again.notify_one();
    }
}

/// Where the store's files and those of running builds are.
pub(crate) fn places(config: &Config, store_dir: &StoreDir) -> Places {
    let store = Path::new(store_dir.as_str());
    let store = match &config.daemon.root {
        Some(root) => root.join(store.strip_prefix("/").unwrap_or(store)),
        None => store.to_owned(),
    };
    let build = config.build_dir.clone().unwrap_or_else(std::env::temp_dir);
    Places { store, build }
}

#[derive(Debug)]
struct Probe {
    address: DaemonAddress,
    places: Places,
    deadline: Duration,
    min_free: u64,
}

impl Probe {
    async fn look(&self) -> v1::Heartbeat {
        let places = self.places.clone();
        let read = tokio::task::spawn_blocking(move || machine::read(&places)).await;
        let mut heartbeat = read.unwrap_or_default();
        let unwell = match self.disks() {
            None => self.daemon().await,
            full => full,
        };
        heartbeat.unwell = unwell.unwrap_or_default();
        heartbeat
    }

    fn disks(&self) -> Option<String> {
        let places = [("store", &self.places.store), ("build", &self.places.build)];
        places.into_iter().find_map(|(what, directory)| {
            let disk = machine::disk(directory)?;
            let place = directory.display();
            if disk.is_read_only {
                return Some(format!("its {what} directory {place} is read-only"));
            }
            let (free, floor) = (disk.free >> 20, self.min_free >> 20);
            (disk.free < self.min_free)
                .then(|| format!("its disk is full: {free} MiB are free at {place}, and {floor} are wanted"))
        })
    }

    async fn daemon(&self) -> Option<String> {
        match tokio::time::timeout(self.deadline, ask(&self.address)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(fleet_telemetry::with_causes(&error)),
            Err(_) => Some(format!("its Nix daemon does not answer within {} s", self.deadline.as_secs())),
        }
    }
}

async fn ask(address: &DaemonAddress) -> Result<(), DaemonError> {
    let mut daemon = Daemon::connect(address).await?;
    if let Ok(path) = NOBODYS.parse::<StorePath>() {
        daemon.is_valid_path(&path).await?;
    }
    Ok(())
}
