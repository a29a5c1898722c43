//! What one fetch has learnt of those it fetches from. Pure.

use std::collections::{BTreeMap, BTreeSet};

use fleet_nix::store_path::StorePath;

/// Whom to fetch from no more.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// Why these are of no use now.
    unusable: BTreeMap<String, String>,
    /// Who answered.
    reached: BTreeSet<String>,
    /// Paths that these do not have any more.
    gone: BTreeSet<(String, StorePath)>,
    learnt: usize,
}

impl Trust {
    /// Whether this holder may give this path.
    pub(super) fn may_give(&self, holder: &str, path: &StorePath) -> bool {
        !self.unusable.contains_key(holder)
            && (self.gone.is_empty() || !self.gone.contains(&(holder.to_owned(), path.clone())))
    }

    pub(super) fn is_reached(&self, holder: &str) -> bool {
        self.reached.contains(holder)
    }

    pub(super) fn reached(&mut self, holder: &str) {
        self.reached.insert(holder.to_owned());
    }

    /// Nothing more is asked of this one.
    pub(super) fn give_up(&mut self, holder: &str, why: String) {
        self.learnt += 1;
        self.unusable.insert(holder.to_owned(), why);
    }

    pub(super) fn gone(&mut self, holder: &str, path: &StorePath) {
        self.learnt += 1;
        self.gone.insert((holder.to_owned(), path.clone()));
    }

    /// Rises with everything that was learnt.
    pub(super) fn learnt(&self) -> usize {
        self.learnt
    }

    /// Those that did not give what they should have.
    pub(super) fn unusable(&self) -> Vec<String> {
        let gone = self.gone.iter().map(|(holder, _)| holder);
        self.unusable.keys().chain(gone).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// What one of them did.
    pub(super) fn why(&self) -> Option<String> {
        let unusable = self.unusable.iter().map(|(holder, why)| format!("{holder}: {why}"));
        let gone = self.gone.iter().map(|(holder, path)| format!("{holder} has {path} no more"));
        unusable.chain(gone).next()
    }
}
