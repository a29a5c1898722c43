//! Placement: which ready step goes to which worker.
//!
//! Decides by class of need: the longest chain of dependents first, first come first served among equals,
//! on the worker with most room, or near its inputs where that matters. A worker that refused a step does
//! not get it again.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::event::Failure;
use crate::fleet::Fleet;
use crate::graph::{ClassId, Locality, ReadyKey, StepId};
use crate::id::{Time, WorkerId};
use crate::sabotage::Sabotage;
use crate::worker::Worker;

/// Who cannot build a step, though it fits.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) workers: Vec<WorkerId>,
    pub(crate) last: Failure,
    /// Since when it is ready and no other connected worker fits.
    pub(crate) stranded: Option<Time>,
}

impl Fleet {
    /// Leases ready steps as long as there is room for one of them.
    pub(crate) fn place_steps(&mut self) {
        while let Some((worker, key)) = self.next_placement() {
            self.lease_steps(worker, &[key.step]);
        }
    }

    /// The most urgent ready step that some worker has room for, and that worker.
    pub(crate) fn next_placement(&self) -> Option<(WorkerId, ReadyKey)> {
        let overfill = self.sabotaged(Sabotage::OverfillWorkers);
        let with_room = |worker: &&Worker| worker.free_slots() > 0 || (overfill && worker.leases.len() < 4);
        let idle: BTreeMap<WorkerId, &Worker> = self
            .workers
            .iter()
            .filter(|(_, worker)| with_room(worker))
            .map(|(id, worker)| (*id, worker))
            .collect();
        if idle.is_empty() {
            return None;
        }
        let best_of = |class: ClassId| self.best_of_class(class, &idle);
        self.graph.classes.busy().filter_map(best_of).min_by_key(|(_, key)| *key)
    }

    fn best_of_class(
        &self,
        class: ClassId,
        idle: &BTreeMap<WorkerId, &Worker>,
    ) -> Option<(WorkerId, ReadyKey)> {
        let class = self.graph.classes.get(class);
        let needs_nothing = self.sabotaged(Sabotage::IgnoreNeeds);
        let fitting = idle.iter().filter(|(_, worker)| needs_nothing || worker.fits(&class.need));
        let fitting: Vec<(WorkerId, &Worker)> = fitting.map(|(id, worker)| (*id, *worker)).collect();
        if fitting.is_empty() {
            return None;
        }
        // All but the steps that some workers refused are as good as the first.
        class.ready.iter().find_map(|key| Some((self.choose(key.step, &fitting)?, *key)))
    }

    fn choose(&self, id: StepId, fitting: &[(WorkerId, &Worker)]) -> Option<WorkerId> {
        let willing = fitting.iter().filter(|(worker, _)| !self.has_refused(id, *worker));
        let inputs = match self.graph.definition(id).locality {
            Locality::Anywhere => BTreeMap::new(),
            Locality::NearInputs => self.inputs_by_worker(id),
        };
        let near = |worker: &WorkerId| inputs.get(worker).copied().unwrap_or(0);
        let best = willing.max_by_key(|(id, worker)| (near(id), worker.free_slots(), Reverse(*id)));
        best.map(|(id, _)| *id)
    }

    fn inputs_by_worker(&self, id: StepId) -> BTreeMap<WorkerId, usize> {
        let mut inputs = BTreeMap::new();
        for built in self.graph.inputs(id).filter_map(|input| self.graph.step(input).built) {
            *inputs.entry(built.by).or_default() += 1;
        }
        inputs
    }

    pub(crate) fn has_refused(&self, id: StepId, worker: WorkerId) -> bool {
        self.refusals.get(&id).is_some_and(|refusal| refusal.workers.contains(&worker))
    }

    /// Remembers that a worker cannot build a step; says whether another may try.
    pub(crate) fn refused(&mut self, id: StepId, worker: WorkerId, failure: &Failure) -> bool {
        let new = || Refusal { workers: Vec::new(), last: failure.clone(), stranded: None };
        let refusal = self.refusals.entry(id).or_insert_with(new);
        refusal.workers.push(worker);
        refusal.last = failure.clone();
        refusal.workers.len() < self.config.refusals
    }
}
