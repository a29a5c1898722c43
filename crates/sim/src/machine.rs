//! A worker as a small state machine: it takes commands, works in pieces, and reports.
//!
//! Owns a store and what one session was told to do. Knows nothing of the core's state; faults come from
//! the profile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fleet_core::{
    Command, Epoch, EvalJobId, EvalReport, EvalTask, Evaluated, Event, FailureClass, FailureCode, Host,
    LeaseId, LeasedStep, OutputPath, RealiseJobId, SourceId, StepOutcome, StepReport, WorkerHello, WorkerId,
};

use crate::profile::Profile;
use crate::random::Random;
use crate::world::{World, failure, failure_of};

/// One machine; its store outlives its sessions.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) hello: WorkerHello,
    /// Contents that are valid here.
    pub(crate) store: BTreeSet<usize>,
    /// Contents it refuses to build, for ever.
    refuses: BTreeSet<usize>,
    pub(crate) session: Option<Session>,
}

/// A connection to the coordinator.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: WorkerId,
    evals: BTreeMap<EvalJobId, Eval>,
    builds: BTreeMap<LeaseId, Build>,
    /// When the last report arrives: the next one arrives no earlier.
    pub(crate) last_arrival: u64,
}

#[derive(Debug)]
struct Eval {
    epoch: Epoch,
    source: SourceId,
    /// None to discover.
    hosts: Option<VecDeque<Host>>,
    started: bool,
}

#[derive(Debug)]
struct Build {
    epoch: Epoch,
    steps: VecDeque<LeasedStep>,
    begun: bool,
}

/// A piece of work that comes due.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// Go on with an eval job.
    Eval(EvalJobId),
    /// Go on with a lease.
    Build(LeaseId),
    /// Realise this.
    Realise(RealiseJobId, Epoch, OutputPath),
}

/// What surrounds a machine while it works.
pub(crate) struct Surroundings<'a> {
    pub(crate) world: &'a World,
    pub(crate) profile: &'a Profile,
    pub(crate) random: &'a mut Random,
    /// Contents that some connected machine has.
    pub(crate) peers: &'a BTreeSet<usize>,
}

impl Machine {
    pub(crate) fn new(hello: WorkerHello, store: BTreeSet<usize>) -> Self {
        Self { hello, store, refuses: BTreeSet::new(), session: None }
    }

    pub(crate) fn connect(&mut self, id: WorkerId) {
        self.session = Some(Session { id, evals: BTreeMap::new(), builds: BTreeMap::new(), last_arrival: 0 });
    }

    /// Takes a command and says what to go on with.
    pub(crate) fn obey(&mut self, command: Command) -> Option<Work> {
        let session = self.session.as_mut()?;
        match command {
            Command::StartEval { job, epoch, source, task } => {
                let hosts = match task {
                    EvalTask::Discover(_) => None,
                    EvalTask::Hosts(hosts) => Some(hosts.into()),
                };
                session.evals.insert(job, Eval { epoch, source, hosts, started: false });
                Some(Work::Eval(job))
            }
            Command::CancelEval { job } => {
                session.evals.remove(&job);
                None
            }
            Command::StartLease { lease, epoch, steps } => {
                session.builds.insert(lease, Build { epoch, steps: steps.into(), begun: false });
                Some(Work::Build(lease))
            }
            Command::CancelLease { lease, .. } => {
                session.builds.remove(&lease);
                None
            }
            Command::Realise { job, epoch, path, .. } => Some(Work::Realise(job, epoch, path)),
            Command::Drain { .. } | Command::Resume | Command::EndSession { .. } => None,
        }
    }

    /// What its session has begun and not ended.
    pub(crate) fn works(&self) -> Vec<Work> {
        let Some(session) = &self.session else { return Vec::new() };
        let begun = session.builds.iter().filter(|(_, build)| build.begun);
        session
            .evals
            .keys()
            .copied()
            .map(Work::Eval)
            .chain(begun.map(|(lease, _)| Work::Build(*lease)))
            .collect()
    }

    /// Does a piece of work; answers the reports in order, and whether there is more of it.
    pub(crate) fn work(&mut self, work: &Work, around: &mut Surroundings<'_>) -> (Vec<Event>, bool) {
        let Some(worker) = self.session.as_ref().map(|session| session.id) else {
            return (Vec::new(), false);
        };
        match work {
            Work::Eval(job) => {
                let Some(epoch) = self.eval(*job).map(|eval| eval.epoch) else { return (Vec::new(), false) };
                let reports = self.evaluate(*job, around).into_iter();
                let event = |report| Event::EvalReported { worker, job: *job, epoch, report };
                (reports.map(event).collect(), self.eval(*job).is_some())
            }
            Work::Build(lease) => {
                let events = self.build(worker, *lease, around);
                (events, self.session.as_ref().is_some_and(|session| session.builds.contains_key(lease)))
            }
            Work::Realise(job, epoch, path) => {
                let result = if around.random.chance(around.profile.realise) {
                    Err(failure(FailureCode::Infrastructure, "the substituter is away"))
                } else {
                    self.realise(path, around)
                };
                (vec![Event::Realised { worker, job: *job, epoch: *epoch, result }], false)
            }
        }
    }

    fn eval(&mut self, job: EvalJobId) -> Option<&mut Eval> {
        self.session.as_mut()?.evals.get_mut(&job)
    }

    fn end_eval(&mut self, job: EvalJobId) {
        self.session.as_mut().and_then(|session| session.evals.remove(&job));
    }

    fn evaluate(&mut self, job: EvalJobId, around: &mut Surroundings<'_>) -> Vec<EvalReport> {
        let store = self.store.clone();
        let Some(eval) = self.eval(job) else { return Vec::new() };
        let tree = &around.world.trees[&eval.source];
        let fault = around.random.chance(around.profile.eval);
        let kind = around.random.below(6);
        let finished = |failure, unstarted| vec![EvalReport::Finished { failure, unstarted }];
        let lost = || Some(failure(FailureCode::Infrastructure, "no memory"));
        let Some(hosts) = &mut eval.hosts else {
            self.end_eval(job);
            return match (&tree.broken, fault) {
                (_, true) if kind < 3 => finished(lost(), Vec::new()),
                (_, true) => finished(None, Vec::new()),
                (Some(failure), false) => finished(Some(failure.clone()), Vec::new()),
                (None, false) => {
                    let hosts = tree.hosts.iter().map(|(host, _)| host.clone()).collect();
                    [EvalReport::Discovered(hosts)].into_iter().chain(finished(None, Vec::new())).collect()
                }
            };
        };
        if fault && kind < 4 {
            let rest: Vec<Host> = std::mem::take(hosts).into();
            self.end_eval(job);
            return match kind {
                0 => finished(lost(), rest),
                1 => finished(Some(failure(FailureCode::EvalFailed, "the flake broke")), rest),
                2 => finished(None, rest),
                _ => finished(None, Vec::new()),
            };
        }
        let Some(host) = hosts.front().cloned() else {
            self.end_eval(job);
            return finished(None, Vec::new());
        };
        if !eval.started {
            eval.started = true;
            return vec![EvalReport::HostStarted(host)];
        }
        eval.started = false;
        hosts.pop_front();
        let top = tree.hosts.iter().find(|(name, _)| *name == host).map(|(_, top)| top.clone());
        let died = failure(FailureCode::EvalDied, "the evaluator died");
        let result = match (top, fault) {
            (_, true) if kind == 4 => Err(died),
            (_, true) => Err(failure(FailureCode::Infrastructure, "the store is away")),
            (Some(Ok(top)), false) => Ok(describe(around, &store, top)),
            (Some(Err(failure)), false) => Err(failure),
            (None, false) => Err(died),
        };
        vec![EvalReport::HostEvaluated { host, result }]
    }

    fn build(&mut self, worker: WorkerId, lease: LeaseId, around: &mut Surroundings<'_>) -> Vec<Event> {
        let silent = around.random.chance(around.profile.silent);
        let Some(session) = self.session.as_mut() else { return Vec::new() };
        let Some(build) = session.builds.get_mut(&lease) else { return Vec::new() };
        let epoch = build.epoch;
        let over = Event::LeaseFinished { worker, lease, epoch };
        let Some(step) = build.steps.front().filter(|_| !silent).cloned() else {
            session.builds.remove(&lease);
            return vec![over];
        };
        let drv = step.drv;
        let report = |report| Event::StepReported { worker, lease, epoch, drv: drv.clone(), report };
        if !build.begun {
            build.begun = true;
            return vec![report(StepReport::Begun)];
        }
        build.begun = false;
        build.steps.pop_front();
        let last = build.steps.is_empty();
        let node = around.world.node_of(&drv).expect("the core leases what it was told of");
        let outcome = self.attempt(node, around);
        let ended = report(StepReport::Ended { outcome, duration_ms: 1 });
        if last {
            self.session.as_mut().and_then(|session| session.builds.remove(&lease));
            return vec![ended, over];
        }
        vec![ended]
    }

    fn attempt(&mut self, node: usize, around: &mut Surroundings<'_>) -> StepOutcome {
        let Surroundings { world, profile, random, .. } = around;
        let content = world.nodes[node].content;
        let fail = |class| StepOutcome::Failed(class, failure_of(class));
        if random.chance(profile.refuse) {
            self.refuses.insert(content);
        }
        if self.refuses.contains(&content) {
            return fail(FailureClass::Placement);
        }
        if random.chance(profile.infrastructure) {
            return fail(
                *random.pick(&[FailureClass::Infrastructure, FailureClass::Cancelled]).expect("two"),
            );
        }
        if random.chance(profile.transient) {
            return fail(FailureClass::Transient);
        }
        if self.store.contains(&content) {
            return StepOutcome::AlreadyValid(world.outputs(node));
        }
        let inputs = world.nodes[node].inputs.clone();
        if !inputs.into_iter().all(|input| self.fetch(input, around)) {
            return fail(FailureClass::InputMissing);
        }
        if let Some(class) = around.world.nodes[node].broken {
            return fail(class);
        }
        self.store.insert(content);
        StepOutcome::Built(around.world.outputs(node))
    }

    /// Makes a node's content valid here if anyone has it.
    fn fetch(&mut self, node: usize, around: &Surroundings<'_>) -> bool {
        let content = around.world.nodes[node].content;
        let found = around.peers.contains(&content) || around.world.substitutable.contains(&content);
        found && (self.store.insert(content) || self.store.contains(&content))
    }

    fn realise(&mut self, path: &OutputPath, around: &Surroundings<'_>) -> Result<(), fleet_core::Failure> {
        let mut nodes = 0..around.world.nodes.len();
        let node = nodes.find(|node| around.world.outputs(*node).iter().any(|(_, output)| output == path));
        match node {
            Some(node) if self.fetch(node, around) => Ok(()),
            _ => Err(failure(FailureCode::Infrastructure, "it is nowhere")),
        }
    }
}

/// What an evaluator with this store says of a toplevel. Definitions are added when the report arrives.
fn describe(around: &mut Surroundings<'_>, store: &BTreeSet<usize>, top: usize) -> Evaluated {
    let world = around.world;
    let drv = |node: usize| world.nodes[node].step.drv.clone();
    Evaluated {
        drv: drv(top),
        toplevel: world.nodes[top].step.outputs.first().cloned(),
        wanted: world.missing(store, top).into_iter().map(drv).collect(),
        new_steps: Vec::new(),
        substitutable_new: u32::try_from(around.random.below(3)).unwrap_or(0),
    }
}
