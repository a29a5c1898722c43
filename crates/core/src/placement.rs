//! Placement: which ready step goes to which worker.
//!
//! Decides by class of need: the longest chain of dependents first, first come first served among equals,
//! on the worker with most room, or near its inputs where that matters, or that fetched them ahead. A worker that
//! refused a step, or whose disk is too full for it, does not get it; one that failed it, or emulates its system,
//! gets it only when no better one could.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::event::Failure;
use crate::fleet::Fleet;
use crate::graph::{ClassId, Locality, Need, ReadyKey, State, StepId};
use crate::id::{Epoch, LeaseId, Time, WorkerId};
use crate::record::Decision;
use crate::sabotage::Sabotage;
use crate::worker::{Fit, Worker};

/// What speaks against building a step on workers that fit it.
#[derive(Debug)]
pub(crate) struct Objection {
    /// Who cannot build it.
    pub(crate) refused: Vec<WorkerId>,
    /// Who failed it, by no fault of the step.
    pub(crate) failed: Vec<WorkerId>,
    pub(crate) last: Failure,
    /// Since when it is ready and all that fit have refused it.
    pub(crate) stranded: Option<Time>,
}

impl Objection {
    /// How good a worker is for the step, the best first: one that has not failed it, one that does not emulate.
    fn tier(&self, worker: WorkerId, fit: Fit) -> Option<(bool, Fit)> {
        (!self.refused.contains(&worker)).then(|| (self.failed.contains(&worker), fit))
    }
}

/// As [`Objection::tier`], where something may speak against a step or nothing does.
fn tier(objection: Option<&Objection>, worker: WorkerId, fit: Fit) -> Option<(bool, Fit)> {
    objection.map_or(Some((false, fit)), |objection| objection.tier(worker, fit))
}

/// A worker that has room for steps of a class.
#[derive(Debug)]
struct Candidate<'a> {
    id: WorkerId,
    worker: &'a Worker,
    fit: Fit,
    room: usize,
}

/// Who has room for anything, and what all that get leases could hold.
#[derive(Debug)]
struct Field<'a> {
    idle: Vec<(WorkerId, &'a Worker, usize)>,
    /// Steps that need no more than this fit every disk.
    harmless_bytes: u64,
}

impl Fleet {
    /// Whether a worker may get anything new now.
    pub(crate) fn takes_work(&self, worker: &Worker) -> bool {
        let planted = match self.sabotage {
            Sabotage::PlaceOnDrained => worker.standing.drained.is_some() && worker.unwell.is_none(),
            Sabotage::PlaceOnUnwell => worker.unwell.is_some() && worker.standing.drained.is_none(),
            Sabotage::WelcomeRevoked => worker.standing.revoked.is_some(),
            _ => false,
        };
        worker.takes_work() || (planted && worker.is_connected())
    }

    /// Leases a worker may get now; none if it gets none even when it has built what it has.
    fn room(&self, worker: &Worker) -> Option<usize> {
        if !self.takes_work(worker) || (worker.is_resting() && !self.sabotaged(Sabotage::PlaceOnQuarantined))
        {
            return None;
        }
        Some(match self.sabotage {
            Sabotage::OverfillWorkers => worker.free_slots().max(4usize.saturating_sub(worker.leases.len())),
            Sabotage::PlaceOnQuarantined => worker.offer.slots.saturating_sub(worker.leases.len()),
            _ => worker.free_slots(),
        })
    }

    /// The most urgent ready step that some worker has room for, and that worker.
    pub(crate) fn next_lease(&self) -> Option<Decision> {
        let mut busy = self.graph.classes.busy().peekable();
        busy.peek()?;
        let field = self.field();
        if field.idle.is_empty() {
            return None;
        }
        let best_of = |class| self.best_of_class(class, &field);
        let (worker, key) = busy.filter_map(best_of).min_by_key(|(_, key)| *key)?;
        let idle = field.idle.iter().map(|(id, ..)| *id);
        let (worker, step) = self.next_hinted(idle, key).unwrap_or((worker, key.step));
        let grant = self.next_grant();
        let steps = vec![self.next_attempt(step)];
        Some(Decision::LeaseGranted { worker, lease: LeaseId(grant), epoch: Epoch(grant), steps })
    }

    fn field(&self) -> Field<'_> {
        let open = self.workers.iter().filter_map(|(id, worker)| Some((*id, worker, self.room(worker)?)));
        let mut idle = Vec::new();
        let mut harmless_bytes = u64::MAX;
        for (id, worker, room) in open {
            let spare = worker.store_free.map(|free| free.saturating_sub(self.config.disk_floor_bytes));
            harmless_bytes = harmless_bytes.min(spare.unwrap_or(u64::MAX));
            if room > 0 && self.has_room(worker, 0) {
                idle.push((id, worker, room));
            }
        }
        Field { idle, harmless_bytes }
    }

    fn best_of_class(&self, id: ClassId, field: &Field<'_>) -> Option<(WorkerId, ReadyKey)> {
        let class = self.graph.classes.get(id);
        let fitting = field.idle.iter().filter_map(|(id, worker, room)| {
            Some(Candidate { id: *id, worker, fit: self.fit(worker, &class.need)?, room: *room })
        });
        let fitting: Vec<Candidate<'_>> = fitting.collect();
        let best = fitting.iter().map(|candidate| candidate.fit).min()?;
        let chosen = |key: &ReadyKey| Some((self.choose(key.step, &fitting, field.harmless_bytes)?, *key));
        if best == Fit::Native || !self.has_native(&class.need) {
            // All but the few against which something speaks are as good as the first.
            return class.ready.iter().find_map(chosen);
        }
        // The others wait for those that fit best; these may not.
        let large = self.largest_prediction() > field.harmless_bytes;
        let large = class
            .ready
            .iter()
            .filter(|key| large && self.predicted_bytes(key.step) > field.harmless_bytes)
            .find_map(chosen);
        let objected = self.objections.keys().filter(|step| {
            self.graph.step(**step).state == State::Ready && self.graph.definition(**step).class == id
        });
        let objected = objected.filter_map(|step| chosen(&self.graph.key(*step)));
        objected.chain(large).min_by_key(|(_, key)| *key)
    }

    /// Whether a worker that does not emulate gets such steps, now or when it has room.
    fn has_native(&self, need: &Need) -> bool {
        let open = self.workers.values().filter(|worker| self.room(worker).is_some());
        open.map(|worker| self.fit(worker, need)).any(|fit| fit == Some(Fit::Native))
    }

    fn fit(&self, worker: &Worker, need: &Need) -> Option<Fit> {
        if self.sabotaged(Sabotage::IgnoreNeeds) { Some(Fit::Native) } else { worker.fit(need) }
    }

    /// Who of these is to build a step, unless somebody better is only busy.
    fn choose(&self, id: StepId, fitting: &[Candidate<'_>], harmless_bytes: u64) -> Option<WorkerId> {
        let inputs = match self.graph.definition(id).locality {
            Locality::Anywhere => BTreeMap::new(),
            Locality::NearInputs => self.inputs_by_worker(id),
        };
        let near = |worker: &WorkerId| inputs.get(worker).copied().unwrap_or(0);
        let bytes = self.predicted_bytes(id);
        let objection = self.objections.get(&id);
        let best = if objection.is_none() && bytes <= harmless_bytes {
            fitting.iter().map(|candidate| (false, candidate.fit)).min()
        } else {
            self.best_tier(id)
        }?;
        let in_best = |candidate: &&Candidate<'_>| {
            tier(objection, candidate.id, candidate.fit) == Some(best)
                && self.has_room(candidate.worker, bytes)
        };
        let hinted = self.hints.worker_for(id);
        let free = fitting.iter().filter(in_best);
        let chosen = free.max_by_key(|candidate| {
            (hinted == Some(candidate.id), near(&candidate.id), candidate.room, Reverse(candidate.id))
        });
        chosen.map(|candidate| candidate.id)
    }

    /// The best that any worker which gets leases would be for this step, whether or not it has room now.
    fn best_tier(&self, id: StepId) -> Option<(bool, Fit)> {
        let need = &self.graph.classes.get(self.graph.definition(id).class).need;
        let (bytes, objection) = (self.predicted_bytes(id), self.objections.get(&id));
        let open = self.workers.iter().filter(|(_, worker)| self.room(worker).is_some());
        let able = open.filter(|(_, worker)| self.could_hold(worker, bytes));
        able.filter_map(|(id, worker)| tier(objection, *id, self.fit(worker, need)?)).min()
    }

    /// Whether a worker is as good for a step as any, and has room on its disk.
    pub(crate) fn suits(&self, worker: WorkerId, id: StepId) -> bool {
        let Some(offer) = self.workers.get(&worker) else { return false };
        let need = &self.graph.classes.get(self.graph.definition(id).class).need;
        let tier = self.fit(offer, need).and_then(|fit| tier(self.objections.get(&id), worker, fit));
        tier.is_some() && tier == self.best_tier(id) && self.has_room(offer, self.predicted_bytes(id))
    }

    fn inputs_by_worker(&self, id: StepId) -> BTreeMap<WorkerId, usize> {
        let mut inputs = BTreeMap::new();
        for built in self.graph.inputs(id).filter_map(|input| self.graph.step(input).built) {
            *inputs.entry(built.by).or_default() += 1;
        }
        inputs
    }

    pub(crate) fn has_refused(&self, id: StepId, worker: WorkerId) -> bool {
        self.objections.get(&id).is_some_and(|objection| objection.refused.contains(&worker))
    }

    fn object(&mut self, id: StepId, failure: &Failure) -> &mut Objection {
        let objection = self.objections.entry(id).or_insert_with(|| Objection {
            refused: Vec::new(),
            failed: Vec::new(),
            last: failure.clone(),
            stranded: None,
        });
        objection.last = failure.clone();
        objection
    }

    /// Remembers that a worker cannot build a step; says whether another may try.
    pub(crate) fn refused(&mut self, id: StepId, worker: WorkerId, failure: &Failure) -> bool {
        let most = self.config.refusals;
        let objection = self.object(id, failure);
        objection.refused.push(worker);
        objection.refused.len() < most
    }

    /// Remembers that a worker failed a step by no fault of the step.
    pub(crate) fn blame_worker(&mut self, id: StepId, worker: WorkerId, failure: &Failure) {
        let objection = self.object(id, failure);
        if !objection.failed.contains(&worker) {
            objection.failed.push(worker);
        }
        self.strike(worker, self.graph.drv(id), &failure.cause);
    }
}
