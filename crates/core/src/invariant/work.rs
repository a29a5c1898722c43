//! Promises about leases, jobs and queues: nothing is done twice, nothing is lost, nobody idles.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, hold};
use crate::fleet::Fleet;
use crate::graph::State;
use crate::id::{RunId, Side};
use crate::run::Run;
use crate::target::{Stage, TargetRef};

pub(super) fn check(fleet: &Fleet) -> Result<(), Violation> {
    leases(fleet)?;
    slots(fleet)?;
    idleness(fleet)?;
    targets(fleet)?;
    for (id, run) in &fleet.runs {
        hold(!run.is_over(), "a run that is over ends", || format!("run {id}"))?;
        discoveries(fleet, *id, run)?;
    }
    Ok(())
}

fn leases(fleet: &Fleet) -> Result<(), Violation> {
    let mut leased = BTreeMap::new();
    for (id, lease) in &fleet.leases {
        let held = fleet.workers.get(&lease.worker).is_some_and(|worker| worker.leases.contains(id));
        hold(held, "a lease has a connected holder", || format!("lease {id} of worker {}", lease.worker))?;
        hold(!lease.steps.is_empty(), "a lease ends with its last step", || format!("lease {id}"))?;
        for (step, _) in &lease.steps {
            let twice = leased.insert(*step, *id).is_some();
            hold(!twice, "a step has one lease at a time", || format!("{step:?}"))?;
        }
    }
    for id in fleet.graph.ids() {
        let lease = match fleet.graph.step(id).state {
            State::Leased(lease) => Some(lease),
            _ => None,
        };
        let kept = leased.get(&id).copied() == lease;
        hold(kept, "a step is leased exactly when a lease has it", || format!("{id:?} {lease:?}"))?;
    }
    Ok(())
}

fn slots(fleet: &Fleet) -> Result<(), Violation> {
    for (id, worker) in &fleet.workers {
        let within = worker.leases.len() <= worker.slots
            && worker.evals.len() <= worker.eval_slots
            && worker.realises.len() <= fleet.config.realises_per_worker.max(1);
        hold(within, "a worker has no more work than slots", || format!("worker {id} {worker:?}"))?;
        let leases = worker.leases.iter().all(|lease| fleet.leases.contains_key(lease));
        let evals = worker.evals.iter().all(|job| fleet.evals.jobs.contains_key(job));
        let realises = worker.realises.iter().all(|job| fleet.realises.jobs.contains_key(job));
        hold(leases && evals && realises, "a slot is free when its work is over", || format!("{worker:?}"))?;
    }
    let evals = fleet.evals.jobs.values().map(|job| job.worker);
    let realises = fleet.realises.jobs.values().map(|job| job.worker);
    let connected = evals.chain(realises).all(|worker| fleet.workers.contains_key(&worker));
    hold(connected, "a job has a connected holder", || format!("{:?} {:?}", fleet.evals, fleet.realises))
}

/// No ready work waits while someone could do it.
fn idleness(fleet: &Fleet) -> Result<(), Violation> {
    let ready = fleet.graph.ids().filter(|id| fleet.graph.step(*id).state == State::Ready);
    for id in ready {
        let need = &fleet.graph.classes.get(fleet.graph.definition(id).class).need;
        let idle = fleet.workers.iter().find(|(worker, offer)| {
            offer.leases.len() < offer.slots && offer.fits(need) && !fleet.has_refused(id, **worker)
        });
        hold(idle.is_none(), "no worker idles while a step fits it", || format!("{id:?} {idle:?}"))?;
    }
    let evaluator = fleet.workers.values().any(|worker| worker.evals.len() < worker.eval_slots);
    let kept = fleet.evals.queue.is_empty() || !evaluator;
    hold(kept, "no evaluator idles while a host waits", || format!("{:?}", fleet.evals))
}

/// Every target without an end waits for something that will come.
fn targets(fleet: &Fleet) -> Result<(), Violation> {
    let queued = fleet.evals.queue.iter();
    let evals = queued.chain(fleet.evals.jobs.values().map(|job| &job.work));
    let mut evaluated: BTreeMap<(RunId, usize, u32), usize> = BTreeMap::new();
    for work in evals {
        for host in work.hosts.iter().flatten() {
            *evaluated.entry((work.run, work.tree, *host)).or_default() += 1;
        }
    }
    let queued = fleet.realises.queue.iter().map(|work| work.at);
    let mut realised: BTreeMap<TargetRef, usize> = BTreeMap::new();
    for at in queued.chain(fleet.realises.jobs.values().map(|job| job.work.at)) {
        *realised.entry(at).or_default() += 1;
    }
    let waiting: BTreeSet<(TargetRef, _)> =
        fleet.waiters.iter().flat_map(|(step, waiting)| waiting.iter().map(move |at| (*at, *step))).collect();
    let mut open = 0;
    for (run_id, run) in &fleet.runs {
        for at in run.open_targets(*run_id) {
            open += 1;
            let Some(target) = run.target(at) else { continue };
            let kept = match &target.stage {
                Stage::Found | Stage::Evaluating => {
                    let tree = tree_of(run, at.side);
                    evaluated.get(&(*run_id, tree, at.host)) == Some(&1)
                }
                Stage::Answered(_) => unanswered(run, at),
                Stage::Building(top) => {
                    waiting.contains(&(at, *top)) && fleet.graph.step(*top).state.is_open()
                }
                Stage::Realising(_) => realised.get(&at) == Some(&1),
                Stage::Settled(_) => false,
            };
            hold(kept, "a target waits for what will come", || format!("{at:?} {target:?}"))?;
        }
    }
    let unsettled: usize = fleet.runs.values().map(|run| run.unsettled).sum();
    hold(open == unsettled, "targets without an end are counted", || format!("{open} {unsettled}"))
}

/// Whether another side of the target's host is still to be evaluated.
fn unanswered(run: &Run, at: TargetRef) -> bool {
    let other = if at.side == Side::Before { Side::After } else { Side::Before };
    let other = run.target(TargetRef { side: other, ..at });
    other.is_some_and(|target| matches!(target.stage, Stage::Found | Stage::Evaluating))
}

fn tree_of(run: &Run, side: Side) -> usize {
    run.trees.iter().position(|tree| tree.sides.contains(&side)).unwrap_or(usize::MAX)
}

fn discoveries(fleet: &Fleet, id: RunId, run: &Run) -> Result<(), Violation> {
    let queued = fleet.evals.queue.iter();
    let works: Vec<_> = queued
        .chain(fleet.evals.jobs.values().map(|job| &job.work))
        .filter(|work| work.run == id && work.hosts.is_none())
        .collect();
    for (number, tree) in run.trees.iter().enumerate() {
        let looking = works.iter().filter(|work| work.tree == number).count();
        let expected = usize::from(tree.found.is_none());
        hold(looking == expected, "a tree is discovered once", || format!("run {id}, tree {number}"))?;
    }
    Ok(())
}
