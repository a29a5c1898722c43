//! Outputs that were made while the disk was full. A builder that ignores write errors succeeds with half of its files:
//! such outputs are deleted, and those that cannot be are remembered and never reported as valid.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use fleet_nix::store_path::StorePath;

/// Beyond this the oldest doubts are not worth their memory.
const MAX_SUSPECTS: usize = 100_000;

/// Paths that are valid for Nix, and not for us.
#[derive(Debug, Default)]
pub(crate) struct Suspects(Mutex<HashSet<StorePath>>);

impl Suspects {
    pub(crate) fn add<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) {
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if suspects.len() > MAX_SUSPECTS {
            suspects.clear();
        }
        suspects.extend(paths.into_iter().cloned());
    }

    pub(crate) fn clear<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) {
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for path in paths {
            suspects.remove(path);
        }
    }

    pub(crate) fn any<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) -> bool {
        let suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paths.into_iter().any(|path| suspects.contains(path))
    }
}
