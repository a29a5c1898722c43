//! Admission: an evaluated host's steps become wanted, once all its sides have answered.
//!
//! Decides which steps are there already, which are new, and which another target or run wants too. A host
//! that is equal on both sides wants nothing.

use std::collections::BTreeSet;

use crate::effect::{Notice, TargetStatus};
use crate::event::{Evaluated, FailureCode, Goal};
use crate::fleet::Fleet;
use crate::graph::{State, StepId};
use crate::id::{RunId, WorkerId};
use crate::outcome::StepEnd;
use crate::run::{Hold, failure};
use crate::target::{Answer, Stage, TargetRef};
use crate::worker::Worker;

impl Fleet {
    /// Takes in what an evaluation said about one target.
    pub(crate) fn answered(&mut self, at: TargetRef, evaluated: &Evaluated, worker: WorkerId, since: u64) {
        let answer = self.read_answer(evaluated, worker, since);
        let Some(run) = self.runs.get_mut(&at.run) else { return };
        run.target_evaluated(self.now);
        run.substitutable = run.substitutable.saturating_add(evaluated.substitutable_new);
        let Some(host) = run.hosts.get_mut(at.host as usize) else { return };
        let name = host.target(at.side);
        let Some(target) = host.get_mut(at.side) else { return };
        target.drv = Some(evaluated.drv.clone());
        target.toplevel.clone_from(&evaluated.toplevel);
        let answer = match answer {
            Ok(answer) => answer,
            Err(cause) => {
                let failure = failure(FailureCode::Infrastructure, cause);
                self.settle(at, TargetStatus::EvalFailed, Some(failure));
                return;
            }
        };
        let steps = u32::try_from(answer.wanted.len()).unwrap_or(u32::MAX);
        self.advance(at, Stage::Answered(answer));
        let (drv, toplevel) = (evaluated.drv.clone(), evaluated.toplevel.clone());
        self.notify(at.run, Notice::TargetEvaluated { target: name, drv, toplevel, steps });
    }

    fn read_answer(&self, evaluated: &Evaluated, worker: WorkerId, since: u64) -> Result<Answer, String> {
        let mut wanted = Vec::with_capacity(evaluated.wanted.len());
        let mut seen = BTreeSet::new();
        for drv in &evaluated.wanted {
            let listed = self.graph.find_listed(drv).ok_or_else(|| self.undefined(drv.as_str()))?;
            if seen.insert(self.graph.resolve(listed)) {
                wanted.push(listed);
            }
        }
        let top = self.graph.find(&evaluated.drv);
        if wanted.is_empty() {
            return Ok(Answer { top, wanted, worker, since });
        }
        match top.filter(|top| seen.contains(top)) {
            Some(top) => Ok(Answer { top: Some(top), wanted, worker, since }),
            None => Err(format!("{} is not among the steps that were asked for it", evaluated.drv)),
        }
    }

    fn undefined(&self, drv: &str) -> String {
        let limit = self.config.max_steps;
        if self.graph.len() >= limit / 2 {
            return format!("there is no room for {drv} beside the limit of {limit} derivations");
        }
        format!("{drv} was asked for but never described")
    }

    /// Goes on with a host when no side of it is waited for any more.
    pub(crate) fn admit_host(&mut self, id: RunId, host: u32) {
        let Some(run) = self.runs.get(&id) else { return };
        let Some(entry) = run.hosts.get(host as usize) else { return };
        let mut answered = Vec::new();
        for (side, target) in entry.targets() {
            match &target.stage {
                Stage::Found | Stage::Evaluating => return,
                Stage::Answered(_) => answered.push((TargetRef { run: id, host, side }, target)),
                _ => {}
            }
        }
        let unchanged = match &answered[..] {
            [(_, before), (_, after)] => {
                // Equal outputs are equal systems, whatever they were made from.
                before.toplevel == after.toplevel && (before.toplevel.is_some() || before.drv == after.drv)
            }
            _ => false,
        };
        let targets: Vec<TargetRef> = answered.iter().map(|(at, _)| *at).collect();
        for at in targets {
            if unchanged {
                self.settle(at, TargetStatus::Unchanged, None);
            } else {
                self.admit_target(at);
            }
        }
    }

    fn admit_target(&mut self, at: TargetRef) {
        let Some(run) = self.runs.get_mut(&at.run) else { return };
        let goal = run.request.goal;
        run.admitted = true;
        let Some(target) = run.target_mut(at) else { return };
        let Stage::Answered(answer) = target.stage.clone() else { return };
        run.counts.substituted = run.substitutable;
        self.touched.insert(at.run);
        for listed in &answer.wanted {
            match goal {
                Goal::Build => self.admit_step(at.run, *listed, &answer),
                Goal::Plan => self.plan_step(at.run, self.graph.resolve(*listed), &answer),
            }
        }
        if goal == Goal::Plan {
            self.settle(at, TargetStatus::Planned, None);
            return;
        }
        let Some(top) = answer.top.filter(|_| !answer.wanted.is_empty()) else {
            self.toplevel_done(at, answer.top, TargetStatus::Cached);
            return;
        };
        self.rank(&answer.wanted);
        self.advance(at, Stage::Building(top));
        self.waiters.entry(top).or_default().push(at);
        if !self.graph.step(top).state.is_open() {
            self.wake_targets(top);
        }
    }

    /// Longer chains of dependents go first. Users come after their inputs in `wanted`.
    fn rank(&mut self, wanted: &[StepId]) {
        for listed in wanted.iter().rev() {
            let step = self.graph.resolve(*listed);
            let below = self.graph.step(step).rank.saturating_add(1);
            let inputs: Vec<StepId> = self.graph.inputs(step).collect();
            for input in inputs {
                self.graph.raise(input, below);
            }
        }
    }

    /// Whether a step that was built must be built again, because a worker misses it that should have it.
    fn is_gone(&self, id: StepId, answer: &Answer) -> bool {
        self.graph.step(id).built.is_none_or(|built| {
            let looked_before = built.tick > answer.since;
            let another_has_it =
                built.by != answer.worker && self.workers.get(&built.by).is_some_and(Worker::is_present);
            !looked_before && !another_has_it
        })
    }

    /// A target of the run wants the step of this derivation.
    fn admit_step(&mut self, run_id: RunId, listed: StepId, answer: &Answer) {
        let id = self.graph.resolve(listed);
        if let Some(root) = self.retries_failure(id, run_id) {
            self.reopen(root);
        }
        let gone = self.is_gone(id, answer);
        let state = self.graph.step(id).state;
        let Some(run) = self.runs.get_mut(&run_id) else { return };
        let held = run.holds.get(&id).copied();
        if held.is_some() {
            run.counts.deduplicated += 1;
        } else {
            self.graph.step_mut(id).lost = 0;
        }
        let reopens = state == State::Idle || (state == State::Present && gone);
        if state.is_open() || reopens {
            self.graph.ask_for(id, listed);
        }
        let over = held.is_none_or(|hold| matches!(hold, Hold::Built | Hold::Cached | Hold::FailedEarlier));
        if !over || (held.is_some() && state == State::Present && !gone) {
            return;
        }
        let blamed = run.blamed.remove(&id);
        match state {
            State::Present if !gone => run.set_hold(id, Hold::Cached),
            state if state.is_open() => self.join_open(run_id, id),
            State::Failed | State::DependencyFailed(_) => {
                run.set_hold(id, Hold::Failed);
                if !blamed {
                    self.graph.step_mut(id).claims += 1;
                }
                self.blame(run_id, id);
                self.tell_failed(id, &[run_id], StepEnd::NONE);
            }
            _ => {
                run.set_hold(id, Hold::Waiting);
                self.graph.open(id, run_id);
                self.doom_by_inputs(id);
                if self.graph.step(id).state.is_open()
                    && let Some(failure) = self.believe_earlier_failure(id, run_id)
                {
                    self.fail_step(id, failure, StepEnd::NONE);
                }
            }
        }
    }

    /// A run wants a step that others want already.
    pub(crate) fn join_open(&mut self, run_id: RunId, id: StepId) {
        let leased = matches!(self.graph.step(id).state, State::Leased(_));
        let Some(run) = self.runs.get_mut(&run_id) else { return };
        run.set_hold(id, if leased { Hold::Running } else { Hold::Waiting });
        self.touched.insert(run_id);
        self.graph.join(id, run_id);
        if leased {
            self.tell_started(id, &[run_id]);
        }
    }

    /// A plan counts what would be wanted, and wants nothing.
    fn plan_step(&mut self, run_id: RunId, id: StepId, answer: &Answer) {
        let there = self.graph.step(id).state == State::Present && !self.is_gone(id, answer);
        let Some(run) = self.runs.get_mut(&run_id) else { return };
        if run.holds.contains_key(&id) {
            run.counts.deduplicated += 1;
        } else {
            run.set_hold(id, if there { Hold::Cached } else { Hold::Waiting });
        }
    }
}
