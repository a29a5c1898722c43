//! Promises about the graph, and about the runs' holds on it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, hold};
use crate::effect::Counts;
use crate::event::Goal;
use crate::fleet::Fleet;
use crate::graph::{ReadyKey, State, StepId, Tally};
use crate::id::RunId;
use crate::run::{Hold, Run};

pub(super) fn check(fleet: &Fleet) -> Result<(), Violation> {
    edges(fleet)?;
    queues(fleet)?;
    claims(fleet)?;
    failures(fleet)?;
    for (id, run) in &fleet.runs {
        holds(fleet, *id, run)?;
        counts(*id, run)?;
    }
    Ok(())
}

fn edges(fleet: &Fleet) -> Result<(), Violation> {
    let graph = &fleet.graph;
    let mut down = Vec::new();
    let mut up = Vec::new();
    // An alias is made as its step is.
    for id in graph.ids().filter(|id| graph.resolve(*id) == *id) {
        down.extend(graph.inputs(id).map(|input| (input, id)));
        up.extend(graph.dependents(id).map(|dependent| (id, dependent)));
    }
    down.sort_unstable();
    up.sort_unstable();
    hold(down == up, "dependents mirror inputs", || format!("{down:?} against {up:?}"))?;
    let mut blocked = vec![0; graph.len()];
    for (input, dependent) in down {
        blocked[dependent.0 as usize] += u32::from(graph.step(input).state.is_open());
    }
    for id in graph.ids() {
        let (counted, expected) = (graph.step(id).blocked, blocked[id.0 as usize]);
        hold(counted == expected, "a step counts its open inputs", || {
            format!("{counted} of {expected} at {id:?}")
        })?;
    }
    Ok(())
}

fn queues(fleet: &Fleet) -> Result<(), Violation> {
    let graph = &fleet.graph;
    let mut tally = Tally::default();
    let mut ready: BTreeSet<(crate::graph::ClassId, ReadyKey)> = BTreeSet::new();
    for id in graph.ids() {
        let step = graph.step(id);
        if let Some(count) = tally.of(step.state) {
            *count += 1;
        }
        let startable = if step.blocked == 0 { State::Ready } else { State::Waiting };
        let kept = !matches!(step.state, State::Ready | State::Waiting) || step.state == startable;
        hold(kept, "a step is ready exactly when no input is open", || describe(fleet, id))?;
        if step.state == State::Ready {
            ready.insert((graph.definition(id).class, graph.key(id)));
        }
    }
    hold(tally == graph.tally, "open steps are counted by state", || format!("{tally:?} {:?}", graph.tally))?;
    let busy = graph.classes.busy();
    let queued = busy.flat_map(|class| graph.classes.get(class).ready.iter().map(move |key| (class, *key)));
    let queued: BTreeSet<_> = queued.collect();
    hold(queued == ready, "the ready queues hold the ready steps", || format!("{queued:?} against {ready:?}"))
}

/// Interest of each run, and claims, as they follow from the runs.
fn claims(fleet: &Fleet) -> Result<(), Violation> {
    let graph = &fleet.graph;
    let mut interest: BTreeMap<StepId, Vec<RunId>> = BTreeMap::new();
    let mut claims: BTreeMap<StepId, u32> = BTreeMap::new();
    for (id, run) in fleet.runs.iter().filter(|(_, run)| run.request.goal == Goal::Build) {
        for (step, hold) in &run.holds {
            if hold.is_open() {
                interest.entry(*step).or_default().push(*id);
            }
            if hold.is_open() || *hold == Hold::Failed {
                *claims.entry(*step).or_default() += 1;
            }
        }
        for step in &run.blamed {
            *claims.entry(*step).or_default() += 1;
        }
    }
    for id in graph.ids() {
        let step = graph.step(id);
        let mut interested: Vec<RunId> = graph.interested(id).collect();
        interested.sort_unstable();
        let expected = interest.get(&id).cloned().unwrap_or_default();
        hold(interested == expected, "a step knows who wants it", || {
            format!("{expected:?} want {}", describe(fleet, id))
        })?;
        let expected = claims.get(&id).copied().unwrap_or(0);
        hold(step.claims == expected, "claims are counted", || {
            format!("{expected}: {}", describe(fleet, id))
        })?;
        let kept = (step.state.is_open() || step.state.is_failed()) == (expected > 0);
        hold(kept, "a step is worked on or failed exactly while a run claims it", || describe(fleet, id))?;
        let kept = step.state.is_open() != interested.is_empty();
        hold(kept, "a step is worked on exactly while a run wants it", || describe(fleet, id))?;
        hold(step.tries.within(&fleet.config), "attempts are bounded", || describe(fleet, id))?;
        let kept = u32::from(step.lost) <= fleet.config.lost_attempts;
        hold(kept, "what is lost is made again so often only", || describe(fleet, id))?;
        let kept = step.state != State::Present || step.built.is_some();
        hold(kept, "who has a step's outputs is known", || describe(fleet, id))?;
    }
    Ok(())
}

fn failures(fleet: &Fleet) -> Result<(), Violation> {
    let graph = &fleet.graph;
    let mut reached: BTreeMap<StepId, BTreeSet<StepId>> = BTreeMap::new();
    for id in graph.ids() {
        let state = graph.step(id).state;
        let failed = state == State::Failed;
        hold(graph.failures.contains_key(&id) == failed, "a failed step says why", || describe(fleet, id))?;
        if let State::DependencyFailed(root) = state {
            let below = reached.entry(root).or_insert_with(|| dependents_of(fleet, root));
            hold(below.contains(&id), "a failure reaches only dependents", || describe(fleet, id))?;
            let failed = graph.step(root).state == State::Failed;
            hold(failed, "the root of a failure is remembered", || describe(fleet, id))?;
        }
        // A leased step had its inputs when it was leased.
        if state.is_open() && !matches!(state, State::Leased(_)) {
            let kept = graph.failed_input(id).is_none();
            hold(kept, "a failure reaches all dependents", || describe(fleet, id))?;
        }
    }
    Ok(())
}

/// Steps that need `root` in some way they can be made: a failure is remembered when the way has changed.
fn dependents_of(fleet: &Fleet, root: StepId) -> BTreeSet<StepId> {
    let graph = &fleet.graph;
    let mut users: BTreeMap<StepId, Vec<StepId>> = BTreeMap::new();
    for id in graph.ids() {
        for input in graph.inputs_of_derivation(id) {
            users.entry(input).or_default().push(graph.resolve(id));
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(step) = open.pop() {
        let users = users.get(&step).into_iter().flatten();
        open.extend(users.filter(|dependent| found.insert(**dependent)));
    }
    found
}

fn holds(fleet: &Fleet, id: RunId, run: &Run) -> Result<(), Violation> {
    if run.request.goal == Goal::Plan {
        return Ok(());
    }
    for (step, held) in &run.holds {
        let state = fleet.graph.step(*step).state;
        let kept = match held {
            Hold::Waiting => state.is_open() && !matches!(state, State::Leased(_)),
            Hold::Running => matches!(state, State::Leased(_)),
            Hold::Failed => state.is_failed(),
            Hold::Built | Hold::Cached | Hold::FailedEarlier => true,
            Hold::Cancelled => false,
        };
        hold(kept, "a live run's holds say what its steps are", || {
            format!("{id} {held:?} {}", describe(fleet, *step))
        })?;
    }
    Ok(())
}

fn counts(id: RunId, run: &Run) -> Result<(), Violation> {
    let of = |wanted: Hold| {
        let held = run.holds.values().filter(|hold| **hold == wanted).count();
        u32::try_from(held).unwrap_or(u32::MAX)
    };
    let expected = Counts {
        wanted: u32::try_from(run.holds.len()).unwrap_or(u32::MAX),
        built: of(Hold::Built),
        cached: of(Hold::Cached),
        failed: of(Hold::Failed) + of(Hold::FailedEarlier),
        running: of(Hold::Running),
        cancelled: of(Hold::Cancelled),
        substituted: run.counts.substituted,
        deduplicated: run.counts.deduplicated,
    };
    hold(run.counts == expected, "every step counts once", || {
        format!("run {id}: {:?} {expected:?}", run.counts)
    })
}

fn describe(fleet: &Fleet, id: StepId) -> String {
    format!("{} {:?}", fleet.graph.drv(id), fleet.graph.step(id))
}
