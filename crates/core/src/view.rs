//! What status pages and metrics may see: copies, bounded, without a way back.
//!
//! Decides nothing. Everything here is computed on request from [`Fleet`].

mod why;
mod worker;

pub(crate) use why::describe;
pub use why::{Rejection, WhyView};
pub use worker::*;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::effect::{Counts, Finished, TargetStatus};
use crate::event::Failure;
use crate::fleet::Fleet;
use crate::graph::{State, StepId};
use crate::id::{DrvPath, OutputPath, RunId, System, Target, Time};
use crate::run::Run;
use crate::target::Stage;

/// Everything at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetView {
    /// Live runs, then ended ones, newest last each.
    pub runs: Vec<RunView>,
    /// Known workers, connected or not.
    pub workers: Vec<WorkerView>,
    /// Derivations known, mere inputs included.
    pub derivations: usize,
    /// Wanted steps that wait for inputs.
    pub waiting: usize,
    /// Wanted steps that wait for a worker.
    pub ready: usize,
    /// Wanted steps that rest before their next attempt.
    pub delayed: usize,
    /// Steps that are leased.
    pub leased: usize,
    /// Eval jobs that wait for a worker.
    pub evals_waiting: usize,
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkView {
    /// Wanted steps that wait for inputs.
    pub waiting: usize,
    /// Wanted steps that wait for a worker.
    pub ready: usize,
    /// Wanted steps that rest before their next attempt.
    pub delayed: usize,
    /// Steps that are leased.
    pub leased: usize,
    /// Eval jobs that wait for a worker.
    pub evals_waiting: usize,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunView {
    /// Which.
    pub run: RunId,
    /// When it came.
    pub submitted: Time,
    /// How far it is.
    pub counts: Counts,
    /// Hosts in name order, before first.
    pub targets: Vec<TargetView>,
    /// Once it has ended.
    pub finished: Option<Finished>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetView {
    /// Which.
    pub target: Target,
    /// How far it is.
    pub stage: TargetStage,
    /// Once evaluated.
    pub drv: Option<DrvPath>,
    /// Once known.
    pub toplevel: Option<OutputPath>,
    /// Once failed.
    pub failure: Option<Failure>,
}

/// How far a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetStage {
    /// Waits for an evaluator.
    Found,
    /// Is evaluated.
    Evaluating,
    /// Waits for its other side.
    Evaluated,
    /// Waits for its toplevel.
    Building,
    /// Its toplevel is being made valid.
    Realising,
    /// It ended.
    Settled(TargetStatus),
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepView {
    /// Its derivation.
    pub drv: DrvPath,
    /// For people.
    pub name: Arc<str>,
    /// Where it builds.
    pub system: System,
    /// How far it is.
    pub stage: StepStage,
    /// Leases so far.
    pub attempts: u32,
    /// Inputs it waits for.
    pub waits_for: u32,
    /// Longest chain of wanted steps that wait for it.
    pub rank: u32,
    /// Runs that want it now.
    pub wanted_by: Vec<RunId>,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepStage {
    /// Nobody wants it.
    Idle,
    /// Its outputs are valid.
    Present,
    /// Waits for inputs.
    Waiting,
    /// Waits for a worker.
    Ready,
    /// Rests until then.
    Delayed(Time),
    /// Is built by this worker.
    Leased(Arc<str>),
    /// Failed.
    Failed(Failure),
    /// Failed because this one did.
    DependencyFailed(DrvPath),
}

impl RunView {
    pub(crate) fn of(id: RunId, run: &Run, finished: Option<Finished>) -> Self {
        let targets = run.hosts.iter().flat_map(|host| {
            host.targets().map(|(side, target)| TargetView {
                target: host.target(side),
                stage: stage(&target.stage),
                drv: target.drv.clone(),
                toplevel: target.toplevel.clone(),
                failure: target.failure.clone(),
            })
        });
        Self { run: id, submitted: run.submitted, counts: run.counts, targets: targets.collect(), finished }
    }
}

fn stage(stage: &Stage) -> TargetStage {
    match stage {
        Stage::Found => TargetStage::Found,
        Stage::Evaluating => TargetStage::Evaluating,
        Stage::Answered(_) => TargetStage::Evaluated,
        Stage::Building(_) => TargetStage::Building,
        Stage::Realising(_) => TargetStage::Realising,
        Stage::Settled(status) => TargetStage::Settled(*status),
    }
}

impl Fleet {
    /// Everything at a glance.
    pub fn view(&self) -> FleetView {
        let live = self.runs.iter().map(|(id, run)| RunView::of(*id, run, None));
        let tally = self.graph.tally;
        FleetView {
            runs: live.chain(self.finished.iter().cloned()).collect(),
            workers: self.workers.keys().filter_map(|id| self.worker_view(*id)).collect(),
            derivations: self.graph.len(),
            waiting: tally.waiting,
            ready: tally.ready,
            delayed: tally.delayed,
            leased: tally.leased,
            evals_waiting: self.evals.queue.len(),
        }
    }

    /// How much there is to do.
    pub fn work_view(&self) -> WorkView {
        let tally = self.graph.tally;
        WorkView {
            waiting: tally.waiting,
            ready: tally.ready,
            delayed: tally.delayed,
            leased: tally.leased,
            evals_waiting: self.evals.queue.len(),
        }
    }

    /// One run, live or among the last that ended.
    pub fn run_view(&self, id: RunId) -> Option<RunView> {
        let live = self.runs.get(&id).map(|run| RunView::of(id, run, None));
        live.or_else(|| self.finished.iter().find(|view| view.run == id).cloned())
    }

    /// Whether a derivation was described, since the last condensation.
    pub fn knows(&self, drv: &DrvPath) -> bool {
        self.graph.find_listed(drv).is_some()
    }

    /// The step of a derivation that was ever described.
    pub fn step_view(&self, drv: &DrvPath) -> Option<StepView> {
        Some(self.view_step(self.graph.find(drv)?))
    }

    /// At most `limit` of a run's steps that are not over, those that wait for the fewest inputs first.
    pub fn open_steps(&self, run: RunId, limit: usize) -> Vec<StepView> {
        let Some(run) = self.runs.get(&run) else { return Vec::new() };
        let open = run.holds.iter().filter(|(_, hold)| hold.is_open()).map(|(id, _)| *id);
        let mut open: Vec<StepId> = open.collect();
        open.sort_by_key(|id| (self.graph.step(*id).blocked, self.graph.key(*id)));
        open.truncate(limit);
        open.into_iter().map(|id| self.view_step(id)).collect()
    }

    pub(crate) fn view_step(&self, id: StepId) -> StepView {
        let step = self.graph.step(id);
        let stage = match step.state {
            State::Undefined | State::Alias(_) | State::Idle => StepStage::Idle,
            State::Present => StepStage::Present,
            State::Waiting => StepStage::Waiting,
            State::Ready => StepStage::Ready,
            State::Delayed(until) => StepStage::Delayed(until),
            State::Leased(lease) => {
                let worker = self.leases.get(&lease).and_then(|lease| self.workers.get(&lease.worker));
                StepStage::Leased(worker.map_or_else(|| "".into(), |worker| Arc::clone(&worker.name)))
            }
            State::Failed => match self.graph.failures.get(&id) {
                Some(failure) => StepStage::Failed(failure.clone()),
                None => StepStage::Idle,
            },
            State::DependencyFailed(root) => StepStage::DependencyFailed(self.graph.drv(root)),
        };
        StepView {
            drv: self.graph.drv(id),
            name: Arc::clone(&step.name),
            system: self.graph.classes.get(self.graph.definition(id).class).need.system.clone(),
            stage,
            attempts: step.attempts,
            waits_for: step.blocked,
            rank: step.rank,
            wanted_by: self.graph.interested(id).collect(),
        }
    }
}
