//! Outputs that are lost: nobody has them any more, and whoever needs them waits until they are made again.
//!
//! Owns the way back from a step that was over to one that is wanted. Believes only the holder of a lease or a
//! job, and only of what its own work needs; an output that is lost over and over fails what needs it.

use std::collections::BTreeSet;

use crate::effect::{Notice, TargetStatus};
use crate::event::{Failure, FailureCode};
use crate::fleet::Fleet;
use crate::graph::{State, StepId};
use crate::id::{OutputPath, RunId};
use crate::lease::Leased;
use crate::outcome::StepEnd;
use crate::realise::RealiseJob;
use crate::retry::Verdict;
use crate::run::{Hold, failure};
use crate::sabotage::Sabotage;
use crate::target::{Stage, TargetRef};

/// Names that one message tells.
const MAX_NAMED: usize = 5;

/// A step whose output is said to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maker(pub(crate) StepId);

impl Fleet {
    /// The steps that make these paths, of all that a step needs directly or not; with itself, if `own`.
    pub(crate) fn makers(&self, of: StepId, own: bool, paths: &[OutputPath]) -> Vec<Maker> {
        let mut sought: BTreeSet<&OutputPath> = paths.iter().collect();
        let mut makers = Vec::new();
        if self.sabotaged(Sabotage::ForgetLost) {
            return makers;
        }
        let mut seen = BTreeSet::from([of]);
        let mut open = vec![of];
        while let Some(step) = open.pop()
            && !sought.is_empty()
        {
            let floating = self.graph.floating.get(&step).into_iter().flatten().map(|(_, path)| path);
            let outputs = self.graph.outputs(step).iter().chain(floating);
            let found = outputs.filter(|path| sought.remove(path)).count() > 0;
            if found && (own || step != of) {
                makers.push(Maker(step));
            }
            open.extend(self.graph.inputs(step).filter(|input| seen.insert(*input)));
        }
        makers
    }

    /// A leased step lacks inputs that nobody has: it waits for those who make them.
    pub(crate) fn inputs_lost(
        &mut self,
        leased: &Leased,
        since: u64,
        makers: &[Maker],
        failure: Failure,
        end: StepEnd,
    ) {
        let id = leased.step;
        let runs = self.graph.interested(id).collect();
        if let Some(failure) = self.lost_too_often(makers, since, &runs) {
            self.end_attempt(id, Verdict::Final, failure, end);
            return;
        }
        self.remake(makers, since, &runs, self.graph.step(id).rank);
        self.end_attempt(id, Verdict::Again { after_ms: 0 }, failure, end);
        self.doom_by_inputs(id);
    }

    /// A toplevel cannot be realised because paths of its closure are lost: its target waits for those who make
    /// them. False if nobody does.
    pub(crate) fn closure_lost(&mut self, job: &RealiseJob, missing: &[OutputPath]) -> bool {
        let at = job.work.at;
        let Some(top) = self.top_of(at) else { return false };
        let makers = self.makers(top, true, missing);
        if makers.is_empty() {
            return false;
        }
        let runs = BTreeSet::from([at.run]);
        if let Some(failure) = self.lost_too_often(&makers, job.since, &runs) {
            self.settle(at, TargetStatus::BuildFailed, Some(failure));
            return true;
        }
        self.remake(&makers, job.since, &runs, 0);
        if let Some(target) = self.runs.get_mut(&at.run).and_then(|run| run.target_mut(at)) {
            target.lost = makers.into_iter().map(|Maker(step)| step).collect();
        }
        self.await_lost(at);
        true
    }

    /// Has a target wait for one of the steps that make again what it lost; or go on, when all have.
    pub(crate) fn await_lost(&mut self, at: TargetRef) {
        let graph = &self.graph;
        let Some(target) = self.runs.get_mut(&at.run).and_then(|run| run.target_mut(at)) else { return };
        target.lost.retain(|step| graph.step(*step).state.is_open() || graph.step(*step).state.is_failed());
        let failed = target.lost.iter().find(|step| graph.step(**step).state.is_failed()).copied();
        let next = target.lost.last().copied();
        if let Some(failed) = failed {
            let failure = self.failure_of(failed);
            self.settle(at, TargetStatus::BuildFailed, failure);
        } else if let Some(next) = next {
            self.advance(at, Stage::Building(next));
            self.waiters.entry(next).or_default().push(at);
        } else {
            let top = self.top_of(at);
            let hold = top.and_then(|top| self.runs.get(&at.run)?.holds.get(&top));
            let built = hold == Some(&Hold::Built);
            self.toplevel_done(at, top, if built { TargetStatus::Built } else { TargetStatus::Cached });
        }
    }

    fn top_of(&self, at: TargetRef) -> Option<StepId> {
        self.graph.find(self.runs.get(&at.run)?.target(at)?.drv.as_ref()?)
    }

    /// Whether an output is gone that was there at this event: not made since, and nobody is about to.
    fn is_lost(&self, Maker(id): Maker, since: u64) -> bool {
        let step = self.graph.step(id);
        match step.state {
            State::Present => step.built.is_none_or(|built| built.tick <= since),
            state => state == State::Idle,
        }
    }

    /// Whether a run among these did not want a step until now: for it nothing was lost yet.
    fn is_new_to(&self, id: StepId, runs: &BTreeSet<RunId>) -> bool {
        let mut runs = runs.iter().filter_map(|run| self.runs.get(run));
        runs.any(|run| !run.holds.contains_key(&id))
    }

    fn lost_too_often(&self, makers: &[Maker], since: u64, runs: &BTreeSet<RunId>) -> Option<Failure> {
        let most = self.config.lost_attempts;
        let worn = |maker: &&Maker| {
            let often = u32::from(self.graph.step(maker.0).lost) >= most;
            self.is_lost(**maker, since) && often && (most == 0 || !self.is_new_to(maker.0, runs))
        };
        let Maker(worn) = *makers.iter().find(worn).filter(|_| !self.sabotaged(Sabotage::RemakeForEver))?;
        let name = &self.graph.step(worn).name;
        let cause = match most {
            0 => format!("the outputs of {name} are lost: no worker has them any more"),
            _ => {
                format!("the outputs of {name} were lost again, after they had been built again {most} times")
            }
        };
        Some(failure(FailureCode::Infrastructure, cause))
    }

    /// Has lost outputs made again, for these runs and for all whose steps wait for them.
    fn remake(&mut self, makers: &[Maker], since: u64, runs: &BTreeSet<RunId>, rank: u32) {
        let mut opened = Vec::new();
        for maker in makers {
            if self.is_lost(*maker, since) {
                self.reopen_lost(maker.0, runs, rank);
                opened.push(maker.0);
            } else if self.graph.step(maker.0).state.is_open() {
                self.join_lost(maker.0, runs);
            }
        }
        if self.sabotaged(Sabotage::RemakeBystander)
            && let Some(id) = self.graph.ids().find(|id| self.graph.step(*id).state == State::Present)
        {
            self.reopen_lost(id, runs, rank);
        }
        if opened.is_empty() {
            return;
        }
        let names: Vec<&str> =
            opened.iter().take(MAX_NAMED).map(|step| &*self.graph.step(*step).name).collect();
        let others = opened.len().saturating_sub(MAX_NAMED);
        let and = if others > 0 { format!(" and {others} others") } else { String::new() };
        let text = format!("outputs are lost, and are built again: {}{and}", names.join(", "));
        for run in runs {
            self.notify(*run, Notice::Message(text.as_str().into()));
        }
        for step in opened {
            self.doom_by_inputs(step);
        }
    }

    /// Has runs want what others have made again already: it must not be given up before they have it.
    fn join_lost(&mut self, id: StepId, runs: &BTreeSet<RunId>) {
        for run in runs {
            let held = self.runs.get(run).and_then(|run| run.holds.get(&id));
            if !held.is_some_and(|hold| hold.is_open()) {
                self.join_open(*run, id);
            }
        }
    }

    fn reopen_lost(&mut self, id: StepId, runs: &BTreeSet<RunId>, rank: u32) {
        if self.is_new_to(id, runs) {
            self.graph.step_mut(id).lost = 0;
        }
        let waiting = self.graph.dependents(id).filter(|user| self.graph.step(*user).state.is_open());
        let waiting = waiting.flat_map(|user| self.graph.interested(user));
        let wanted: BTreeSet<RunId> = runs.iter().copied().chain(waiting).collect();
        for run in wanted {
            let Some(entry) = self.runs.get_mut(&run) else { continue };
            entry.set_hold(id, Hold::Waiting);
            self.touched.insert(run);
            if self.graph.step(id).state.is_open() {
                self.graph.join(id, run);
            } else {
                self.graph.open(id, run);
            }
        }
        let step = self.graph.step_mut(id);
        step.lost = step.lost.saturating_add(1);
        self.graph.raise(id, rank.saturating_add(1));
    }
}
