//! The one function that decides, and everything it decides upon.
//!
//! Owns all state; the files beside it hold the rules of one matter each. An event that is heeded is recorded
//! and taken in. Then follow, in this order: withdrawal of what ended early, work for idle workers, giving up
//! on what fits none, and at last counts and the end of runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::config::FleetConfig;
use crate::disk::Sizes;
use crate::earlier::Earlier;
use crate::effect::{Command, Effect, Notice};
use crate::evaluation::{EvalWork, Evals};
use crate::event::{Event, Timer};
use crate::graph::{Graph, StepId};
use crate::hint::Hints;
use crate::id::{Epoch, LeaseId, RunId, Time, WorkerId};
use crate::lease::Lease;
use crate::placement::Objection;
use crate::realise::Realises;
use crate::record::{Decision, Record};
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
    /// Heeded events so far: orders causes that happen at the same time.
    pub(crate) tick: u64,
    pub(crate) graph: Graph,
    pub(crate) runs: BTreeMap<RunId, Run>,
    /// Runs that ended, oldest first.
    pub(crate) finished: VecDeque<RunView>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) evals: Evals,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) realises: Realises,
    /// Steps that are not for every worker that fits.
    pub(crate) objections: BTreeMap<StepId, Objection>,
    /// Failures that later runs believe.
    pub(crate) earlier: Earlier,
    /// How large outputs are that were built before.
    pub(crate) sizes: Sizes,
    /// Ready steps that no worker has room for which fits them, and since when.
    pub(crate) cramped: BTreeMap<StepId, Time>,
    /// What busy workers fetch ahead for.
    pub(crate) hints: Hints,
    /// Targets by the toplevel they wait for.
    pub(crate) waiters: BTreeMap<StepId, Vec<TargetRef>>,
    /// Runs that this event changed.
    pub(crate) touched: BTreeSet<RunId>,
    /// Runs that got a verdict, and have not been withdrawn.
    pub(crate) ending: BTreeSet<RunId>,
    /// Whether a worker ever joined.
    pub(crate) met_worker: bool,
    /// When [`Timer::Unplaceable`] is due, if it is armed.
    pub(crate) patience_ends: Option<Time>,
    /// Since when the first of what fits no worker does.
    pub(crate) stranded_since: Option<Time>,
    /// The number of the last worker, whether or not it is still known.
    pub(crate) last_worker: u64,
    /// The number of the last job or lease.
    pub(crate) grants: u64,
    /// While history is replayed: what was decided.
    pub(crate) script: Option<VecDeque<Decision>>,
    pub(crate) effects: Vec<Effect>,
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
            objections: BTreeMap::new(),
            earlier: Earlier::default(),
            sizes: Sizes::default(),
            cramped: BTreeMap::new(),
            hints: Hints::default(),
            waiters: BTreeMap::new(),
            touched: BTreeSet::new(),
            ending: BTreeSet::new(),
            met_worker: false,
            patience_ends: None,
            stranded_since: None,
            last_worker: 0,
            grants: 0,
            script: None,
            effects: Vec::new(),
            sabotage: Sabotage::Nothing,
        }
    }

    /// Takes in what happened and answers what to do. The same events at the same times give the same
    /// effects. A time before the last one counts as the last one.
    pub fn apply(&mut self, now: Time, event: Event) -> Vec<Effect> {
        let now = self.now.max(now);
        if !self.heeds(now, &event) {
            return std::mem::take(&mut self.effects);
        }
        let mut effects = Vec::new();
        if self.tick == 0 || matches!(event, Event::Restarted { .. }) {
            effects.push(Effect::Append(Record::Configured(Box::new(self.config.clone()))));
        }
        self.take_in(now, &event);
        if !(self.sabotaged(Sabotage::ForgetLosses) && matches!(event, Event::WorkerLost { .. })) {
            effects.push(Effect::Append(Record::Happened { at: now, event }));
        }
        effects.append(&mut self.effects);
        effects
    }

    /// The time of the last event that was heeded. After a restart the clock goes on from here.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Everything that follows from an event, whether it happens now or is replayed.
    pub(crate) fn take_in(&mut self, now: Time, event: &Event) {
        self.now = now;
        self.tick += 1;
        match event {
            Event::RunSubmitted { run, request } => self.run_submitted(*run, request),
            Event::RunCancelled { run } => self.run_cancelled(*run),
            Event::Restarted { epoch_floor } => self.restarted(*epoch_floor),
            Event::WorkerJoined { worker, session, hello, holds } => {
                self.worker_joined(*worker, *session, hello, holds);
            }
            Event::WorkerHeard { worker, load, .. } => self.worker_heard(*worker, load),
            Event::WorkerLost { worker, .. } => self.worker_lost(*worker),
            Event::WorkerOrdered { worker, name, order, reason } => {
                self.worker_ordered(*worker, name, *order, reason);
            }
            Event::EvalReported { worker, job, epoch, report } => {
                self.eval_reported(*worker, *job, *epoch, report);
            }
            Event::StepReported { worker, lease, epoch, drv, report } => {
                self.step_reported(*worker, *lease, *epoch, drv, report);
            }
            Event::LeaseFinished { worker, lease, epoch } => self.lease_finished(*worker, *lease, *epoch),
            Event::Realised { worker, job, epoch, result, missing } => {
                self.realised(*worker, *job, *epoch, result, missing);
            }
            Event::TimerFired { timer } => self.timer_fired(timer),
        }
        self.follow_up();
    }

    fn timer_fired(&mut self, timer: &Timer) {
        match timer {
            Timer::RetryStep(drv) => self.retry_step(drv),
            Timer::Unplaceable => self.patience_ends = None,
            Timer::RunDeadline(run) => self.run_overdue(*run),
            Timer::WorkerAway(worker, _) => self.worker_stayed_away(*worker),
            Timer::Canary(worker) => self.canary_due(*worker),
        }
    }

    /// Everything that is to be decided after the event. Giving up on something may end a run early, which
    /// frees workers, so this goes round until nothing is left; each round ends or grants something.
    fn follow_up(&mut self) {
        loop {
            self.withdraw_ended_runs();
            let Some(decision) = self.next_decision() else { break };
            // The record comes before what follows from it.
            let at = self.effects.len();
            if !self.enact(&decision) {
                // Only a history can be wrong: what is decided now is made of what is there.
                self.script.get_or_insert_default().push_front(decision);
                break;
            }
            if !(self.sabotaged(Sabotage::ForgetGrants) && self.tick.is_multiple_of(8)) {
                self.effects.insert(at, Effect::Append(Record::Decided(decision)));
            }
        }
        self.wait_for_workers();
        self.hint();
        self.report_progress();
    }

    fn next_decision(&mut self) -> Option<Decision> {
        if let Some(script) = &mut self.script {
            return script.pop_front();
        }
        let idle = self.sabotaged(Sabotage::LeaveIdle) && !self.tick.is_multiple_of(2);
        let placed = if idle { None } else { self.next_placement() };
        placed.or_else(|| self.next_given_up()).or_else(|| self.next_cycle())
    }

    fn next_placement(&self) -> Option<Decision> {
        self.next_eval().or_else(|| self.next_lease()).or_else(|| self.next_realise())
    }

    /// Does what was decided; false if it does not fit what is there.
    fn enact(&mut self, decision: &Decision) -> bool {
        let done = match decision {
            Decision::EvalGranted { worker, job, epoch, run, tree, hosts } => {
                let work = EvalWork { run: *run, tree: *tree, hosts: hosts.clone() };
                self.start_eval(*worker, *job, *epoch, &work)
            }
            Decision::LeaseGranted { worker, lease, epoch, steps } => {
                self.lease_steps(*worker, *lease, *epoch, steps)
            }
            Decision::RealiseGranted { worker, job, epoch, run, host, side } => {
                self.start_realise(*worker, *job, *epoch, TargetRef { run: *run, host: *host, side: *side })
            }
            Decision::EvalsGivenUp { failure } => self.give_up_evals(failure),
            Decision::StepGivenUp { drv, failure } => self.give_up_step(drv, failure),
            Decision::RealiseGivenUp { run, host, side, failure } => {
                self.give_up_realise(TargetRef { run: *run, host: *host, side: *side }, failure)
            }
            Decision::CycleBroken { drv } => self.break_cycle(drv),
        };
        done.is_some()
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

    /// A number that no job or lease had before.
    pub(crate) fn next_grant(&self) -> u64 {
        self.grants + 1
    }

    /// Every epoch is also the number of its job or lease.
    pub(crate) fn granted(&mut self, epoch: Epoch) {
        self.grants = self.grants.max(epoch.0);
    }
}

#[cfg(test)]
mod tests;
