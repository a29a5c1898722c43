//! Realise jobs: the last step of a target, on a worker that has its toplevel or can fetch it.
//!
//! Owns the queue of toplevels and the jobs that workers hold. A target that is realised is in exactly one
//! of the two.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::effect::{Closure, Command, TargetStatus};
use crate::event::{Failure, FailureCode};
use crate::fleet::Fleet;
use crate::id::{Epoch, OutputPath, RealiseJobId, RunId, Time, WorkerId};
use crate::run::failure;
use crate::sabotage::Sabotage;
use crate::target::{Stage, TargetRef};
use crate::worker::Worker;

/// Everything about realising that is not over.
#[derive(Debug, Default)]
pub(crate) struct Realises {
    pub(crate) queue: VecDeque<RealiseWork>,
    pub(crate) jobs: BTreeMap<RealiseJobId, RealiseJob>,
    /// Since when there is work that no connected worker can do.
    pub(crate) stranded: Option<Time>,
}

/// A toplevel to realise.
#[derive(Clone, Debug)]
pub(crate) struct RealiseWork {
    pub(crate) at: TargetRef,
    path: OutputPath,
    /// Who built it.
    builder: Option<WorkerId>,
    /// Jobs that were lost.
    tries: u32,
}

/// A toplevel that a worker realises.
#[derive(Debug)]
pub(crate) struct RealiseJob {
    pub(crate) worker: WorkerId,
    epoch: Epoch,
    pub(crate) work: RealiseWork,
}

impl Fleet {
    pub(crate) fn want_realise(&mut self, at: TargetRef, path: OutputPath, builder: Option<WorkerId>) {
        self.realises.queue.push_back(RealiseWork { at, path, builder, tries: 0 });
    }

    /// Gives waiting toplevels to workers; one that must wait holds up no other.
    pub(crate) fn place_realises(&mut self) {
        let mut rest = VecDeque::new();
        while let Some(work) = self.realises.queue.pop_front() {
            match self.realiser(&work) {
                Some(worker) => self.start_realise(worker, work),
                None => rest.push_back(work),
            }
        }
        self.realises.queue = rest;
    }

    /// Who is to realise this, if anyone has room: its builder, else the least busy that evaluates.
    fn realiser(&self, work: &RealiseWork) -> Option<WorkerId> {
        let room = |worker: &Worker| worker.realises.len() < self.config.realises_per_worker.max(1);
        if let Some(builder) = work.builder
            && let Some(worker) = self.workers.get(&builder)
        {
            return room(worker).then_some(builder);
        }
        let able = self.workers.iter().filter(|(_, worker)| worker.eval_slots > 0 && room(worker));
        able.max_by_key(|(id, worker)| Reverse((worker.realises.len(), **id))).map(|(id, _)| *id)
    }

    /// Whether any connected worker could do this, given time.
    pub(crate) fn can_realise(&self, work: &RealiseWork) -> bool {
        work.builder.is_some_and(|builder| self.workers.contains_key(&builder))
            || self.workers.values().any(|worker| worker.eval_slots > 0)
    }

    fn start_realise(&mut self, id: WorkerId, work: RealiseWork) {
        let (job, epoch) = self.grant_realise();
        let (Some(run), Some(worker)) = (self.runs.get(&work.at.run), self.workers.get_mut(&id)) else {
            return;
        };
        let closure = if run.request.before.is_some() { Closure::Wanted } else { Closure::NotWanted };
        worker.realises.insert(job);
        let command = Command::Realise { job, epoch, path: work.path.clone(), run: work.at.run, closure };
        self.realises.jobs.insert(job, RealiseJob { worker: id, epoch, work });
        self.send(id, command);
    }

    pub(crate) fn realised(
        &mut self,
        worker: WorkerId,
        id: RealiseJobId,
        epoch: Epoch,
        result: Result<(), Failure>,
    ) {
        let current = |job: &RealiseJob| job.worker == worker && job.epoch == epoch;
        if !self.realises.jobs.get(&id).is_some_and(current) {
            return;
        }
        let Some(job) = self.end_realise(id) else { return };
        if let Err(failure) = result {
            self.realise_failed(job.work, failure);
            return;
        }
        let target = self.runs.get(&job.work.at.run).and_then(|run| run.target(job.work.at));
        if let Some(Stage::Realising(status)) = target.map(|target| &target.stage) {
            self.settle(job.work.at, *status, None);
        }
    }

    /// A realise job's worker is gone.
    pub(crate) fn realise_lost(&mut self, id: RealiseJobId, worker: &Arc<str>) {
        let Some(job) = self.end_realise(id) else { return };
        if !self.sabotaged(Sabotage::LoseRealises) {
            let cause = format!("worker {worker} was lost");
            self.realise_failed(job.work, failure(FailureCode::Infrastructure, cause));
        }
    }

    fn realise_failed(&mut self, mut work: RealiseWork, failure: Failure) {
        work.tries += 1;
        let again = work.tries < self.config.realise_attempts;
        if again && failure.code == FailureCode::Infrastructure {
            self.realises.queue.push_back(work);
        } else {
            self.settle(work.at, TargetStatus::BuildFailed, Some(failure));
        }
    }

    fn end_realise(&mut self, id: RealiseJobId) -> Option<RealiseJob> {
        let job = self.realises.jobs.remove(&id)?;
        if let Some(worker) = self.workers.get_mut(&job.worker) {
            worker.realises.remove(&id);
        }
        Some(job)
    }

    /// Forgets a run's toplevels. Jobs that run on end unheard; they do no harm.
    pub(crate) fn cancel_realises(&mut self, run: RunId) {
        self.realises.queue.retain(|work| work.at.run != run);
        let of_run = self.realises.jobs.iter().filter(|(_, job)| job.work.at.run == run);
        let jobs: Vec<RealiseJobId> = of_run.map(|(id, _)| *id).collect();
        for id in jobs {
            self.end_realise(id);
        }
    }
}
