//! Temp roots of what a worker touches, on one connection of its own. Without them a garbage collection could take
//! inputs and results between two jobs. A connection that was lost, or cut by a cancelled job, is made again with
//! all it held. A root ends only with its connection: so that of a worker that runs for weeks is replaced now and
//! then by one that holds what is still needed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError};
use fleet_nix::store_path::StorePath;
use tokio::sync::Mutex;

use crate::clock::Moment;
use crate::lane;

/// What nobody guards is held for so long after it was last asked for.
const LINGER: Duration = Duration::from_hours(1);

/// Roots held until it is dropped.
#[derive(Debug)]
pub(crate) struct Roots {
    address: DaemonAddress,
    patience: Duration,
    needs: Arc<Lock<Needs>>,
    held: Mutex<Held>,
}

/// What the connection holds.
#[derive(Debug)]
struct Held {
    daemon: Daemon,
    paths: HashSet<StorePath>,
}

/// What must be held.
#[derive(Debug, Default)]
struct Needs {
    /// By how many guards.
    guarded: HashMap<StorePath, u32>,
    lingering: HashMap<StorePath, Moment>,
}

/// Some paths are held as long as this lives, and for a while longer.
#[must_use]
#[derive(Debug)]
pub(crate) struct Guard {
    needs: Arc<Lock<Needs>>,
    paths: Vec<StorePath>,
}

impl Roots {
    /// Holds nothing yet.
    pub(crate) async fn connect(address: DaemonAddress, patience: Duration) -> Result<Self, DaemonError> {
        let daemon = Daemon::connect(&address).await?;
        let held = Mutex::new(Held { daemon, paths: HashSet::new() });
        Ok(Self { address, patience, needs: Arc::default(), held })
    }

    /// Protects `paths` from now on, for an hour at least; whether they are valid is to be asked afterwards.
    pub(crate) async fn hold(&self, paths: impl IntoIterator<Item = &StorePath>) -> Result<(), DaemonError> {
        let paths: BTreeSet<&StorePath> = paths.into_iter().collect();
        let now = Moment::now();
        lock(&self.needs).lingering.extend(paths.iter().map(|path| (StorePath::clone(path), now)));
        self.root(&paths).await
    }

    /// The same, for as long as the guard lives.
    pub(crate) async fn guard(
        &self,
        paths: impl IntoIterator<Item = &StorePath>,
    ) -> Result<Guard, DaemonError> {
        let paths: BTreeSet<&StorePath> = paths.into_iter().collect();
        let guard = Guard::over(&self.needs, paths.iter().copied().cloned().collect());
        self.root(&paths).await?;
        Ok(guard)
    }

    /// Whether somebody works with this path now.
    pub(crate) fn is_guarded(&self, path: &StorePath) -> bool {
        lock(&self.needs).guarded.contains_key(path)
    }

    /// These need not linger.
    pub(crate) fn forget<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) {
        let mut needs = lock(&self.needs);
        for path in paths {
            needs.lingering.remove(path);
        }
    }

    /// Lets go of what nobody needs any more.
    pub(crate) async fn renew(&self) -> Result<(), DaemonError> {
        let mut held = self.held.lock().await;
        let needed = lock(&self.needs).current(LINGER);
        if held.paths.iter().all(|path| needed.contains(path)) && !held.daemon.is_poisoned() {
            return Ok(());
        }
        self.replace(&mut held, needed).await
    }

    async fn root(&self, paths: &BTreeSet<&StorePath>) -> Result<(), DaemonError> {
        let mut held = self.held.lock().await;
        let fresh: Vec<&StorePath> =
            paths.iter().copied().filter(|path| !held.paths.contains(*path)).collect();
        if !held.daemon.is_poisoned() {
            match held.daemon.add_temp_roots(fresh.iter().copied()).await {
                Ok(()) => {
                    held.paths.extend(fresh.into_iter().cloned());
                    return Ok(());
                }
                Err(error) if error.remote().is_some() => return Err(error),
                Err(error) => tracing::warn!(%error, "the connection that holds roots broke: making another"),
            }
        }
        let all = held.paths.iter().chain(fresh).cloned().collect();
        self.replace(&mut held, all).await
    }

    /// The new connection holds everything before the old one ends.
    async fn replace(&self, held: &mut Held, paths: HashSet<StorePath>) -> Result<(), DaemonError> {
        let mut daemon = lane::connect(&self.address, self.patience).await?;
        daemon.add_temp_roots(&paths).await?;
        *held = Held { daemon, paths };
        Ok(())
    }
}

impl Needs {
    /// What must be held now; what has lingered for longer is forgotten.
    fn current(&mut self, linger: Duration) -> HashSet<StorePath> {
        self.lingering.retain(|_, since| since.elapsed() < linger);
        self.guarded.keys().chain(self.lingering.keys()).cloned().collect()
    }
}

impl Guard {
    fn over(needs: &Arc<Lock<Needs>>, paths: Vec<StorePath>) -> Self {
        let mut counting = lock(needs);
        for path in &paths {
            *counting.guarded.entry(path.clone()).or_default() += 1;
        }
        drop(counting);
        Self { needs: needs.clone(), paths }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let now = Moment::now();
        let mut needs = lock(&self.needs);
        for path in self.paths.drain(..) {
            if let Some(count) = needs.guarded.get_mut(&path) {
                *count -= 1;
                if *count == 0 {
                    needs.guarded.remove(&path);
                }
            }
            needs.lingering.insert(path, now);
        }
    }
}

fn lock(needs: &Lock<Needs>) -> MutexGuard<'_, Needs> {
    needs.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_guarded_by_two_is_held_until_both_are_gone_and_then_lingers() {
        let needs: Arc<Lock<Needs>> = Arc::default();
        let path: StorePath = format!("{:0>32}-x", 1).parse().expect("a store path");
        let (first, second) =
            (Guard::over(&needs, vec![path.clone()]), Guard::over(&needs, vec![path.clone()]));
        drop(first);
        lock(&needs).lingering.clear();
        assert!(lock(&needs).current(LINGER).contains(&path));
        drop(second);
        assert!(lock(&needs).guarded.is_empty());
        assert!(lock(&needs).current(LINGER).contains(&path), "it lingers");
        assert!(lock(&needs).current(Duration::ZERO).is_empty(), "and is forgotten");
        assert!(lock(&needs).lingering.is_empty());
    }
}
