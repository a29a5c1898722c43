//! Recorded fleets: real build graphs instead of random ones.
//!
//! Reads the JSON of `examples/replay-fleet/data` and plays the parts of client, evaluator and builder
//! around a core, with one store and no faults. The content of the file is trusted as little as any: a graph
//! that is not in dependency order is refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fleet_core::{
    Command, DrvPath, Effect, EvalReport, EvalTask, Evaluated, Event, Fleet, Goal, Host, HostKind,
    LeasedStep, NewStep, Notice, OnFailure, RunId, RunRequest, Selection, Settled, Side, SourceId,
    StepOutcome, StepReport, Target, Time, WorkerHello, WorkerId,
};
use serde::Deserialize;

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordedError {
    /// It is not what it should be.
    #[error("the recording is not readable")]
    Json(#[from] serde_json::Error),
    /// A node needs one that does not stand before it.
    #[error("node {0} needs a node that does not stand before it")]
    Order(usize),
    /// A host names a node that is not there.
    #[error("host {0} has no toplevel")]
    Toplevel(String),
}

/// A recorded graph.
#[derive(Debug)]
pub struct Recorded {
    steps: Vec<NewStep>,
    inputs: Vec<Vec<usize>>,
    by_drv: BTreeMap<DrvPath, usize>,
    sides: [BTreeMap<Host, usize>; 2],
    /// Nodes that a cache serves.
    cached: BTreeSet<usize>,
}

#[derive(Deserialize)]
struct File {
    nodes: Vec<FileNode>,
    before: BTreeMap<String, usize>,
    after: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct FileNode {
    name: String,
    outputs: Vec<String>,
    deps: Vec<FileDep>,
    #[serde(default)]
    system: Option<String>,
    #[serde(default)]
    fixed: bool,
    #[serde(default)]
    prefer_local: bool,
    #[serde(default)]
    features: Vec<String>,
}

/// Index, outputs, and sometimes whether the reference may stay.
#[derive(Deserialize)]
#[serde(untagged)]
enum FileDep {
    Short(usize, #[allow(dead_code, reason = "only the edge matters")] Vec<String>),
    Long(
        usize,
        #[allow(dead_code, reason = "only the edge matters")] Vec<String>,
        #[allow(dead_code, reason = "only the edge matters")] bool,
    ),
}

impl FileDep {
    fn index(&self) -> usize {
        match self {
            Self::Short(index, _) | Self::Long(index, ..) => *index,
        }
    }
}

impl Recorded {
    /// Reads a recording. What is fixed by its content counts as served by a cache.
    pub fn parse(json: &str) -> Result<Self, RecordedError> {
        let File { nodes, before, after } = serde_json::from_str(json)?;
        let drv = |index: usize| -> DrvPath { format!("{index:032}-{}.drv", nodes[index].name).into() };
        let mut steps = Vec::with_capacity(nodes.len());
        let mut inputs = Vec::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            let needed: BTreeSet<usize> = node.deps.iter().map(FileDep::index).collect();
            if needed.last().is_some_and(|last| *last >= index) {
                return Err(RecordedError::Order(index));
            }
            let output = |output: &String| format!("{index:032}-{}-{output}", node.name).into();
            steps.push(NewStep {
                drv: drv(index),
                name: node.name.as_str().into(),
                outputs: node.outputs.iter().map(output).collect(),
                system: node.system.as_deref().unwrap_or("x86_64-linux").into(),
                features: node.features.iter().map(|feature| feature.as_str().into()).collect(),
                inputs: needed.iter().map(|input| drv(*input)).collect(),
                fixed_output: node.fixed,
                prefer_local: node.prefer_local,
            });
            inputs.push(needed.into_iter().collect());
        }
        let side = |hosts: BTreeMap<String, usize>| {
            let host = |(name, top): (String, usize)| {
                if top >= steps.len() {
                    return Err(RecordedError::Toplevel(name));
                }
                Ok((Host { name: name.into(), kind: HostKind::Nixos }, top))
            };
            hosts.into_iter().map(host).collect::<Result<_, _>>()
        };
        let sides = [side(before)?, side(after)?];
        let cached = (0..nodes.len()).filter(|index| nodes[*index].fixed).collect();
        let by_drv = (0..).zip(&steps).map(|(index, step)| (step.drv.clone(), index)).collect();
        Ok(Self { steps, inputs, by_drv, sides, cached })
    }

    /// How many derivations it holds.
    pub fn derivations(&self) -> usize {
        self.steps.len()
    }

    /// Hosts of a side.
    pub fn hosts(&self, side: Side) -> impl Iterator<Item = &Host> {
        self.sides[side as usize].keys()
    }

    /// Everything to build for a side where nothing is valid yet, but for what a cache serves.
    pub fn to_build(&self, side: Side) -> BTreeSet<DrvPath> {
        let tops = self.sides[side as usize].values().copied();
        self.missing(&BTreeSet::new(), tops).into_iter().map(|index| self.steps[index].drv.clone()).collect()
    }

    /// Nodes to build for these, in dependency order.
    fn missing(&self, valid: &BTreeSet<usize>, tops: impl Iterator<Item = usize>) -> BTreeSet<usize> {
        let mut missing = BTreeSet::new();
        let mut open: Vec<usize> = tops.collect();
        while let Some(node) = open.pop() {
            if !valid.contains(&node) && !self.cached.contains(&node) && missing.insert(node) {
                open.extend(&self.inputs[node]);
            }
        }
        missing
    }

    /// What an evaluator says of a host, where these nodes are valid and the coordinator was told of those.
    pub fn evaluated(
        &self,
        host: &Host,
        side: Side,
        valid: &BTreeSet<usize>,
        told: &mut BTreeSet<usize>,
    ) -> Option<Evaluated> {
        let top = *self.sides[side as usize].get(host)?;
        let missing = self.missing(valid, [top].into_iter());
        let new = missing.iter().filter(|node| told.insert(**node));
        Some(Evaluated {
            drv: self.steps[top].drv.clone(),
            toplevel: self.steps[top].outputs.first().cloned(),
            new_steps: new.map(|node| self.steps[*node].clone()).collect(),
            wanted: missing.iter().map(|node| self.steps[*node].drv.clone()).collect(),
            substitutable_new: 0,
        })
    }
}

/// What a replay came to.
#[derive(Debug, Default)]
pub struct Replay {
    /// Leased derivations in order, with how many of their inputs were missing when they were.
    pub leased: Vec<(DrvPath, usize)>,
    /// How each target ended.
    pub settled: BTreeMap<Target, Settled>,
    /// Most leases at a time.
    pub most_leases: usize,
    /// The last notice.
    pub finished: Option<fleet_core::Finished>,
}

/// Compares both sides on one worker with this many slots. `each` sees the fleet after every event.
pub fn replay(recorded: &Recorded, mut fleet: Fleet, slots: u32, mut each: impl FnMut(&Fleet)) -> Replay {
    let mut player =
        Player { recorded, valid: BTreeSet::new(), told: BTreeSet::new(), replay: Replay::default() };
    let mut events = VecDeque::from(opening(slots));
    let mut now = Time(0);
    // Leases end in the order they began, one event after all of the reports before it.
    while let Some(event) = events.pop_front() {
        now = now.plus_ms(1);
        for effect in fleet.apply(now, event) {
            match effect {
                Effect::Send(worker, command) => events.extend(player.obey(worker, command)),
                Effect::Notify(_, Notice::TargetSettled { target, settled }) => {
                    player.replay.settled.insert(target, settled);
                }
                Effect::Notify(_, Notice::Finished(finished)) => player.replay.finished = Some(finished),
                Effect::Append(_) | Effect::Notify(..) | Effect::Arm(..) => {}
            }
        }
        player.replay.most_leases = player.replay.most_leases.max(fleet.view().leased);
        each(&fleet);
    }
    player.replay
}

const SOURCES: [SourceId; 2] = [SourceId([0; 32]), SourceId([1; 32])];

fn opening(slots: u32) -> [Event; 2] {
    let hello = WorkerHello {
        name: "local".into(),
        systems: vec!["x86_64-linux".into()],
        features: vec!["big-parallel".into()],
        slots,
        eval_slots: 1,
        ..WorkerHello::default()
    };
    let request = RunRequest {
        before: Some(SOURCES[0]),
        after: SOURCES[1],
        selection: Selection { hosts: Vec::new(), excludes: Vec::new(), kinds: vec![HostKind::Nixos] },
        on_failure: OnFailure::KeepGoing,
        goal: Goal::Build,
        earlier_failures: fleet_core::EarlierFailures::default(),
        limits: fleet_core::StepLimits::default(),
    };
    let joined = Event::WorkerJoined {
        worker: WorkerId(1),
        session: fleet_core::Session(1),
        hello,
        holds: Vec::new(),
    };
    [joined, Event::RunSubmitted { run: RunId(1), request }]
}

struct Player<'a> {
    recorded: &'a Recorded,
    valid: BTreeSet<usize>,
    told: BTreeSet<usize>,
    replay: Replay,
}

impl Player<'_> {
    fn obey(&mut self, worker: WorkerId, command: Command) -> Vec<Event> {
        match command {
            Command::StartEval { job, epoch, source, task } => {
                let side = if source == SOURCES[0] { Side::Before } else { Side::After };
                let report = |report| Event::EvalReported { worker, job, epoch, report };
                let reports = match task {
                    EvalTask::Discover(_) => {
                        vec![EvalReport::Discovered(self.recorded.hosts(side).cloned().collect())]
                    }
                    EvalTask::Hosts(hosts) => self.evaluate(hosts, side),
                };
                reports.into_iter().map(report).collect()
            }
            Command::StartLease { lease, epoch, steps } => {
                let ended = |LeasedStep { drv, .. }| {
                    let outcome = StepOutcome::Built(self.build(&drv));
                    let report =
                        StepReport::Ended { outcome, duration_ms: 1, output_bytes: 0, missing: Vec::new() };
                    Event::StepReported { worker, lease, epoch, drv, report }
                };
                let mut events: Vec<Event> = steps.into_iter().map(ended).collect();
                events.push(Event::LeaseFinished { worker, lease, epoch });
                events
            }
            Command::Realise { job, epoch, .. } => {
                vec![Event::Realised { worker, job, epoch, result: Ok(()), missing: Vec::new() }]
            }
            _ => Vec::new(),
        }
    }

    fn evaluate(&mut self, hosts: Vec<Host>, side: Side) -> Vec<EvalReport> {
        let mut reports = Vec::new();
        for host in hosts {
            reports.push(EvalReport::HostStarted(host.clone()));
            if let Some(evaluated) = self.recorded.evaluated(&host, side, &self.valid, &mut self.told) {
                reports.push(EvalReport::HostEvaluated { host, result: Ok(evaluated) });
            }
        }
        reports.push(EvalReport::Finished { failure: None, unstarted: Vec::new() });
        reports
    }

    fn build(&mut self, drv: &DrvPath) -> Vec<(std::sync::Arc<str>, fleet_core::OutputPath)> {
        let Some(node) = self.recorded.by_drv.get(drv).copied() else { return Vec::new() };
        let there = |input: &&usize| self.valid.contains(input) || self.recorded.cached.contains(input);
        let missing = self.recorded.inputs[node].iter().filter(|input| !there(input)).count();
        self.replay.leased.push((drv.clone(), missing));
        self.valid.insert(node);
        self.recorded.steps[node].outputs.iter().map(|output| ("out".into(), output.clone())).collect()
    }
}
