//! Why a host or a step is not done: what it waits for, and which workers do not take it.
//!
//! Explains what placement and patience decide, in words for people; decides nothing itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::StepView;
use crate::disk::in_words;
use crate::effect::TargetStatus;
use crate::fleet::Fleet;
use crate::graph::{Need, State, StepId};
use crate::id::{DrvPath, Feature, HostKind, RunId, Side, System, WorkerId};
use crate::run::Run;
use crate::target::{Stage, TargetEntry, TargetRef};
use crate::worker::{Fit, Presence, Worker};

/// Steps looked at for one answer.
const MAX_SEARCHED: usize = 100_000;

/// Why one target or step is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyView {
    /// A host and side, or a derivation.
    pub subject: String,
    /// One sentence.
    pub state: String,
    /// From the subject down to what blocks it, each waiting for the next.
    pub chain: Vec<StepView>,
    /// For the last of the chain, or for the evaluation, when it waits for a worker.
    pub rejections: Vec<Rejection>,
}

/// Why a worker does not take a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its name.
    pub worker: Arc<str>,
    /// What speaks against it, as in "all 4 slots are taken".
    pub reason: String,
}

impl Fleet {
    /// Why the targets of a host, or a step, are not done: of one run, or of every live one. The selector is a
    /// host's name, a derivation's path or its base name. At most `limit` answers.
    pub fn why(&self, run: Option<RunId>, selector: &str, limit: usize) -> Vec<WhyView> {
        let runs = self.runs.iter().filter(|(id, _)| run.is_none_or(|run| run == **id));
        let targets = runs.flat_map(|(id, run)| targets_named(*id, run, selector));
        let mut answers: Vec<WhyView> =
            targets.take(limit).map(|(at, subject, target)| self.why_target(at, subject, target)).collect();
        let base_name = selector.rsplit('/').next().unwrap_or(selector);
        if let Some(step) = self.graph.find(&DrvPath::from(base_name))
            && answers.len() < limit
        {
            answers.push(self.why_step(base_name.to_owned(), step));
        }
        answers
    }

    fn why_target(&self, at: TargetRef, subject: String, target: &TargetEntry) -> WhyView {
        let plain = |state: String| WhyView {
            subject: subject.clone(),
            state,
            chain: Vec::new(),
            rejections: Vec::new(),
        };
        match &target.stage {
            Stage::Found => WhyView {
                rejections: self.reject_all(|_, worker| against_evaluating(worker)),
                ..plain(format!("it waits for an evaluator{}", self.given_up_after(self.evals.stranded)))
            },
            Stage::Evaluating => plain("it is being evaluated".to_owned()),
            Stage::Answered(_) => plain("it is evaluated, and waits for its other side".to_owned()),
            Stage::Building(top) => WhyView { subject: subject.clone(), ..self.why_step(subject, *top) },
            Stage::Realising(_) => plain(self.why_realising(at)),
            Stage::Settled(status) => plain(match (status, &target.failure) {
                (_, Some(failure)) => format!("it failed: {}", failure.cause),
                (TargetStatus::Cancelled, None) => "it was cancelled".to_owned(),
                _ => "it is done".to_owned(),
            }),
        }
    }

    fn why_realising(&self, at: TargetRef) -> String {
        let job = self.realises.jobs.values().find(|job| job.work.at == at);
        if let Some(worker) = job.and_then(|job| self.workers.get(&job.worker)) {
            return format!("its toplevel is made valid on {}", worker.name);
        }
        let given_up = self.given_up_after(self.realises.stranded);
        format!("its toplevel waits for a worker that makes it valid{given_up}")
    }

    fn why_step(&self, subject: String, id: StepId) -> WhyView {
        let path = self.path_to_blocker(id);
        let last = path.last().copied().unwrap_or(id);
        let mut state = self.why_in_words(last);
        if last != id {
            state = format!("it waits for {}: {state}", self.graph.step(last).name);
        }
        let rejections = if self.graph.step(last).state == State::Ready {
            self.reject_all(|worker_id, worker| self.against_building(last, worker_id, worker))
        } else {
            Vec::new()
        };
        WhyView { subject, state, chain: path.into_iter().map(|id| self.view_step(id)).collect(), rejections }
    }

    fn why_in_words(&self, id: StepId) -> String {
        let step = self.graph.step(id);
        match step.state {
            State::Undefined | State::Alias(_) | State::Idle => "nobody wants it now".to_owned(),
            State::Present => "it is built".to_owned(),
            State::Waiting => format!("it waits for {} inputs", step.blocked),
            State::Ready => {
                let class = self.graph.classes.get(self.graph.definition(id).class);
                let refused = self.objections.get(&id).and_then(|objection| objection.stranded);
                let given_up =
                    self.given_up_after(class.stranded.or(refused).or(self.cramped.get(&id).copied()));
                format!("it waits for a worker for {}{given_up}", describe(&class.need))
            }
            State::Delayed(until) => {
                let left = until.since_ms(self.now).div_ceil(1_000);
                format!("it failed attempt {} and rests for {left} s", step.attempts)
            }
            State::Leased(lease) => {
                let worker = self.leases.get(&lease).and_then(|lease| self.workers.get(&lease.worker));
                let name = worker.map_or("a worker", |worker| &*worker.name);
                let away = worker.is_some_and(|worker| !worker.is_connected());
                let and = if away { ", which is away" } else { "" };
                format!("it is being built by {name}{and}")
            }
            State::Failed => {
                let failure = self.graph.failures.get(&id);
                failure
                    .map_or_else(|| "it failed".to_owned(), |failure| format!("it failed: {}", failure.cause))
            }
            State::DependencyFailed(root) => format!("{} failed", self.graph.step(root).name),
        }
    }

    /// What happens to what waits for a worker and fits none that is there or may come back.
    fn given_up_after(&self, stranded: Option<crate::id::Time>) -> String {
        let Some(since) = stranded else { return String::new() };
        let due = since.plus_ms(self.patience_ms());
        format!("; there is none, and it fails in {} s", due.since_ms(self.now).div_ceil(1_000))
    }

    /// From a step to the nearest of those it waits for that could go on but does not; or else to one that
    /// rests, or is being built.
    fn path_to_blocker(&self, id: StepId) -> Vec<StepId> {
        let mut users: BTreeMap<StepId, StepId> = BTreeMap::new();
        let mut seen = BTreeSet::from([id]);
        let mut open = VecDeque::from([id]);
        let mut best: Option<(u8, StepId)> = None;
        while let Some(step) = open.pop_front() {
            let rank = match self.graph.step(step).state {
                State::Ready => 0,
                State::Delayed(_) => 1,
                State::Leased(_) => 2,
                _ => 3,
            };
            if best.is_none_or(|(found, _)| rank < found) {
                best = Some((rank, step));
            }
            if rank == 0 || seen.len() > MAX_SEARCHED {
                break;
            }
            for input in self.graph.inputs(step) {
                if self.graph.step(input).state.is_open() && seen.insert(input) {
                    users.insert(input, step);
                    open.push_back(input);
                }
            }
        }
        let mut path: Vec<StepId> = best.map(|(_, step)| step).into_iter().collect();
        while let Some(user) = path.last().and_then(|step| users.get(step)) {
            path.push(*user);
        }
        path.reverse();
        path
    }

    fn reject_all(&self, against: impl Fn(WorkerId, &Worker) -> Option<String>) -> Vec<Rejection> {
        let reject = |(id, worker): (&WorkerId, &Worker)| {
            let reason = against_any(worker).or_else(|| against(*id, worker))?;
            Some(Rejection { worker: Arc::clone(&worker.name), reason })
        };
        self.workers.iter().filter_map(reject).collect()
    }

    fn against_disk(&self, step: StepId, worker: &Worker) -> Option<String> {
        let bytes = self.predicted_bytes(step);
        let free = worker.store_free.filter(|_| !self.has_room(worker, bytes))?;
        let [needed, free, floor] = [bytes, free, self.config.disk_floor_bytes].map(in_words);
        let reserved = match worker.reserved {
            0 => String::new(),
            reserved => format!(", of which its leases will take {}", in_words(reserved)),
        };
        Some(format!("has {free} free{reserved}; the step needs about {needed}, and {floor} stay free"))
    }

    fn against_building(&self, step: StepId, id: WorkerId, worker: &Worker) -> Option<String> {
        let need = &self.graph.classes.get(self.graph.definition(step).class).need;
        let objection = self.objections.get(&step);
        let Some(fit) = worker.fit(need) else { return Some(against_need(worker, need)) };
        if self.has_refused(step, id) {
            let cause = objection.map_or("", |objection| &*objection.last.cause);
            return Some(format!("refused it: {cause}"));
        }
        if let Some(quarantine) = &worker.standing.quarantine {
            let reason = &quarantine.reason;
            if quarantine.until.is_some() {
                return Some(format!("is quarantined: {reason}"));
            }
            if worker.free_slots() == 0 {
                return Some(format!("is quarantined, and tried with one step at a time: {reason}"));
            }
        }
        if let Some(lacking) = self.against_disk(step, worker) {
            return Some(lacking);
        }
        if worker.free_slots() == 0 {
            return Some(taken(worker.offer.slots, "slots"));
        }
        if objection.is_some_and(|objection| objection.failed.contains(&id)) {
            return Some("failed it before, and another may do better".to_owned());
        }
        (fit == Fit::Emulated).then(|| format!("emulates {}, and another does not", need.system))
    }
}

/// A run's targets of a host, with what people call them.
fn targets_named<'a>(
    id: RunId,
    run: &'a Run,
    name: &'a str,
) -> impl Iterator<Item = (TargetRef, String, &'a TargetEntry)> {
    let hosts = (0..).zip(&run.hosts).filter(move |(_, entry)| &*entry.host.name == name);
    hosts.flat_map(move |(host, entry)| {
        entry.targets().map(move |(side, target)| {
            let of_kind = match entry.host.kind {
                HostKind::Nixos => "",
                HostKind::Darwin => " (darwin)",
                HostKind::Home => " (home)",
            };
            let word = if side == Side::Before { "before" } else { "after" };
            (TargetRef { run: id, host, side }, format!("{}{of_kind}, {word}", entry.host.name), target)
        })
    })
}

/// What keeps a worker from anything new.
fn against_any(worker: &Worker) -> Option<String> {
    let standing = &worker.standing;
    let said = [("revoked", &standing.revoked), ("locked", &standing.locked), ("drained", &standing.drained)];
    let word = said.into_iter().find_map(|(word, reason)| Some((word, reason.as_ref()?)));
    if let Some((word, reason)) = word {
        return Some(format!("is {word}: {reason}"));
    }
    match worker.presence {
        Presence::Unmet => Some("has never connected".to_owned()),
        Presence::Away { .. } => Some("is away".to_owned()),
        Presence::Gone { .. } => Some("is gone".to_owned()),
        Presence::Connected { .. } => worker.unwell.as_ref().map(|reason| format!("is not well: {reason}")),
    }
}

fn against_evaluating(worker: &Worker) -> Option<String> {
    match worker.offer.eval_slots {
        0 => Some("does not evaluate".to_owned()),
        slots => (worker.free_eval_slots() == 0).then(|| taken(slots, "eval slots")),
    }
}

fn against_need(worker: &Worker, need: &Need) -> String {
    let offer = &worker.offer;
    if offer.slots == 0 {
        return "builds nothing".to_owned();
    }
    if !worker.builds_for(&need.system) {
        let systems: Vec<&str> = offer.systems.iter().map(System::as_str).collect();
        return format!("builds for {} only", systems.join(", "));
    }
    let missing: Vec<&str> = need
        .features
        .iter()
        .filter(|feature| !offer.features.contains(feature))
        .map(Feature::as_str)
        .collect();
    if !missing.is_empty() {
        return format!("does not offer {}", missing.join(", "));
    }
    let mandatory: Vec<&str> = offer.mandatory.iter().map(Feature::as_str).collect();
    format!("takes only what requires {}", mandatory.join(", "))
}

fn taken(slots: usize, what: &str) -> String {
    format!("all {slots} {what} are taken")
}

/// A system, and the features needed beside it.
pub(crate) fn describe(need: &Need) -> String {
    let features: Vec<&str> = need.features.iter().map(Feature::as_str).collect();
    let with = if features.is_empty() { String::new() } else { format!(" with {}", features.join(", ")) };
    format!("{}{with}", need.system)
}
