//! Which paths are being fetched, so that none is fetched twice at once.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet_nix::store_path::StorePath;
use tokio::sync::Notify;

/// Paths that somebody fetches.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    taken: Mutex<HashSet<StorePath>>,
    freed: Notify,
}

/// Some paths are ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    claims: &'a Claims,
    paths: BTreeSet<StorePath>,
}

impl Claims {
    /// Waits until nobody fetches any of `paths`. All or none are taken: two never wait for each other.
    pub(crate) async fn take(&self, paths: BTreeSet<StorePath>) -> Claim<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on nothing is missed.
            freed.as_mut().enable();
            if self.try_take(&paths) {
                return Claim { claims: self, paths };
            }
            freed.await;
        }
    }

    fn try_take(&self, paths: &BTreeSet<StorePath>) -> bool {
        let mut taken = self.lock();
        if paths.iter().any(|path| taken.contains(path)) {
            return false;
        }
        taken.extend(paths.iter().cloned());
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<StorePath>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut taken = self.claims.lock();
        for path in &self.paths {
            taken.remove(path);
        }
        drop(taken);
        self.claims.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn paths(numbers: &[u32]) -> BTreeSet<StorePath> {
        numbers.iter().map(|number| format!("{number:0>32}-x").parse().expect("a store path")).collect()
    }

    #[tokio::test]
    async fn a_path_is_fetched_by_one_at_a_time_and_others_are_not_held_up() {
        let claims = Claims::default();
        let first = claims.take(paths(&[1, 2])).await;
        let mut second = std::pin::pin!(claims.take(paths(&[2, 3])));
        assert!(second.as_mut().now_or_never().is_none());
        drop(claims.take(paths(&[3, 4])).now_or_never().expect("what waits holds nothing"));
        drop(first);
        let second = second.now_or_never().expect("it is free");
        assert!(claims.take(paths(&[3])).now_or_never().is_none());
        drop(second);
        assert!(claims.lock().is_empty());
    }
}
