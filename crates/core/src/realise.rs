//! Realise jobs: the last step of a target, on a worker that has its toplevel or can fetch it.
//!
//! Owns the queue of toplevels and the jobs that workers hold. A target that is realised is in exactly one
//! of the two.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::effect::{Closure, Command, Publish, TargetStatus};
use crate::event::{Failure, FailureCode, Goal};
use crate::fleet::Fleet;
use crate::id::{Epoch, OutputPath, RealiseJobId, RunId, Side, Time, WorkerId};
use crate::record::Decision;
use crate::run::failure;
use crate::sabotage::Sabotage;
use crate::target::{Stage, TargetRef};
use crate::worker::Worker;

/// Everything about realising that is not over.
#[derive(Debug, Default)]
pub(crate) struct Realises {
    /// By builder. Who waits for one holds up nobody who waits for another.
    pub(crate) queues: BTreeMap<Option<WorkerId>, VecDeque<RealiseWork>>,
    pub(crate) jobs: BTreeMap<RealiseJobId, RealiseJob>,
    /// Since when there is work that no connected worker can do.
    pub(crate) stranded: Option<Time>,
}

/// A toplevel to realise.
#[derive(Debug)]
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
    pub(crate) epoch: Epoch,
    /// The event with which it was granted.
    pub(crate) since: u64,
    pub(crate) work: RealiseWork,
}

impl Realises {
    /// All that waits.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &RealiseWork> {
        self.queues.values().flatten()
    }

    fn push(&mut self, work: RealiseWork) {
        self.queues.entry(work.builder).or_default().push_back(work);
    }

    /// Takes out the work of a target.
    fn take(&mut self, at: TargetRef) -> Option<RealiseWork> {
        // It is the first of its queue whenever it was just granted.
        let front = self.queues.iter().find(|(_, queue)| queue.front().is_some_and(|work| work.at == at));
        let any = || self.queues.iter().find(|(_, queue)| queue.iter().any(|work| work.at == at));
        let builder = *front.or_else(any)?.0;
        let queue = self.queues.get_mut(&builder)?;
        let position = queue.iter().position(|work| work.at == at)?;
        let work = queue.remove(position);
        self.queues.retain(|_, queue| !queue.is_empty());
        work
    }
}

impl Fleet {
    pub(crate) fn want_realise(&mut self, at: TargetRef, path: OutputPath, builder: Option<WorkerId>) {
        self.realises.push(RealiseWork { at, path, builder, tries: 0 });
    }

    /// A toplevel that a worker has room for.
    pub(crate) fn next_realise(&self) -> Option<Decision> {
        let first = |(builder, queue): (&Option<WorkerId>, &VecDeque<RealiseWork>)| {
            Some((self.realiser(*builder)?, queue.front()?.at))
        };
        let (worker, at) = self.realises.queues.iter().find_map(first)?;
        let TargetRef { run, host, side } = at;
        let grant = self.next_grant();
        let (job, epoch) = (RealiseJobId(grant), Epoch(grant));
        Some(Decision::RealiseGranted { worker, job, epoch, run, host, side })
    }

    /// Who is to realise what this worker built, if anyone has room: its builder, as long as that may come back,
    /// else the least busy that evaluates.
    fn realiser(&self, builder: Option<WorkerId>) -> Option<WorkerId> {
        let room = |worker: &Worker| worker.realises.len() < self.config.realises_per_worker.max(1);
        if let Some(builder) = builder
            && let Some(worker) = self.workers.get(&builder).filter(|worker| worker.realises_its_own())
        {
            return (worker.is_connected() && room(worker)).then_some(builder);
        }
        let able = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.offer.eval_slots > 0 && self.takes_work(worker) && room(worker));
        able.max_by_key(|(id, worker)| Reverse((worker.realises.len(), **id))).map(|(id, _)| *id)
    }

    /// Whether anyone could realise what this worker built, given time.
    pub(crate) fn can_realise(&self, builder: Option<WorkerId>) -> bool {
        let builder = builder.and_then(|builder| self.workers.get(&builder));
        builder.is_some_and(Worker::realises_its_own) || self.evaluators_expected()
    }

    /// Takes a target's toplevel from the queue and gives it to a worker.
    pub(crate) fn start_realise(
        &mut self,
        id: WorkerId,
        job: RealiseJobId,
        epoch: Epoch,
        at: TargetRef,
    ) -> Option<()> {
        let (run, worker) = (self.runs.get(&at.run)?, self.workers.get_mut(&id)?);
        let work = self.realises.take(at)?;
        let closure = if run.request.before.is_some() { Closure::Wanted } else { Closure::NotWanted };
        let published = self.config.publish
            && (at.side == Side::After || self.sabotage == Sabotage::PublishBefore)
            && run.request.goal == Goal::Build;
        let publish = if published { Publish::Wanted } else { Publish::NotWanted };
        worker.realises.insert(job);
        self.granted(epoch);
        let command = Command::Realise { job, epoch, path: work.path.clone(), run: at.run, closure, publish };
        self.realises.jobs.insert(job, RealiseJob { worker: id, epoch, since: self.tick, work });
        self.send(id, command);
        Some(())
    }

    /// Whether this worker has this job, under this epoch.
    pub(crate) fn is_realising(&self, worker: WorkerId, job: RealiseJobId, epoch: Epoch) -> bool {
        self.realises.jobs.get(&job).is_some_and(|job| job.worker == worker && job.epoch == epoch)
    }

    pub(crate) fn realised(
        &mut self,
        worker: WorkerId,
        id: RealiseJobId,
        epoch: Epoch,
        result: &Result<(), Failure>,
        missing: &[OutputPath],
    ) {
        if !self.is_realising(worker, id, epoch) {
            return;
        }
        let Some(job) = self.end_realise(id) else { return };
        if let Err(failure) = result {
            if missing.is_empty() || !self.closure_lost(&job, missing) {
                self.realise_failed(job.work, failure.clone());
            }
            return;
        }
        let target = self.runs.get(&job.work.at.run).and_then(|run| run.target(job.work.at));
        if let Some(Stage::Realising(status)) = target.map(|target| &target.stage) {
            self.settle(job.work.at, *status, None);
        }
    }

    /// The coordinator started: what was being realised waits again, and nobody is to blame.
    pub(crate) fn resume_realises(&mut self) {
        let jobs: Vec<RealiseJobId> = self.realises.jobs.keys().copied().collect();
        for id in jobs {
            if let Some(job) = self.end_realise(id) {
                self.realises.push(job.work);
            }
        }
    }

    /// Nobody realises a toplevel, and the patience is over.
    pub(crate) fn give_up_realise(&mut self, at: TargetRef, failure: &Failure) -> Option<()> {
        self.realises.take(at)?;
        self.settle(at, TargetStatus::BuildFailed, Some(failure.clone()));
        Some(())
    }

    /// A realise job's worker is gone.
    pub(crate) fn realise_lost(&mut self, id: RealiseJobId, worker: &Arc<str>) {
        let Some(job) = self.end_realise(id) else { return };
        if !self.sabotaged(Sabotage::LoseRealises) {
            let cause = format!("worker {worker} was lost");
            self.realise_failed(job.work, failure(FailureCode::WorkerLost, cause));
        }
    }

    fn realise_failed(&mut self, mut work: RealiseWork, failure: Failure) {
        work.tries += 1;
        let again = work.tries < self.config.realise_attempts;
        if again && failure.code.is_infrastructure() {
            self.realises.push(work);
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
        self.realises.queues.retain(|_, queue| {
            queue.retain(|work| work.at.run != run);
            !queue.is_empty()
        });
        let of_run = self.realises.jobs.iter().filter(|(_, job)| job.work.at.run == run);
        let jobs: Vec<RealiseJobId> = of_run.map(|(id, _)| *id).collect();
        for id in jobs {
            self.end_realise(id);
        }
    }
}
