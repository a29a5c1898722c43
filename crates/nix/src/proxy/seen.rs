//! The derivations that evaluators wrote, as they wrote them. Bounded: the oldest are forgotten first.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::StorePath;

/// A derivation as an evaluator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenDerivation {
    /// The bytes of the `.drv` file.
    pub aterm: Bytes,
    /// The references it was added with.
    pub references: BTreeSet<StorePath>,
}

#[derive(Debug)]
pub(super) struct SeenDerivations {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    derivations: HashMap<StorePath, Arc<SeenDerivation>>,
    order: VecDeque<StorePath>,
}

impl SeenDerivations {
    pub(super) fn new(limit: usize) -> Self {
        SeenDerivations { limit, state: Mutex::default() }
    }

    pub(super) fn get(&self, path: &StorePath) -> Option<Arc<SeenDerivation>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).derivations.get(path).cloned()
    }

    pub(super) fn insert(&self, path: StorePath, derivation: SeenDerivation) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.derivations.contains_key(&path) {
            return;
        }
        state.bytes += weight(&derivation);
        state.order.push_back(path.clone());
        state.derivations.insert(path, Arc::new(derivation));
        while state.bytes > self.limit
            && let Some(oldest) = state.order.pop_front()
        {
            if let Some(forgotten) = state.derivations.remove(&oldest) {
                state.bytes -= weight(&forgotten);
            }
        }
    }
}

/// Roughly what a derivation occupies.
fn weight(derivation: &SeenDerivation) -> usize {
    const PATH: usize = 100;
    PATH * (1 + derivation.references.len()) + derivation.aterm.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_first_and_the_bound_holds() {
        let seen = SeenDerivations::new(1000);
        let path =
            |number: u32| -> StorePath { format!("{number:0>32}-x.drv").parse().expect("a store path") };
        let derivation = || SeenDerivation { aterm: Bytes::from(vec![0; 150]), references: BTreeSet::new() };
        for number in 0..10 {
            seen.insert(path(number), derivation());
            seen.insert(path(number), derivation());
        }
        let kept: Vec<u32> = (0..10).filter(|number| seen.get(&path(*number)).is_some()).collect();
        assert_eq!(kept, [6, 7, 8, 9]);
        seen.insert(
            path(10),
            SeenDerivation { aterm: Bytes::from(vec![0; 2000]), references: BTreeSet::new() },
        );
        assert!((0..=10).all(|number| seen.get(&path(number)).is_none()));
    }
}
