//! Ready steps by what they need of a worker, best first.
//!
//! Owns the ready queues. Steps of one class fit the same workers, so that placement looks at the front of
//! a few queues and never at all steps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::StepId;
use crate::id::{Feature, System, Time};

/// What a step needs of a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub(crate) system: System,
    /// Sorted, each once.
    pub(crate) features: Vec<Feature>,
}

impl Need {
    pub(crate) fn new(system: &System, features: &[Feature]) -> Self {
        let mut features = features.to_vec();
        features.sort();
        features.dedup();
        Self { system: system.clone(), features }
    }
}

/// Names a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassId(u32);

/// Place in a ready queue: longest chain of dependents first, then first come, first served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReadyKey {
    pub(crate) rank: Reverse<u32>,
    pub(crate) order: u64,
    pub(crate) step: StepId,
}

/// Steps with the same needs.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) need: Need,
    pub(crate) ready: BTreeSet<ReadyKey>,
    /// Since when some are ready and no connected worker fits.
    pub(crate) stranded: Option<Time>,
}

/// All classes.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    all: Vec<Class>,
    by_need: BTreeMap<Need, ClassId>,
    /// Those with ready steps.
    busy: BTreeSet<ClassId>,
}

impl Classes {
    pub(crate) fn intern(&mut self, need: Need) -> ClassId {
        if let Some(known) = self.by_need.get(&need) {
            return *known;
        }
        let id = ClassId(u32::try_from(self.all.len()).expect("there are no more classes than steps"));
        self.all.push(Class { need: need.clone(), ready: BTreeSet::new(), stranded: None });
        self.by_need.insert(need, id);
        id
    }

    pub(crate) fn get(&self, id: ClassId) -> &Class {
        &self.all[id.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, id: ClassId) -> &mut Class {
        &mut self.all[id.0 as usize]
    }

    pub(crate) fn busy(&self) -> impl Iterator<Item = ClassId> + '_ {
        self.busy.iter().copied()
    }

    pub(crate) fn offer(&mut self, id: ClassId, key: ReadyKey) {
        self.get_mut(id).ready.insert(key);
        self.busy.insert(id);
    }

    pub(crate) fn withdraw(&mut self, id: ClassId, key: ReadyKey) {
        let class = self.get_mut(id);
        class.ready.remove(&key);
        if class.ready.is_empty() {
            class.stranded = None;
            self.busy.remove(&id);
        }
    }
}
