//! Runs: from submission to the one final notice.
//!
//! Owns what a run asked for, its hosts, its holds on steps and its counts. Must not decide how steps are
//! built: it only says which are wanted, and withdraws that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::effect::{Counts, Finished, Notice, Outcome};
use crate::event::{Failure, FailureCode, Goal, OnFailure, RunRequest, Timer};
use crate::fleet::Fleet;
use crate::graph::StepId;
use crate::id::{Host, RunId, Side, SourceId, Time};
use crate::sabotage::Sabotage;
use crate::target::HostEntry;
use crate::view::RunView;

/// One request of a client while it is worked on.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) request: RunRequest,
    pub(crate) submitted: Time,
    /// One, or two for a comparison of different trees.
    pub(crate) trees: Vec<Tree>,
    /// In name order; empty until all trees are known.
    pub(crate) hosts: Vec<HostEntry>,
    /// Targets without an end.
    pub(crate) unsettled: usize,
    /// Targets that failed, in evaluation or later.
    pub(crate) failed_targets: usize,
    /// Every step its targets want, once.
    pub(crate) holds: BTreeMap<StepId, Hold>,
    /// Steps it does not want itself, but whose failure it must remember.
    pub(crate) blamed: BTreeSet<StepId>,
    pub(crate) counts: Counts,
    sent: Counts,
    /// Paths from substituters, over all targets that were evaluated, and whether any of them is needed.
    pub(crate) substitutable: u32,
    pub(crate) admitted: bool,
    /// Set when the run ends before its targets do.
    pub(crate) verdict: Option<Verdict>,
    evaluated: Time,
    first_lease: Option<Time>,
    last_end: Time,
}

/// A source and the sides it stands for: both when nothing was updated.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) source: SourceId,
    pub(crate) sides: Vec<Side>,
    /// What it holds, after selection.
    pub(crate) found: Option<Vec<Host>>,
    /// Names that the selection left out, as many as a person may want to see.
    pub(crate) left_out: Vec<Arc<str>>,
    /// Discoveries that were lost.
    pub(crate) tries: u32,
}

/// What became of a step for one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Wanted; a plan's holds stay so.
    Waiting,
    /// Leased now.
    Running,
    Built,
    /// Was there.
    Cached,
    /// Or an input did.
    Failed,
    /// It did, but another run has it tried again.
    FailedEarlier,
    Cancelled,
}

impl Hold {
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Running)
    }
}

/// How a run ends early.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    outcome: Outcome,
    failure: Option<Failure>,
    /// Whether everything was taken back already.
    withdrawn: bool,
}

impl Run {
    fn new(request: RunRequest, now: Time) -> Self {
        let tree = |source, sides: &[Side]| Tree {
            source,
            sides: sides.to_vec(),
            found: None,
            left_out: Vec::new(),
            tries: 0,
        };
        let trees = match request.before {
            Some(before) if before == request.after => vec![tree(before, &[Side::Before, Side::After])],
            Some(before) => vec![tree(before, &[Side::Before]), tree(request.after, &[Side::After])],
            None => vec![tree(request.after, &[Side::After])],
        };
        Self {
            request,
            submitted: now,
            trees,
            hosts: Vec::new(),
            unsettled: 0,
            failed_targets: 0,
            holds: BTreeMap::new(),
            blamed: BTreeSet::new(),
            counts: Counts::default(),
            sent: Counts::default(),
            substitutable: 0,
            admitted: false,
            verdict: None,
            evaluated: now,
            first_lease: None,
            last_end: now,
        }
    }

    /// Enters or changes what became of a step.
    pub(crate) fn set_hold(&mut self, step: StepId, hold: Hold) {
        let before = self.holds.insert(step, hold);
        if before.is_none() {
            self.counts.wanted += 1;
        }
        if let Some(count) = before.and_then(|before| count(&mut self.counts, before)) {
            *count -= 1;
        }
        if let Some(count) = count(&mut self.counts, hold) {
            *count += 1;
        }
    }

    pub(crate) fn lease_began(&mut self, now: Time) {
        self.first_lease.get_or_insert(now);
    }

    pub(crate) fn step_ended(&mut self, now: Time) {
        self.last_end = now;
    }

    pub(crate) fn target_evaluated(&mut self, now: Time) {
        self.evaluated = now;
    }

    /// Steps that are wanted and not over.
    fn open_steps(&self) -> u32 {
        let Counts { wanted, built, cached, failed, cancelled, .. } = self.counts;
        wanted - built - cached - failed - cancelled
    }

    /// Whether nothing is left to wait for.
    pub(crate) fn is_over(&self) -> bool {
        let steps_over = self.request.goal == Goal::Plan || self.open_steps() == 0;
        self.verdict.as_ref().is_some_and(|verdict| verdict.withdrawn)
            || (!self.hosts.is_empty() && self.unsettled == 0 && steps_over)
    }

    pub(crate) fn end_early(&mut self, outcome: Outcome, failure: Option<Failure>) {
        self.verdict.get_or_insert(Verdict { outcome, failure, withdrawn: false });
    }

    fn finished(&self, now: Time) -> Finished {
        let (outcome, failure) = match &self.verdict {
            Some(verdict) => (verdict.outcome, verdict.failure.clone()),
            None if self.failed_targets > 0 => (Outcome::Partial, None),
            None => (Outcome::Succeeded, None),
        };
        Finished {
            outcome,
            failure,
            counts: self.counts,
            eval_ms: self.evaluated.since_ms(self.submitted),
            build_ms: self.first_lease.map_or(0, |first| self.last_end.since_ms(first)),
            total_ms: now.since_ms(self.submitted),
        }
    }
}

/// Where a hold is counted besides `wanted`.
fn count(counts: &mut Counts, hold: Hold) -> Option<&mut u32> {
    match hold {
        Hold::Waiting => None,
        Hold::Running => Some(&mut counts.running),
        Hold::Built => Some(&mut counts.built),
        Hold::Cached => Some(&mut counts.cached),
        Hold::Failed | Hold::FailedEarlier => Some(&mut counts.failed),
        Hold::Cancelled => Some(&mut counts.cancelled),
    }
}

/// A failure without a derivation.
pub(crate) fn failure(code: FailureCode, cause: impl Into<Arc<str>>) -> Failure {
    Failure { code, cause: cause.into(), detail: "".into(), drv: None }
}

impl Fleet {
    pub(crate) fn run_submitted(&mut self, id: RunId, request: &RunRequest) {
        if self.knows_run(id) {
            return;
        }
        let crowded = self.runs.len() >= self.config.max_runs;
        let mut run = Run::new(request.clone(), self.now);
        self.touched.insert(id);
        if crowded {
            let cause = format!("{} runs are going on already; try again later", self.runs.len());
            run.end_early(Outcome::Failed, Some(failure(FailureCode::Infrastructure, cause)));
            self.ending.insert(id);
        } else {
            for tree in 0..run.trees.len() {
                self.evals.want_discovery(id, tree);
            }
        }
        self.runs.insert(id, run);
        if !crowded {
            self.arm_deadline(id, self.now);
        }
    }

    /// Whether a run is live, or among the last that ended.
    pub(crate) fn knows_run(&self, id: RunId) -> bool {
        self.runs.contains_key(&id) || self.finished.iter().any(|view| view.run == id)
    }

    pub(crate) fn arm_deadline(&mut self, id: RunId, submitted: Time) {
        let limit_ms = self.config.run_deadline_ms;
        if limit_ms > 0 {
            self.arm(Timer::RunDeadline(id), submitted.plus_ms(limit_ms));
        }
    }

    pub(crate) fn run_cancelled(&mut self, id: RunId) {
        self.end_run_early(id, Outcome::Cancelled, None);
    }

    pub(crate) fn is_overdue(&self, now: Time, id: RunId) -> bool {
        let limit_ms = self.config.run_deadline_ms;
        let overdue = |run: &Run| now >= run.submitted.plus_ms(limit_ms);
        limit_ms > 0 && self.runs.get(&id).is_some_and(overdue)
    }

    pub(crate) fn run_overdue(&mut self, id: RunId) {
        let limit_ms = self.config.run_deadline_ms;
        if self.is_overdue(self.now, id) {
            let cause = format!("the run took longer than its limit of {} s", limit_ms / 1_000);
            self.end_run_early(id, Outcome::Cancelled, Some(failure(FailureCode::TimedOut, cause)));
        }
    }

    pub(crate) fn end_run_early(&mut self, id: RunId, outcome: Outcome, failure: Option<Failure>) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.end_early(outcome, failure);
            self.touched.insert(id);
            self.ending.insert(id);
        }
    }

    /// A target failed: counts it, and ends a run that asked for that.
    pub(crate) fn target_failed(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.failed_targets += 1;
        if run.request.on_failure == OnFailure::FailFast {
            run.end_early(Outcome::Partial, None);
            self.ending.insert(id);
        }
    }

    /// Takes back everything that runs with a verdict still want.
    pub(crate) fn withdraw_ended_runs(&mut self) {
        while let Some(id) = self.ending.pop_first() {
            let Some(run) = self.runs.get_mut(&id) else { continue };
            match &mut run.verdict {
                Some(verdict) if !verdict.withdrawn => verdict.withdrawn = true,
                _ => continue,
            }
            self.cancel_evals(id);
            self.cancel_realises(id);
            self.cancel_targets(id);
            self.cancel_steps(id);
        }
    }

    /// Tells counts that changed, and ends the runs that are over.
    pub(crate) fn report_progress(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let Some(run) = self.runs.get_mut(&id) else { continue };
            let counts = run.counts;
            if counts != run.sent {
                run.sent = counts;
                self.notify(id, Notice::Counts(counts));
            }
            if self.runs[&id].is_over() {
                self.finish_run(id);
            }
        }
    }

    fn finish_run(&mut self, id: RunId) {
        self.forget_failures(id);
        let Some(run) = self.runs.remove(&id) else { return };
        let finished = run.finished(self.now);
        self.notify(id, Notice::Finished(finished.clone()));
        if self.sabotaged(Sabotage::FinishTwice) {
            self.notify(id, Notice::Finished(finished.clone()));
        }
        self.finished.push_back(RunView::of(id, &run, Some(finished)));
        while self.finished.len() > self.config.finished_runs {
            self.finished.pop_front();
        }
    }
}
