//! Leases: the right to build, from the grant to the last report.
//!
//! Owns the table of leases and the fence: a report counts only from the lease's holder, with its epoch,
//! on a step of it that was not reported yet. A lease ends with its last step.

use std::sync::Arc;

use crate::effect::{Command, LeasedStep, Notice, Record, StepStatus};
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
    epoch: Epoch,
    granted: Time,
    /// Those not reported yet, and the attempt of each.
    pub(crate) steps: Vec<(StepId, u32)>,
}

impl Fleet {
    /// Gives ready steps to a worker.
    pub(crate) fn lease_steps(&mut self, worker: WorkerId, steps: &[StepId]) {
        let (lease, epoch) = self.grant_lease();
        let Some(holder) = self.workers.get_mut(&worker) else { return };
        holder.leases.insert(lease);
        let mut leased = Vec::with_capacity(steps.len());
        let mut attempts = Vec::with_capacity(steps.len());
        for id in steps {
            let step = self.graph.step_mut(*id);
            step.attempts += 1;
            let attempt = step.attempts;
            attempts.push((*id, attempt));
            if !self.sabotaged(Sabotage::LeaseTwice) || !self.tick.is_multiple_of(8) {
                self.graph.shift(*id, State::Leased(lease));
            }
            let drv = self.graph.drv(*id);
            self.append(Record::AttemptStarted { drv: drv.clone(), attempt, lease, epoch });
            leased.push(LeasedStep { drv, attempt, limits: StepLimits::default() });
        }
        self.leases.insert(lease, Lease { worker, epoch, granted: self.now, steps: attempts });
        for id in steps {
            let runs: Vec<RunId> = self.graph.interested(*id).collect();
            for run in &runs {
                self.set_hold(*run, *id, Hold::Running);
            }
            self.tell_started(*id, &runs);
        }
        self.send(worker, Command::StartLease { lease, epoch, steps: leased });
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
        report: StepReport,
    ) {
        let StepReport::Ended { outcome, duration_ms } = report else { return };
        let Some(step) = self.graph.find(drv) else { return };
        if !self.is_current(worker, id, epoch) {
            let built = matches!(outcome, StepOutcome::Built(_)) && self.graph.step(step).state.is_open();
            if !(built && self.sabotaged(Sabotage::AcceptStaleReports)) {
                return;
            }
            self.complete_step(step, Hold::Built, worker, Vec::new(), StepEnd::NONE);
            return;
        }
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let Some(at) = lease.steps.iter().position(|(leased, _)| *leased == step) else { return };
        let (_, attempt) = lease.steps.remove(at);
        if lease.steps.is_empty() {
            self.end_lease(id);
        }
        let end = StepEnd { attempt, duration_ms };
        match outcome {
            StepOutcome::Built(outputs) => {
                self.record_end(step, attempt, StepStatus::Built);
                self.complete_step(step, Hold::Built, worker, outputs, end);
            }
            StepOutcome::AlreadyValid(outputs) => {
                self.record_end(step, attempt, StepStatus::Built);
                self.complete_step(step, Hold::Cached, worker, outputs, end);
            }
            StepOutcome::Failed(class, failure) => self.attempt_failed(worker, step, class, failure, end),
        }
    }

    fn is_current(&self, worker: WorkerId, lease: LeaseId, epoch: Epoch) -> bool {
        self.leases.get(&lease).is_some_and(|lease| lease.worker == worker && lease.epoch == epoch)
    }

    pub(crate) fn lease_finished(&mut self, worker: WorkerId, id: LeaseId, epoch: Epoch) {
        if self.is_current(worker, id, epoch) {
            let failure = failure(FailureCode::Infrastructure, "the worker ended its lease without a result");
            self.steps_lost(id, &failure, Resume::AfterRest);
        }
    }

    /// A lease's worker is gone.
    pub(crate) fn lease_lost(&mut self, id: LeaseId, worker: &Arc<str>) {
        let failure = failure(FailureCode::Infrastructure, format!("worker {worker} was lost"));
        self.steps_lost(id, &failure, Resume::AtOnce);
    }

    fn steps_lost(&mut self, id: LeaseId, failure: &Failure, again: Resume) {
        let Some(lease) = self.end_lease(id) else { return };
        for (step, attempt) in lease.steps {
            let end = StepEnd { attempt, duration_ms: self.now.since_ms(lease.granted) };
            self.attempt_failed(lease.worker, step, FailureClass::Infrastructure, failure.clone(), end);
            // A lost worker's steps need no rest: another worker is not to blame.
            if again == Resume::AtOnce && matches!(self.graph.step(step).state, State::Delayed(_)) {
                self.resume_step(step);
            }
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
        Some(lease)
    }

    fn record_end(&mut self, step: StepId, attempt: u32, status: StepStatus) {
        let drv = self.graph.drv(step);
        self.append(Record::AttemptEnded { drv, attempt, status });
    }

    /// An attempt brought nothing: another follows, here or elsewhere, or the step has failed.
    fn attempt_failed(
        &mut self,
        worker: WorkerId,
        id: StepId,
        class: FailureClass,
        failure: Failure,
        end: StepEnd,
    ) {
        let kind = self.graph.definition(id).kind;
        let verdict = self.graph.step_mut(id).tries.judge(class, kind, &self.config);
        let verdict = match verdict {
            Verdict::Final if self.sabotaged(Sabotage::RetryForEver) => Verdict::Again { after_ms: 1 },
            Verdict::Elsewhere if !self.refused(id, worker, &failure) => Verdict::Final,
            other => other,
        };
        if verdict == Verdict::Final {
            self.record_end(id, end.attempt, StepStatus::Failed);
            let failure = match class {
                FailureClass::Placement => self.no_worker(id),
                _ => Failure { drv: Some(self.graph.drv(id)), ..failure },
            };
            self.fail_step(id, failure, end);
            return;
        }
        self.record_end(id, end.attempt, StepStatus::Retried);
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
        if class == FailureClass::InputMissing {
            self.graph.try_other_way(id);
        }
        self.doom_by_inputs(id);
    }

    pub(crate) fn retry_step(&mut self, drv: &DrvPath) {
        let Some(id) = self.graph.find(drv) else { return };
        if let State::Delayed(until) = self.graph.step(id).state
            && until <= self.now
            && self.sabotage != Sabotage::OversleepRetries
        {
            self.resume_step(id);
        }
    }

    /// A step has rested enough.
    fn resume_step(&mut self, id: StepId) {
        self.graph.shift(id, self.graph.startable(id));
        self.doom_by_inputs(id);
    }

    /// Nobody wants this step of a lease any more; `run` was the last that did.
    pub(crate) fn withdraw_from_lease(&mut self, id: LeaseId, step: StepId, run: RunId) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let Some(at) = lease.steps.iter().position(|(leased, _)| *leased == step) else { return };
        let (_, attempt) = lease.steps.remove(at);
        let end = StepEnd { attempt, duration_ms: self.now.since_ms(lease.granted) };
        if lease.steps.is_empty()
            && let Some(lease) = self.end_lease(id)
        {
            self.send(lease.worker, Command::CancelLease { lease: id, epoch: lease.epoch });
        }
        self.record_end(step, attempt, StepStatus::Cancelled);
        self.tell_ended(step, &[run], StepStatus::Cancelled, end, None);
    }
}

/// When lost steps are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resume {
    AtOnce,
    AfterRest,
}
