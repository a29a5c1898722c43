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
        let outcome = self.attempt(node, around);
        let ended = Said::Step(
            drv,
            StepReport::Ended { outcome, duration_ms: 1, output_bytes: 0, missing: Vec::new() },
        );
        if last { vec![ended, Said::Finished] } else { vec![ended] }
    }

    fn attempt(&mut self, node: usize, around: &mut Surroundings<'_>) -> StepOutcome {
        let Surroundings { world, profile, random, .. } = around;
        let content = world.nodes[node].content;
        let fail = |class| StepOutcome::Failed(class, failure_of(class));
        if random.chance(profile.refuse) {
            self.refuses.insert(content);
        }
        if self.refuses.contains(content) {
            return fail(FailureClass::Placement);
        }
        if random.chance(profile.infrastructure) {
            return fail(
                *random
                    .pick(&[
                        FailureClass::Infrastructure,
                        FailureClass::Cancelled,
                        FailureClass::DiskFull,
                        FailureClass::DaemonGone,
                    ])
                    .expect("there are four"),
            );
        }
        if random.chance(profile.transient) {
            return fail(FailureClass::Transient);
        }
        if self.store.contains(content) {
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
        self.built.push(content);
        StepOutcome::Built(around.world.outputs(node))
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

    pub(super) fn realise(
        &mut self,
        path: &OutputPath,
        around: &mut Surroundings<'_>,
    ) -> Result<(), fleet_core::Failure> {
        if around.random.chance(around.profile.realise) {
            return Err(failure(FailureCode::Infrastructure, "the substituter is away"));
        }
        match around.world.content_at(path) {
            Some(content) if self.fetch(content, around) => Ok(()),
            _ => Err(failure(FailureCode::Infrastructure, "it is nowhere")),
        }
    }
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
