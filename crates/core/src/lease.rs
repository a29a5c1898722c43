//! Leases: the right to build, from the grant to the last report.
//!
//! Owns the table of leases and the fence: a report counts only from the lease's holder, with its epoch,
//! on a step of it that was not reported yet. A lease ends with its last step.

use std::sync::Arc;

use crate::effect::{Command, LeasedStep, Notice, StepStatus};
use crate::event::{Failure, FailureClass, FailureCode, StepLimits, StepOutcome, StepReport, Timer};
use crate::fleet::Fleet;
use crate::graph::{State, StepId};
use crate::id::{DrvPath, Epoch, LeaseId, RunId, Time, WorkerId};
use crate::outcome::StepEnd;
use crate::retry::Verdict;
use crate::run::{Hold, failure};
use crate::sabotage::Sabotage;

/// Steps that a worker may build.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) worker: WorkerId,
    pub(crate) epoch: Epoch,
    granted: Time,
    /// The event with which it was granted.
    since: u64,
    /// Whether the coordinator started since, and nobody knows whether the worker was ever told of it.
    pub(crate) unsure: bool,
    /// Those not reported yet.
    pub(crate) steps: Vec<Leased>,
}

/// One step of a lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leased {
    pub(crate) step: StepId,
    attempt: u32,
    pub(crate) limits: StepLimits,
    /// Bytes that are kept free for it.
    pub(crate) reserved: u64,
}

/// How a worker loses a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It is gone, perhaps because of what it built.
    Crash,
    /// It lives, and never got it; perhaps because it cannot be told.
    Unreceived,
    /// It was taken from it, or never sent: nobody is to blame.
    Withdrawn,
}

impl Lease {
    pub(crate) fn position(&self, step: StepId) -> Option<usize> {
        self.steps.iter().position(|leased| leased.step == step)
    }
}

impl Fleet {
    /// What is leased to a worker.
    pub(crate) fn leased_step(&self, leased: &Leased) -> LeasedStep {
        let Leased { step, attempt, limits, .. } = *leased;
        LeasedStep { drv: self.graph.drv(step), attempt, limits }
    }

    /// The next attempt of a step, as it would be leased now.
    pub(crate) fn next_attempt(&self, step: StepId) -> LeasedStep {
        let attempt = self.graph.step(step).attempts + 1;
        LeasedStep { drv: self.graph.drv(step), attempt, limits: self.limits_of(step) }
    }

    /// Gives ready steps to a worker.
    pub(crate) fn lease_steps(
        &mut self,
        worker: WorkerId,
        lease: LeaseId,
        epoch: Epoch,
        steps: &[LeasedStep],
    ) -> Option<()> {
        let mut leased = Vec::with_capacity(steps.len());
        for LeasedStep { drv, attempt, limits } in steps {
            let step = self.graph.find(drv).filter(|step| self.graph.step(*step).state == State::Ready)?;
            leased.push(Leased { step, attempt: *attempt, limits: *limits, reserved: 0 });
        }
        self.workers.get_mut(&worker)?.leases.insert(lease);
        self.granted(epoch);
        for leased in &mut leased {
            leased.reserved = self.reserve(worker, leased.step);
        }
        for Leased { step, attempt, .. } in &leased {
            self.graph.step_mut(*step).attempts = *attempt;
            if !self.sabotaged(Sabotage::LeaseTwice) || !self.tick.is_multiple_of(8) {
                self.graph.shift(*step, State::Leased(lease));
            }
        }
        let ids: Vec<StepId> = leased.iter().map(|leased| leased.step).collect();
        self.leases.insert(
            lease,
            Lease { worker, epoch, granted: self.now, since: self.tick, unsure: false, steps: leased },
        );
        for id in ids {
            let runs: Vec<RunId> = self.graph.interested(id).collect();
            for run in &runs {
                self.set_hold(*run, id, Hold::Running);
            }
            self.tell_started(id, &runs);
        }
        self.send(worker, Command::StartLease { lease, epoch, steps: steps.to_vec() });
        Some(())
    }

    /// Tells runs that a leased step is being built.
    pub(crate) fn tell_started(&mut self, id: StepId, runs: &[RunId]) {
        let step = self.graph.step(id);
        let State::Leased(lease) = step.state else { return };
        let Some(worker) = self.leases.get(&lease).and_then(|lease| self.workers.get(&lease.worker)) else {
            return;
        };
        let notice = Notice::StepStarted {
            drv: self.graph.drv(id),
            name: Arc::clone(&step.name),
            system: self.graph.classes.get(self.graph.definition(id).class).need.system.clone(),
            worker: Arc::clone(&worker.name),
            attempt: step.attempts,
        };
        for run in runs {
            self.notify(*run, notice.clone());
        }
    }

    fn set_hold(&mut self, id: RunId, step: StepId, hold: Hold) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.set_hold(step, hold);
            run.lease_began(self.now);
            self.touched.insert(id);
        }
    }

    pub(crate) fn step_reported(
        &mut self,
        worker: WorkerId,
        id: LeaseId,
        epoch: Epoch,
        drv: &DrvPath,
        report: &StepReport,
    ) {
        let StepReport::Ended { outcome, duration_ms, output_bytes, missing } = report else { return };
        let Some(step) = self.graph.find(drv) else { return };
        if !self.is_current(worker, id, epoch) {
            let built = matches!(outcome, StepOutcome::Built(_)) && self.graph.step(step).state.is_open();
            if built && self.sabotaged(Sabotage::AcceptStaleReports) {
                self.complete_step(step, Hold::Built, worker, &[], StepEnd::NONE);
            }
            return;
        }
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let Some(at) = lease.position(step) else { return };
        let (leased, since) = (lease.steps.remove(at), lease.since);
        let over = lease.steps.is_empty();
        self.release(worker, leased.reserved);
        if over {
            self.end_lease(id);
        }
        let end = StepEnd { attempt: leased.attempt, duration_ms: *duration_ms };
        match outcome {
            StepOutcome::Built(outputs) => {
                self.absolve(worker);
                self.learn_size(worker, step, *output_bytes);
                self.complete_step(step, Hold::Built, worker, outputs, end);
            }
            StepOutcome::AlreadyValid(outputs) => {
                self.absolve(worker);
                self.complete_step(step, Hold::Cached, worker, outputs, end);
            }
            StepOutcome::Failed(class, failure) => {
                let lost = *class == FailureClass::InputMissing && !missing.is_empty();
                let makers = if lost { self.makers(step, false, missing) } else { Vec::new() };
                if makers.is_empty() {
                    self.attempt_failed(worker, &leased, *class, failure.clone(), end);
                } else {
                    self.inputs_lost(&leased, since, &makers, failure.clone(), end);
                }
            }
        }
    }

    /// Whether this worker has this lease, under this epoch.
    pub(crate) fn is_current(&self, worker: WorkerId, lease: LeaseId, epoch: Epoch) -> bool {
        self.leases.get(&lease).is_some_and(|lease| lease.worker == worker && lease.epoch == epoch)
    }

    pub(crate) fn lease_finished(&mut self, worker: WorkerId, id: LeaseId, epoch: Epoch) {
        if !self.is_current(worker, id, epoch) {
            return;
        }
        let Some(lease) = self.end_lease(id) else { return };
        let failure = failure(FailureCode::Infrastructure, "the worker ended its lease without a result");
        for leased in &lease.steps {
            let end = StepEnd { attempt: leased.attempt, duration_ms: self.now.since_ms(lease.granted) };
            self.attempt_failed(worker, leased, FailureClass::Infrastructure, failure.clone(), end);
        }
    }

    /// A lease's worker has it no more.
    pub(crate) fn lease_lost(&mut self, id: LeaseId, worker: &Arc<str>, loss: Loss) {
        let Some(lease) = self.end_lease(id) else { return };
        for leased in lease.steps {
            let end = StepEnd { attempt: leased.attempt, duration_ms: self.now.since_ms(lease.granted) };
            let mut failure = failure(FailureCode::WorkerLost, format!("worker {worker} was lost"));
            let kind = self.graph.definition(leased.step).kind;
            let tries = &mut self.graph.step_mut(leased.step).tries;
            let verdict = match loss {
                Loss::Crash => tries.judge_loss(&self.config),
                Loss::Unreceived => tries.judge(FailureClass::Infrastructure, kind, &self.config),
                Loss::Withdrawn => Verdict::Again { after_ms: 0 },
            };
            if loss == Loss::Unreceived {
                failure.cause = format!("worker {worker} never got it").into();
            } else if verdict == Verdict::Final {
                let count = tries.losses();
                failure.cause = format!("{count} workers were lost with it, the last was {worker}").into();
            }
            if loss == Loss::Crash {
                self.blame_worker(leased.step, lease.worker, &failure);
            }
            self.end_attempt(leased.step, verdict, failure, end);
            self.doom_by_inputs(leased.step);
        }
    }

    /// Forgets a lease and frees its slot.
    fn end_lease(&mut self, id: LeaseId) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        if let Some(worker) = self.workers.get_mut(&lease.worker)
            && self.sabotage != Sabotage::LeakSlot
        {
            worker.leases.remove(&id);
        }
        self.release(
            lease.worker,
            lease.steps.iter().fold(0, |sum, leased| leased.reserved.saturating_add(sum)),
        );
        Some(lease)
    }

    /// An attempt brought nothing, and the worker says why.
    fn attempt_failed(
        &mut self,
        worker: WorkerId,
        leased: &Leased,
        class: FailureClass,
        failure: Failure,
        end: StepEnd,
    ) {
        let id = leased.step;
        let kind = self.graph.definition(id).kind;
        if class.blames_worker() {
            self.blame_worker(id, worker, &failure);
        }
        let verdict = match self.graph.step_mut(id).tries.judge(class, kind, &self.config) {
            // Whoever joined meanwhile grants it more than this attempt got.
            Verdict::Final if self.is_cut_short(leased, class) => Verdict::Again { after_ms: 0 },
            Verdict::Elsewhere if !self.refused(id, worker, &failure) => {
                let failure = self.no_worker(id);
                self.end_attempt(id, Verdict::Final, failure, end);
                return;
            }
            Verdict::Final => {
                self.remember_failure(leased, class, kind, &failure);
                Verdict::Final
            }
            other => other,
        };
        self.end_attempt(id, verdict, failure, end);
        if class == FailureClass::InputMissing && self.graph.step(id).state.is_open() {
            self.graph.try_other_way(id);
        }
        self.doom_by_inputs(id);
    }

    /// Another attempt follows, here or elsewhere, or the step has failed.
    pub(crate) fn end_attempt(&mut self, id: StepId, verdict: Verdict, failure: Failure, end: StepEnd) {
        let verdict = match verdict {
            Verdict::Final if self.sabotaged(Sabotage::RetryForEver) => Verdict::Again { after_ms: 1 },
            other => other,
        };
        if verdict == Verdict::Final {
            let failure = Failure { drv: Some(self.graph.drv(id)), ..failure };
            self.fail_step(id, failure, end);
            return;
        }
        let runs: Vec<RunId> = self.graph.interested(id).collect();
        for run in &runs {
            self.set_hold(*run, id, Hold::Waiting);
        }
        self.tell_ended(id, &runs, StepStatus::Retried, end, Some(failure));
        let state = match verdict {
            Verdict::Again { after_ms } if after_ms > 0 => {
                let until = self.now.plus_ms(after_ms);
                self.arm(Timer::RetryStep(self.graph.drv(id)), until);
                State::Delayed(until)
            }
            _ => self.graph.startable(id),
        };
        self.graph.shift(id, state);
    }

    pub(crate) fn retry_step(&mut self, drv: &DrvPath) {
        let Some(id) = self.graph.find(drv) else { return };
        if let State::Delayed(until) = self.graph.step(id).state
            && until <= self.now
            && self.sabotage != Sabotage::OversleepRetries
        {
            self.graph.shift(id, self.graph.startable(id));
            self.doom_by_inputs(id);
        }
    }

    /// Nobody wants this step of a lease any more; `run` was the last that did.
    pub(crate) fn withdraw_from_lease(&mut self, id: LeaseId, step: StepId, run: RunId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let Some(at) = lease.position(step) else { return };
        let leased = lease.steps.remove(at);
        let (over, worker) = (lease.steps.is_empty(), lease.worker);
        let end = StepEnd { attempt: leased.attempt, duration_ms: self.now.since_ms(lease.granted) };
        self.release(worker, leased.reserved);
        if over && let Some(lease) = self.end_lease(id) {
            self.send(lease.worker, Command::CancelLease { lease: id, epoch: lease.epoch });
        }
        self.tell_ended(step, &[run], StepStatus::Cancelled, end, None);
    }
}
