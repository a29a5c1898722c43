//! What a machine does with its orders: evaluate, build, fetch, realise.
//!
//! Owns nothing beyond the machine; what goes wrong comes from the profile, and what is true from the world.

use fleet_core::{
    EvalJobId, EvalReport, Evaluated, FailureClass, FailureCode, Host, LeaseId, OutputPath, StepOutcome,
    StepReport,
};

use super::{Machine, Said, Surroundings};
use crate::contents::Contents;
use crate::world::{failure, failure_of};

impl Machine {
    pub(super) fn evaluate(&mut self, job: EvalJobId, around: &mut Surroundings<'_>) -> Vec<EvalReport> {
        let store = self.store;
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
            (Some(Ok(top)), false) => Ok(describe(around, store, top)),
            (Some(Err(failure)), false) => Err(failure),
            (None, false) => Err(died),
        };
        vec![EvalReport::HostEvaluated { host, result }]
    }

    /// Goes on with a lease; answers what is to be said of it, in order.
    pub(super) fn build(&mut self, lease: LeaseId, around: &mut Surroundings<'_>) -> Vec<Said> {
        let silent = around.random.chance(around.profile.silent);
        let Some(build) = self.builds.get_mut(&lease) else { return Vec::new() };
        let Some(step) = build.steps.front().filter(|_| !silent).cloned() else {
            self.builds.remove(&lease);
            return vec![Said::Finished];
        };
        let drv = step.drv;
        if !build.begun {
            build.begun = true;
            return vec![Said::Step(drv, StepReport::Begun)];
        }
        build.begun = false;
        build.steps.pop_front();
        let last = build.steps.is_empty();
        if last {
            self.builds.remove(&lease);
        }
        let node = around.world.node_of(&drv).expect("the core leases what it was told of");
        let (outcome, missing) = match mistakes(node, around) {
            missing if missing.is_empty() => self.attempt(node, around),
            missing => (fail(FailureClass::InputMissing), missing),
        };
        let made = matches!(outcome, StepOutcome::Built(_));
        let output_bytes = if made { around.world.nodes[node].bytes } else { 0 };
        let ended = Said::Step(drv, StepReport::Ended { outcome, duration_ms: 1, output_bytes, missing });
        if last { vec![ended, Said::Finished] } else { vec![ended] }
    }

    fn attempt(&mut self, node: usize, around: &mut Surroundings<'_>) -> (StepOutcome, Vec<OutputPath>) {
        let outcome = self.prepare(node, around);
        if let Some(outcome) = outcome {
            return (outcome, Vec::new());
        }
        if around.random.chance(around.profile.unreachable) {
            return (fail(FailureClass::Transfer), Vec::new());
        }
        let inputs = around.world.nodes[node].inputs.clone();
        let absent: Vec<usize> = inputs.into_iter().filter(|input| !self.fetch(*input, around)).collect();
        if !absent.is_empty() {
            // What is only out of reach is not lost, as long as its holder may come back.
            let known = around.profile.calm || around.random.chance(700);
            let paths = absent.into_iter().filter(|_| known).flat_map(|node| around.world.outputs(node));
            return (fail(FailureClass::InputMissing), paths.map(|(_, path)| path).collect());
        }
        if let Some(class) = around.world.nodes[node].broken {
            return (fail(class), Vec::new());
        }
        let content = around.world.nodes[node].content;
        self.store.insert(content);
        self.built.push(content);
        (StepOutcome::Built(around.world.outputs(node)), Vec::new())
    }

    /// What ends an attempt before it begins.
    fn prepare(&mut self, node: usize, around: &mut Surroundings<'_>) -> Option<StepOutcome> {
        let Surroundings { world, profile, random, .. } = around;
        let content = world.nodes[node].content;
        if random.chance(profile.refuse) {
            self.refuses.insert(content);
        }
        if self.refuses.contains(content) {
            return Some(fail(FailureClass::Placement));
        }
        if random.chance(profile.infrastructure) {
            let classes = [
                FailureClass::Infrastructure,
                FailureClass::Cancelled,
                FailureClass::DiskFull,
                FailureClass::DaemonGone,
            ];
            return random.pick(&classes).map(|class| fail(*class));
        }
        if random.chance(profile.transient) {
            return Some(fail(FailureClass::Transient));
        }
        self.store.contains(content).then(|| StepOutcome::AlreadyValid(world.outputs(node)))
    }

    /// Makes a node's content valid here if anyone has it.
    fn fetch(&mut self, node: usize, around: &Surroundings<'_>) -> bool {
        let content = around.world.nodes[node].content;
        let found = around.peers.and(around.world.substitutable).contains(content);
        if found {
            self.store.insert(content);
        }
        found
    }

    /// Answers how it went, and what of it is lost.
    pub(super) fn realise(
        &mut self,
        path: &OutputPath,
        around: &mut Surroundings<'_>,
    ) -> (Result<(), fleet_core::Failure>, Vec<OutputPath>) {
        if around.random.chance(around.profile.realise) {
            return (Err(failure(FailureCode::Infrastructure, "the substituter is away")), Vec::new());
        }
        let lost = || Err(failure(FailureCode::Infrastructure, "it is nowhere"));
        if around.random.chance(around.profile.mistaken) {
            let node = around.random.index(around.world.nodes.len());
            let other = around.world.outputs(node).into_iter().map(|(_, path)| path);
            return (lost(), other.chain([path.clone()]).collect());
        }
        match around.world.content_at(path) {
            Some(content) if self.fetch(content, around) => (Ok(()), Vec::new()),
            _ => (lost(), vec![path.clone()]),
        }
    }
}

/// Paths that a worker takes to be lost, of a node's inputs and of what is none of its business.
fn mistakes(node: usize, around: &mut Surroundings<'_>) -> Vec<OutputPath> {
    if !around.random.chance(around.profile.mistaken) {
        return Vec::new();
    }
    let of_inputs = around.world.nodes[node].inputs.iter().copied();
    let other = around.random.index(around.world.nodes.len());
    let mut named: Vec<usize> = of_inputs.filter(|_| around.random.chance(700)).collect();
    named.extend(Some(other).filter(|_| around.random.chance(300)));
    let outputs = named.into_iter().flat_map(|node| around.world.outputs(node));
    outputs.map(|(_, path)| path).chain([OutputPath::from("nowhere")]).collect()
}

fn fail(class: FailureClass) -> StepOutcome {
    StepOutcome::Failed(class, failure_of(class))
}

/// What an evaluator with this store says of a toplevel. Definitions are added when the report arrives.
fn describe(around: &mut Surroundings<'_>, store: Contents, top: usize) -> Evaluated {
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
