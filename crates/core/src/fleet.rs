//! The one function that decides, and everything it decides upon.
//!
//! Owns all state; the files beside it hold the rules of one matter each. After the event itself come, in
//! this order: withdrawal of what ended early, work for idle workers, patience with what fits none, and at
//! last counts and the end of runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::FleetConfig;
use crate::effect::{Command, Effect, Notice, Record};
use crate::evaluation::Evals;
use crate::event::{Event, Timer};
use crate::graph::{Graph, StepId};
use crate::id::{Epoch, EvalJobId, LeaseId, RealiseJobId, RunId, Time, WorkerId};
use crate::lease::Lease;
use crate::placement::Refusal;
use crate::realise::Realises;
use crate::run::Run;
use crate::sabotage::Sabotage;
use crate::target::TargetRef;
use crate::view::RunView;
use crate::worker::Worker;

/// All runs, targets, eval jobs, steps, leases and workers.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) config: FleetConfig,
    pub(crate) now: Time,
    /// Events so far: orders causes that happen at the same time.
    pub(crate) tick: u64,
    pub(crate) graph: Graph,
    pub(crate) runs: BTreeMap<RunId, Run>,
    /// Runs that ended, oldest first.
    pub(crate) finished: VecDeque<RunView>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) evals: Evals,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) realises: Realises,
    /// Steps that some workers cannot build.
    pub(crate) refusals: BTreeMap<StepId, Refusal>,
    /// Targets by the toplevel they wait for.
    pub(crate) waiters: BTreeMap<StepId, Vec<TargetRef>>,
    /// Runs that this event changed.
    pub(crate) touched: BTreeSet<RunId>,
    /// Whether a worker ever joined.
    pub(crate) met_worker: bool,
    /// When [`Timer::Unplaceable`] is due, if it is armed.
    pub(crate) patience_ends: Option<Time>,
    grants: u64,
    effects: Vec<Effect>,
    pub(crate) sabotage: Sabotage,
}

impl Fleet {
    /// A fleet without runs and workers.
    pub fn new(config: FleetConfig) -> Self {
        Self {
            graph: Graph::new(config.max_steps),
            config,
            now: Time(0),
            tick: 0,
            runs: BTreeMap::new(),
            finished: VecDeque::new(),
            workers: BTreeMap::new(),
            evals: Evals::default(),
            leases: BTreeMap::new(),
            realises: Realises::default(),
            refusals: BTreeMap::new(),
            waiters: BTreeMap::new(),
            touched: BTreeSet::new(),
            met_worker: false,
            patience_ends: None,
            grants: 0,
            effects: Vec::new(),
            sabotage: Sabotage::Nothing,
        }
    }

    /// The id of the worker with this name: the one it has, or one that no other had.
    pub fn worker_named(&self, name: &str) -> WorkerId {
        let known = self.workers.iter().find(|(_, worker)| &*worker.name == name);
        known.map_or_else(
            || WorkerId(self.workers.keys().next_back().map_or(1, |last| last.0 + 1)),
            |(id, _)| *id,
        )
    }

    /// Takes in what happened and answers what to do. The same events at the same times give the same
    /// effects. A time before the last one counts as the last one.
    pub fn apply(&mut self, now: Time, event: Event) -> Vec<Effect> {
        self.now = self.now.max(now);
        self.tick += 1;
        match event {
            Event::RunSubmitted { run, request } => self.run_submitted(run, request),
            Event::RunCancelled { run } => self.run_cancelled(run),
            Event::Restarted { epoch_floor } => self.grants = self.grants.max(epoch_floor.0),
            Event::WorkerJoined { worker, hello, .. } => self.worker_joined(worker, &hello),
            Event::WorkerHeard { .. } | Event::WorkerOrdered { .. } => {}
            Event::WorkerLost { worker, .. } => self.worker_lost(worker),
            Event::EvalReported { worker, job, epoch, report } => {
                self.eval_reported(worker, job, epoch, report);
            }
            Event::StepReported { worker, lease, epoch, drv, report } => {
                self.step_reported(worker, lease, epoch, &drv, report);
            }
            Event::LeaseFinished { worker, lease, epoch } => self.lease_finished(worker, lease, epoch),
            Event::Realised { worker, job, epoch, result } => self.realised(worker, job, epoch, result),
            Event::TimerFired { timer } => self.timer_fired(timer),
        }
        self.follow_up();
        std::mem::take(&mut self.effects)
    }

    fn timer_fired(&mut self, timer: Timer) {
        match timer {
            Timer::RetryStep(drv) => self.retry_step(&drv),
            Timer::Unplaceable => self.patience_ended(),
            Timer::RunDeadline(run) => self.run_overdue(run),
            Timer::WorkerAway(..) | Timer::Canary(_) => {}
        }
    }

    /// Everything that follows from the event. Giving up on something may end a run early, which frees
    /// workers, so this goes round until nothing is given up; each round ends at least one step or target.
    fn follow_up(&mut self) {
        loop {
            self.withdraw_ended_runs();
            if !self.sabotaged(Sabotage::LeaveIdle) || self.tick.is_multiple_of(2) {
                self.place_evals();
                self.place_steps();
                self.place_realises();
            }
            if !self.give_up_stranded() && !self.break_cycle() {
                break;
            }
        }
        self.report_progress();
    }

    pub(crate) fn append(&mut self, record: Record) {
        self.effects.push(Effect::Append(record));
    }

    pub(crate) fn send(&mut self, worker: WorkerId, command: Command) {
        self.effects.push(Effect::Send(worker, command));
    }

    pub(crate) fn notify(&mut self, run: RunId, notice: Notice) {
        self.effects.push(Effect::Notify(run, notice));
    }

    pub(crate) fn arm(&mut self, timer: Timer, at: Time) {
        self.effects.push(Effect::Arm(timer, at));
    }

    /// A number that no job or lease had before, and its epoch.
    fn grant(&mut self) -> (u64, Epoch) {
        self.grants += 1;
        (self.grants, Epoch(self.grants))
    }

    pub(crate) fn grant_lease(&mut self) -> (LeaseId, Epoch) {
        let (id, epoch) = self.grant();
        (LeaseId(id), epoch)
    }

    pub(crate) fn grant_eval(&mut self) -> (EvalJobId, Epoch) {
        let (id, epoch) = self.grant();
        (EvalJobId(id), epoch)
    }

    pub(crate) fn grant_realise(&mut self) -> (RealiseJobId, Epoch) {
        let (id, epoch) = self.grant();
        (RealiseJobId(id), epoch)
    }
}

#[cfg(test)]
mod tests;
