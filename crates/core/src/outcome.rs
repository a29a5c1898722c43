//! How steps end: built, failed, failed because an input did, or given up.
//!
//! Owns the way from a step's end to the runs and targets that wait for it. A failure reaches exactly the
//! steps that depend on it, without recursion; a step is given up only when nobody wants it.

use std::sync::Arc;

use crate::effect::{Notice, StepStatus, TargetStatus};
use crate::event::{Failure, FailureCode};
use crate::fleet::Fleet;
use crate::graph::{Built, State, StepId};
use crate::id::{OutputPath, RunId, WorkerId};
use crate::run::Hold;
use crate::sabotage::Sabotage;

/// The attempt with which a step ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepEnd {
    pub(crate) attempt: u32,
    pub(crate) duration_ms: u64,
}

impl StepEnd {
    /// Without one.
    pub(crate) const NONE: Self = Self { attempt: 0, duration_ms: 0 };
}

impl Fleet {
    /// A step's outputs are valid: `hold` says whether they were built or found.
    pub(crate) fn complete_step(
        &mut self,
        id: StepId,
        hold: Hold,
        by: WorkerId,
        outputs: &[(Arc<str>, OutputPath)],
        end: StepEnd,
    ) {
        self.graph.step_mut(id).built = Some(Built { by, tick: self.tick });
        if self.graph.outputs(id).is_empty() {
            self.graph.floating.insert(id, outputs.to_vec());
        }
        let runs = self.conclude(id, State::Present, hold);
        self.graph.step_mut(id).claims = 0;
        self.forget_failure(id);
        self.tell_ended(id, &runs, StepStatus::Built, end, None);
        self.wake_targets(id);
    }

    /// A step failed for good.
    pub(crate) fn fail_step(&mut self, id: StepId, failure: Failure, end: StepEnd) {
        self.graph.failures.insert(id, failure);
        let dependents: Vec<StepId> = self.graph.dependents(id).collect();
        let runs = self.conclude(id, State::Failed, Hold::Failed);
        self.tell_failed(id, &runs, end);
        self.wake_targets(id);
        if self.sabotaged(Sabotage::FailAlone) {
            return;
        }
        if self.sabotaged(Sabotage::FailBystander) {
            let bystander = self.graph.ids().find(|id| self.graph.step(*id).state == State::Ready);
            if let Some(bystander) = bystander {
                self.doom(bystander, id);
            }
        }
        for dependent in dependents {
            self.doom(dependent, id);
        }
    }

    /// Fails an open step if an input of it has failed.
    pub(crate) fn doom_by_inputs(&mut self, id: StepId) {
        if let Some(root) = self.graph.failed_input(id) {
            self.doom(id, root);
        }
    }

    /// Fails a step because `root` failed, and all that depend on it. Running ones have their inputs.
    pub(crate) fn doom(&mut self, id: StepId, root: StepId) {
        let mut doomed = vec![id];
        while let Some(step) = doomed.pop() {
            let state = self.graph.step(step).state;
            if !state.is_open() || matches!(state, State::Leased(_)) {
                continue;
            }
            doomed.extend(self.graph.dependents(step));
            let runs = self.conclude(step, State::DependencyFailed(root), Hold::Failed);
            for run in &runs {
                self.blame(*run, step);
            }
            self.tell_failed(step, &runs, StepEnd::NONE);
            self.wake_targets(step);
        }
    }

    /// Ends the interest of all runs in a step and says whose it was.
    fn conclude(&mut self, id: StepId, to: State, hold: Hold) -> Vec<RunId> {
        let runs = self.graph.take_interest(id);
        for run_id in &runs {
            self.touched.insert(*run_id);
            let Some(run) = self.runs.get_mut(run_id) else { continue };
            run.set_hold(id, hold);
            run.step_ended(self.now);
            if hold == Hold::Built && self.sabotage == Sabotage::Miscount {
                run.counts.built -= 1;
            }
        }
        self.objections.remove(&id);
        self.graph.forget_ways(id);
        self.graph.shift(id, to);
        runs
    }

    /// Has a run remember the step at fault, so that nobody forgets it while its consequences are known.
    pub(crate) fn blame(&mut self, run: RunId, id: StepId) {
        let State::DependencyFailed(root) = self.graph.step(id).state else { return };
        let Some(run) = self.runs.get_mut(&run) else { return };
        if run.holds.get(&root) != Some(&Hold::Failed) && run.blamed.insert(root) {
            self.graph.step_mut(root).claims += 1;
        }
    }

    /// A step is over: so are the targets whose toplevel it is, but for realising them.
    pub(crate) fn wake_targets(&mut self, id: StepId) {
        let failure = self.failure_of(id);
        for at in self.waiters.remove(&id).unwrap_or_default() {
            if self.graph.step(id).state.is_failed() {
                self.settle(at, TargetStatus::BuildFailed, failure.clone());
                continue;
            }
            if self
                .runs
                .get(&at.run)
                .and_then(|run| run.target(at))
                .is_some_and(|target| !target.lost.is_empty())
            {
                self.await_lost(at);
                continue;
            }
            let hold = self.runs.get(&at.run).and_then(|run| run.holds.get(&id));
            let built = hold == Some(&Hold::Built);
            self.toplevel_done(at, Some(id), if built { TargetStatus::Built } else { TargetStatus::Cached });
        }
    }

    /// Why a failed step did: because of itself, or of one it depends on.
    pub(crate) fn failure_of(&self, id: StepId) -> Option<Failure> {
        let root = match self.graph.step(id).state {
            State::DependencyFailed(root) => root,
            _ => id,
        };
        self.graph.failures.get(&root).cloned()
    }

    /// Tells runs that a step failed, or that one it depends on did.
    pub(crate) fn tell_failed(&mut self, id: StepId, runs: &[RunId], end: StepEnd) {
        let (status, failure) = match self.graph.step(id).state {
            State::DependencyFailed(root) => {
                let cause = format!("{} failed", self.graph.step(root).name);
                let failure = Failure {
                    code: FailureCode::DependencyFailed,
                    cause: cause.into(),
                    detail: "".into(),
                    drv: Some(self.graph.drv(root)),
                };
                (StepStatus::DependencyFailed, Some(failure))
            }
            _ => (StepStatus::Failed, self.graph.failures.get(&id).cloned()),
        };
        self.tell_ended(id, runs, status, end, failure);
    }

    pub(crate) fn tell_ended(
        &mut self,
        id: StepId,
        runs: &[RunId],
        status: StepStatus,
        end: StepEnd,
        failure: Option<Failure>,
    ) {
        let (drv, name) = (self.graph.drv(id), Arc::clone(&self.graph.step(id).name));
        let StepEnd { attempt, duration_ms } = end;
        let notice = Notice::StepFinished { drv, name, status, attempt, duration_ms, failure };
        for run in runs {
            self.notify(*run, notice.clone());
        }
    }

    /// Takes back a run's interest in all its steps. Those that nobody else wants are given up.
    pub(crate) fn cancel_steps(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let open = run.holds.iter().filter(|(_, hold)| hold.is_open());
        let open: Vec<StepId> = open.map(|(step, _)| *step).collect();
        for step in open {
            if let Some(run) = self.runs.get_mut(&id) {
                run.set_hold(step, Hold::Cancelled);
            }
            self.graph.leave(step, id);
            let unwanted = self.graph.step(step).claims == 0 || self.sabotaged(Sabotage::ForgetInterest);
            let state = self.graph.step(step).state;
            if !unwanted || !state.is_open() {
                continue;
            }
            if let State::Leased(lease) = state {
                self.withdraw_from_lease(lease, step, id);
            }
            self.objections.remove(&step);
            self.graph.forget_ways(step);
            self.graph.shift(step, State::Idle);
        }
    }

    /// An ended run remembers no failures. Those that no other run remembers may be tried again.
    pub(crate) fn forget_failures(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let failed = run.holds.iter().filter(|(_, hold)| **hold == Hold::Failed).map(|(step, _)| *step);
        let claimed: Vec<StepId> = failed.chain(std::mem::take(&mut run.blamed)).collect();
        for step in claimed {
            self.graph.step_mut(step).claims -= 1;
            if self.graph.step(step).claims == 0 && self.graph.step(step).state.is_failed() {
                self.graph.shift(step, State::Idle);
                self.graph.failures.remove(&step);
            }
        }
    }
}
