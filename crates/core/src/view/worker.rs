//! Workers, as people see them.

use std::sync::Arc;

use crate::effect::LeasedStep;
use crate::fleet::Fleet;
use crate::id::{Epoch, EvalJobId, Feature, LeaseId, Session, System, WorkerId};
use crate::worker::{Presence, Worker};

/// One known worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    /// Which, across its sessions.
    pub worker: WorkerId,
    /// For people.
    pub name: Arc<str>,
    /// Its present session.
    pub session: Option<Session>,
    /// How it stands.
    pub state: WorkerState,
    /// Why it stands so, or why it should get nothing now; empty when all is well.
    pub reason: Arc<str>,
    /// Why it should get nothing now, by its own word.
    pub unwell: Option<Arc<str>>,
    /// Systems it builds for.
    pub systems: Vec<System>,
    /// Of these, those that are emulated.
    pub emulated: Vec<System>,
    /// Features it offers.
    pub features: Vec<Feature>,
    /// Features that a step must require to be built here.
    pub mandatory_features: Vec<Feature>,
    /// Which start of the machine it is.
    pub boot: Arc<str>,
    /// Leases at a time.
    pub slots: usize,
    /// Leases it has.
    pub leased: usize,
    /// Eval jobs at a time.
    pub eval_slots: usize,
    /// Eval jobs it has.
    pub evaluating: usize,
    /// Names of the steps it builds.
    pub building: Vec<Arc<str>>,
}

/// How a worker stands, in one word: the first that applies, from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerState {
    /// Never seen.
    Enrolled,
    /// Its session is open, and it may get work.
    Connected,
    /// Its session ended; its leases wait for it.
    Away,
    /// Nothing waits for it any more.
    Gone,
    /// It failed what others manage.
    Quarantined,
    /// It gets no new work.
    Drained,
    /// Two use its identity.
    Locked,
    /// For ever.
    Revoked,
}

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// Names it.
    pub lease: LeaseId,
    /// Fences it.
    pub epoch: Epoch,
    /// Who holds it.
    pub worker: WorkerId,
    /// Those not reported yet.
    pub steps: Vec<LeasedStep>,
}

impl Fleet {
    /// One worker, if it is known.
    pub fn worker_view(&self, id: WorkerId) -> Option<WorkerView> {
        let worker = self.workers.get(&id)?;
        let (state, reason) = worker.state();
        let leased = worker.leases.iter().filter_map(|lease| self.leases.get(lease));
        let steps = leased.flat_map(|lease| &lease.steps);
        Some(WorkerView {
            worker: id,
            name: Arc::clone(&worker.name),
            session: worker.session(),
            state,
            reason,
            unwell: worker.unwell.clone(),
            systems: worker.offer.systems.iter().cloned().collect(),
            emulated: worker.offer.emulated.iter().cloned().collect(),
            features: worker.offer.features.iter().cloned().collect(),
            mandatory_features: worker.offer.mandatory.iter().cloned().collect(),
            boot: Arc::clone(&worker.offer.boot),
            slots: worker.offer.slots,
            leased: worker.leases.len(),
            eval_slots: worker.offer.eval_slots,
            evaluating: worker.evals.len(),
            building: steps.map(|leased| Arc::clone(&self.graph.step(leased.step).name)).collect(),
        })
    }

    /// Every known worker.
    pub fn worker_views(&self) -> impl Iterator<Item = WorkerView> + '_ {
        self.workers.keys().filter_map(|id| self.worker_view(*id))
    }

    /// Every lease, oldest first.
    pub fn leases(&self) -> impl Iterator<Item = LeaseView> + '_ {
        self.leases.keys().filter_map(|id| self.lease_view(*id))
    }

    /// One lease, while it lasts.
    pub fn lease_view(&self, id: LeaseId) -> Option<LeaseView> {
        let lease = self.leases.get(&id)?;
        let steps = lease.steps.iter().map(|leased| self.leased_step(leased)).collect();
        Some(LeaseView { lease: id, epoch: lease.epoch, worker: lease.worker, steps })
    }

    /// Who has an eval job, and its epoch, while it lasts.
    pub fn eval_job(&self, id: EvalJobId) -> Option<(WorkerId, Epoch)> {
        self.evals.jobs.get(&id).map(|job| (job.worker, job.epoch))
    }
}

impl Worker {
    fn state(&self) -> (WorkerState, Arc<str>) {
        let standing = &self.standing;
        let quarantined = standing.quarantine.as_ref().map(|quarantine| &quarantine.reason);
        let worst = [
            (WorkerState::Revoked, standing.revoked.as_ref()),
            (WorkerState::Locked, standing.locked.as_ref()),
            (WorkerState::Drained, standing.drained.as_ref()),
            (WorkerState::Quarantined, quarantined),
        ];
        if let Some((state, reason)) = worst.into_iter().find_map(|(state, reason)| Some((state, reason?))) {
            return (state, Arc::clone(reason));
        }
        let state = match self.presence {
            Presence::Unmet => WorkerState::Enrolled,
            Presence::Connected { .. } => WorkerState::Connected,
            Presence::Away { .. } => WorkerState::Away,
            Presence::Gone { .. } => WorkerState::Gone,
        };
        (state, self.unwell.clone().unwrap_or_else(|| "".into()))
    }
}
