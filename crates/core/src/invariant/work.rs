//! Promises about leases, jobs and queues: nothing is done twice, nothing is lost, nobody idles.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, hold};
use crate::fleet::Fleet;
use crate::graph::State;
use crate::id::{RunId, Side};
use crate::run::Run;
use crate::target::{Stage, TargetRef};
use crate::worker::{Presence, Worker};

pub(super) fn check(fleet: &Fleet) -> Result<(), Violation> {
    leases(fleet)?;
    slots(fleet)?;
    disks(fleet)?;
    hints(fleet)?;
    standing(fleet)?;
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
        hold(held, "a lease has a holder", || format!("lease {id} of worker {}", lease.worker))?;
        hold(!lease.steps.is_empty(), "a lease ends with its last step", || format!("lease {id}"))?;
        for held in &lease.steps {
            let twice = leased.insert(held.step, *id).is_some();
            hold(!twice, "a step has one lease at a time", || format!("{held:?}"))?;
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
        // What it kept from an earlier session may be more than it offers now.
        let within = worker.leases.len() <= worker.offer.slots.max(worker.kept)
            && worker.evals.len() <= worker.offer.eval_slots
            && worker.realises.len() <= fleet.config.realises_per_worker.max(1);
        hold(within, "a worker has no more work than slots", || format!("worker {id} {worker:?}"))?;
        let leases = worker.leases.iter().all(|lease| fleet.leases.contains_key(lease));
        let evals = worker.evals.iter().all(|job| fleet.evals.jobs.contains_key(job));
        let realises = worker.realises.iter().all(|job| fleet.realises.jobs.contains_key(job));
        hold(leases && evals && realises, "a slot is free when its work is over", || format!("{worker:?}"))?;
    }
    let evals = fleet.evals.jobs.values().map(|job| job.worker);
    let realises = fleet.realises.jobs.values().map(|job| job.worker);
    let connected = evals
        .chain(realises)
        .all(|id| fleet.workers.get(&id).is_some_and(|worker| worker.session().is_some()));
    hold(connected, "a job has a connected holder", || format!("{:?} {:?}", fleet.evals, fleet.realises))
}

/// What leases keep free is counted, and not forgotten when they end.
fn disks(fleet: &Fleet) -> Result<(), Violation> {
    for (id, worker) in &fleet.workers {
        let leases = worker.leases.iter().filter_map(|lease| fleet.leases.get(lease));
        let reserved = leases.flat_map(|lease| &lease.steps).map(|leased| leased.reserved);
        let reserved = reserved.fold(0u64, u64::saturating_add);
        hold(worker.reserved == reserved, "room is reserved exactly for what is leased", || {
            format!("worker {id}: {} for {reserved}", worker.reserved)
        })?;
    }
    let kept = fleet.sizes.is_consistent(fleet.config.remember_sizes);
    hold(kept, "remembered sizes are bounded", || format!("{:?}", fleet.sizes))?;
    let ready = |id: &_| fleet.graph.step(*id).state == State::Ready;
    let kept = fleet.cramped.keys().all(ready);
    hold(kept, "only ready steps wait for disks", || format!("{:?}", fleet.cramped))
}

/// Nobody expects what another expects, or what it could have at once.
fn hints(fleet: &Fleet) -> Result<(), Violation> {
    let mut expected = BTreeSet::new();
    for (id, step) in fleet.hints.iter() {
        let ready = fleet.graph.step(step).state == State::Ready;
        hold(ready, "what is expected is ready", || format!("worker {id}, {step:?}"))?;
        hold(expected.insert(step), "a step is expected by one worker", || format!("worker {id}, {step:?}"))?;
        let busy =
            fleet.workers.get(&id).is_some_and(|worker| worker.takes_work() && worker.free_slots() == 0);
        hold(busy, "who expects a step is busy", || format!("worker {id}, {step:?}"))?;
    }
    Ok(())
}

/// What a worker has follows from where it is and how it stands.
fn standing(fleet: &Fleet) -> Result<(), Violation> {
    for (id, worker) in &fleet.workers {
        let jobs = worker.evals.len() + worker.realises.len();
        let kept = match worker.presence {
            Presence::Connected { .. } => true,
            Presence::Away { .. } => jobs == 0,
            Presence::Unmet | Presence::Gone { .. } => jobs + worker.leases.len() == 0,
        };
        hold(kept, "who is gone has nothing", || format!("worker {id} {worker:?}"))?;
        let outcast = worker.standing.revoked.is_some() || worker.standing.locked.is_some();
        let kept = !outcast || (!worker.is_connected() && worker.leases.is_empty());
        hold(kept, "who is revoked or locked has no session and no lease", || {
            format!("worker {id} {worker:?}")
        })?;
        let kept = id.0 <= fleet.last_worker;
        hold(kept, "worker ids are never given twice", || format!("worker {id} {}", fleet.last_worker))?;
        let strikes = worker.standing.strikes.len();
        hold(strikes <= fleet.config.quarantine_after, "strikes are bounded", || format!("{worker:?}"))?;
    }
    let within = fleet.workers.len() <= fleet.config.max_workers;
    hold(within, "known workers are bounded", || fleet.workers.len().to_string())?;
    let kept = fleet.earlier.is_consistent(fleet.config.remember_failures);
    hold(kept, "remembered failures are bounded", || format!("{:?}", fleet.earlier))?;
    let latest = fleet.leases.values().map(|lease| lease.epoch).max();
    hold(latest.is_none_or(|epoch| epoch.0 <= fleet.grants), "epochs are given once", || {
        format!("{latest:?}")
    })
}

/// Whether a worker gets leases, now or when it has built what it has.
fn may_lease(worker: &Worker) -> bool {
    let resting = worker.standing.quarantine.as_ref().is_some_and(|quarantine| quarantine.until.is_some());
    worker.takes_work() && !resting
}

/// No ready work waits while someone could do it.
fn idleness(fleet: &Fleet) -> Result<(), Violation> {
    let ready = fleet.graph.ids().filter(|id| fleet.graph.step(*id).state == State::Ready);
    for id in ready {
        let need = &fleet.graph.classes.get(fleet.graph.definition(id).class).need;
        let bytes = fleet.predicted_bytes(id);
        // A worker that failed it, or emulates, may leave it to a better one that is busy.
        let failed =
            |worker| fleet.objections.get(&id).is_some_and(|objection| objection.failed.contains(worker));
        let willing = fleet.workers.iter().filter(|(worker, offer)| {
            let fits = offer.fit(need).is_some() && fleet.could_hold(offer, bytes);
            may_lease(offer) && fits && !fleet.has_refused(id, **worker)
        });
        let best = willing.clone().map(|(worker, offer)| (failed(worker), offer.fit(need))).min();
        let mut best_of = willing.filter(|(worker, offer)| Some((failed(worker), offer.fit(need))) == best);
        let idle = best_of.find(|(_, offer)| offer.free_slots() > 0 && fleet.has_room(offer, bytes));
        hold(idle.is_none(), "no worker idles while a step fits it", || format!("{id:?} {idle:?}"))?;
    }
    let evaluator = fleet
        .workers
        .values()
        .any(|worker| worker.takes_work() && worker.evals.len() < worker.offer.eval_slots);
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
    let queued = fleet.realises.waiting().map(|work| work.at);
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
