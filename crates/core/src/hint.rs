//! Hints: what busy workers will probably build next, so that they fetch its inputs meanwhile.
//!
//! Owns which worker expects which step. Soft: nothing of it is recorded, a restart forgets it, and whoever
//! expects a step has no right to it.

use std::collections::BTreeMap;
use std::fmt;

use crate::effect::Command;
use crate::fleet::Fleet;
use crate::graph::{Locality, ReadyKey, State, StepId};
use crate::id::WorkerId;
use crate::sabotage::Sabotage;

/// A worker takes the step that it expects although another is more urgent, by so many dependents at most.
const SLACK: u32 = 2;

/// Steps that workers expect: one each, no step twice.
#[derive(Clone, Default)]
pub(crate) struct Hints {
    steps: BTreeMap<WorkerId, StepId>,
    workers: BTreeMap<StepId, WorkerId>,
}

/// Two fleets that differ in nothing but hints are the same fleet.
impl fmt::Debug for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hints")
    }
}

impl Hints {
    /// Who expects a step.
    pub(crate) fn worker_for(&self, step: StepId) -> Option<WorkerId> {
        self.workers.get(&step).copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, StepId)> + '_ {
        self.steps.iter().map(|(worker, step)| (*worker, *step))
    }

    fn insert(&mut self, worker: WorkerId, step: StepId) {
        self.steps.insert(worker, step);
        self.workers.insert(step, worker);
    }

    fn retain(&mut self, keep: impl Fn(WorkerId, StepId) -> bool) {
        self.steps.retain(|worker, step| keep(*worker, *step));
        self.workers.retain(|step, worker| self.steps.get(worker) == Some(step));
    }
}

impl Fleet {
    /// The step that one of these workers expects, if it is hardly less urgent than the one that would be next.
    pub(crate) fn next_hinted(
        &self,
        idle: impl Iterator<Item = WorkerId>,
        next: ReadyKey,
    ) -> Option<(WorkerId, StepId)> {
        let urgent = |key: &ReadyKey| key.rank.0.saturating_add(SLACK) >= next.rank.0;
        let expected = idle.filter_map(|worker| Some((worker, *self.hints.steps.get(&worker)?)));
        let ready = expected.filter(|(_, step)| self.graph.step(*step).state == State::Ready);
        let mut taken =
            ready.filter(|(worker, step)| urgent(&self.graph.key(*step)) && self.suits(*worker, *step));
        taken.next()
    }

    /// Tells workers without a free slot what they will probably build next.
    pub(crate) fn hint(&mut self) {
        if self.script.is_some() || !self.config.prefetch {
            return;
        }
        let mut hints = std::mem::take(&mut self.hints);
        hints.retain(|worker, step| self.graph.step(step).state == State::Ready && self.may_expect(worker));
        self.hints = hints;
        if self.graph.tally.ready == 0 {
            return;
        }
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in workers {
            if self.hints.steps.contains_key(&worker) || !self.may_expect(worker) {
                continue;
            }
            let lease = self.workers.get(&worker).and_then(|worker| worker.leases.last().copied());
            let (Some(step), Some(lease)) = (self.next_expected(worker), lease) else { continue };
            let Some(epoch) = self.leases.get(&lease).map(|lease| lease.epoch) else { continue };
            self.hints.insert(worker, step);
            self.send(worker, Command::Prefetch { drv: self.graph.drv(step), lease, epoch });
        }
    }

    /// Whether a worker will get leases, but none now.
    fn may_expect(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            let busy =
                !worker.leases.is_empty() && (worker.free_slots() == 0 || self.sabotaged(Sabotage::HintIdle));
            busy && worker.takes_work() && worker.standing.quarantine.is_none()
        })
    }

    /// The most urgent ready step for a worker that nobody expects. What is best built where its inputs are has
    /// nothing to be fetched.
    fn next_expected(&self, id: WorkerId) -> Option<StepId> {
        let worker = self.workers.get(&id)?;
        let classes = self.graph.classes.busy().map(|class| self.graph.classes.get(class));
        let free = |key: &&ReadyKey| {
            let expected = self.hints.workers.contains_key(&key.step) && !self.sabotaged(Sabotage::HintTwice);
            let anywhere = self.graph.definition(key.step).locality == Locality::Anywhere;
            !expected && anywhere && self.suits(id, key.step)
        };
        let fitting = classes.filter(|class| worker.fit(&class.need).is_some());
        fitting.filter_map(|class| class.ready.iter().find(free)).min().map(|key| key.step)
    }
}
