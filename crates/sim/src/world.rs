//! What is true whatever the fleet believes: derivations, trees, and what fails of itself.
//!
//! Made from a seed. Never changes afterwards; what is valid where is the machines' business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_core::{
    DrvPath, Failure, FailureClass, FailureCode, Feature, Host, HostKind, NewStep, OutputPath, SourceId,
    System,
};

use crate::contents::Contents;
use crate::random::Random;

/// One derivation. Inputs come before their users.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// As the core is told of it.
    pub(crate) step: NewStep,
    /// Nodes among its inputs.
    pub(crate) inputs: Vec<usize>,
    /// The first node with the same outputs: what stores hold.
    pub(crate) content: usize,
    /// How it fails, whoever builds it.
    pub(crate) broken: Option<FailureClass>,
    /// Of its outputs.
    pub(crate) bytes: u64,
}

/// One flake tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    /// Its hosts in name order, with the node of each toplevel or the error of its evaluation.
    pub(crate) hosts: Vec<(Host, Result<usize, Failure>)>,
    /// Why it does not evaluate at all.
    pub(crate) broken: Option<Failure>,
}

/// Everything there is to build.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    /// In dependency order.
    pub(crate) nodes: Vec<Node>,
    /// By name.
    pub(crate) trees: BTreeMap<SourceId, Tree>,
    /// Contents that a cache serves.
    pub(crate) substitutable: Contents,
    by_output: BTreeMap<OutputPath, usize>,
    by_drv: BTreeMap<DrvPath, usize>,
}

/// A failure without a derivation.
pub(crate) fn failure(code: FailureCode, cause: &str) -> Failure {
    Failure { code, cause: cause.into(), detail: format!("trace of: {cause}").into(), drv: None }
}

/// The failure that goes with a class.
pub(crate) fn failure_of(class: FailureClass) -> Failure {
    let code = match class {
        FailureClass::BuildFailed | FailureClass::Transient => FailureCode::BuildFailed,
        FailureClass::TimedOut => FailureCode::TimedOut,
        FailureClass::LogLimit => FailureCode::LogLimit,
        FailureClass::OutputRejected => FailureCode::OutputRejected,
        FailureClass::Cancelled => FailureCode::Cancelled,
        FailureClass::DiskFull => FailureCode::DiskFull,
        FailureClass::OutOfMemory => FailureCode::OutOfMemory,
        FailureClass::Transfer => FailureCode::Transfer,
        FailureClass::DaemonGone => FailureCode::DaemonGone,
        FailureClass::OutputTooBig => FailureCode::OutputTooBig,
        FailureClass::Infrastructure | FailureClass::Placement | FailureClass::InputMissing => {
            FailureCode::Infrastructure
        }
    };
    failure(code, &format!("{class:?}"))
}

/// A host by number.
pub(crate) fn host(number: u64) -> Host {
    Host { name: format!("host{number}").into(), kind: HostKind::Nixos }
}

impl World {
    /// The world of a seed.
    pub(crate) fn generate(random: &mut Random, failures: bool) -> Self {
        let mut world = Self::default();
        let most = if random.chance(800) { 14 } else { 50 };
        for _ in 0..random.within(2, most) {
            world.add_random(random, failures);
        }
        let leaves = world.nodes.len();
        let tops: Vec<usize> = (0..random.within(1, 6)).map(|_| world.add_top(random, leaves)).collect();
        for number in 0..random.within(1, 3) {
            let hosts = random.within(u64::from(!failures), 5);
            let mut tree = Tree::default();
            for number in 0..hosts {
                if random.chance(850) {
                    let broken = failures && random.chance(50);
                    let error = failure(FailureCode::EvalFailed, "it throws");
                    let top = tops[random.index(tops.len())];
                    tree.hosts.push((host(number), if broken { Err(error) } else { Ok(top) }));
                }
            }
            if failures && random.chance(40) {
                tree.broken = Some(failure(FailureCode::EvalFailed, "no flake.nix"));
            }
            world.trees.insert(SourceId([u8::try_from(number).unwrap_or(0); 32]), tree);
        }
        for content in 0..leaves {
            if random.chance(60) {
                world.substitutable.insert(world.nodes[content].content);
            }
        }
        world
    }

    /// The node of a derivation.
    pub(crate) fn node_of(&self, drv: &DrvPath) -> Option<usize> {
        self.by_drv.get(drv).copied()
    }

    /// The content that is at this path.
    pub(crate) fn content_at(&self, path: &OutputPath) -> Option<usize> {
        self.by_output.get(path).copied()
    }

    /// Adds a node; `content` is the node whose outputs it shares, if any.
    pub(crate) fn add(
        &mut self,
        step: NewStep,
        inputs: Vec<usize>,
        twin: Option<usize>,
        broken: Option<FailureClass>,
    ) {
        let number = self.nodes.len();
        assert!(number < Contents::MOST, "worlds are small");
        self.by_drv.insert(step.drv.clone(), number);
        let content = twin.unwrap_or(number);
        // Some are as small as what is predicted of what nobody knows, and some larger than a disk.
        let bytes = (1 + number as u64 * number as u64 % 29) << 26;
        self.nodes.push(Node { step, inputs, content, broken, bytes });
        for (_, output) in self.outputs(number) {
            self.by_output.insert(output, content);
        }
    }

    fn add_random(&mut self, random: &mut Random, failures: bool) {
        let number = self.nodes.len();
        let mut inputs = BTreeSet::new();
        for _ in 0..random.below(4) {
            if number > 0 {
                // Near ones more often: chains, not only fans.
                let reach = random.within(1, number as u64);
                inputs.insert(number - usize::try_from(reach.min(random.within(1, 6))).unwrap_or(1));
            }
        }
        let twin = Some(random.index(number)).filter(|_| number > 0 && random.chance(80));
        let twin = twin
            .map(|twin| self.nodes[twin].content)
            .filter(|twin| !self.nodes[*twin].step.outputs.is_empty());
        let fixed = twin.is_some() || random.chance(100);
        let system = match random.below(12) {
            0 => "builtin",
            1 => "aarch64-linux",
            _ => "x86_64-linux",
        };
        let features = if random.chance(60) { vec![Feature::from("kvm")] } else { Vec::new() };
        let outputs = match twin {
            Some(twin) => self.nodes[twin].step.outputs.clone(),
            None if random.chance(50) => Vec::new(),
            None => (0..random.within(1, 2)).map(|output| format!("p{number}-{output}").into()).collect(),
        };
        let broken = match (twin, random.chance(25), random.below(6)) {
            (Some(twin), ..) => self.nodes[twin].broken,
            (None, true, kind) if failures => Some(match kind {
                0 => FailureClass::TimedOut,
                1 => FailureClass::LogLimit,
                2 => FailureClass::OutputRejected,
                _ => FailureClass::BuildFailed,
            }),
            _ => None,
        };
        let step = self.step(&format!("n{number}"), outputs, system, features, &inputs);
        let step = NewStep { fixed_output: fixed, prefer_local: random.chance(150), ..step };
        self.add(step, inputs.into_iter().collect(), twin, broken);
    }

    fn add_top(&mut self, random: &mut Random, leaves: usize) -> usize {
        let number = self.nodes.len();
        let inputs: BTreeSet<usize> = (0..random.within(1, 5)).map(|_| random.index(leaves)).collect();
        let outputs = if random.chance(80) { Vec::new() } else { vec![format!("top{number}").into()] };
        let step = self.step(&format!("top{number}"), outputs, "x86_64-linux", Vec::new(), &inputs);
        self.add(step, inputs.into_iter().collect(), None, None);
        number
    }

    fn step(
        &self,
        name: &str,
        outputs: Vec<OutputPath>,
        system: &str,
        features: Vec<Feature>,
        inputs: &BTreeSet<usize>,
    ) -> NewStep {
        NewStep {
            drv: format!("{name}.drv").into(),
            name: name.into(),
            outputs,
            system: System::from(system),
            features,
            inputs: inputs.iter().map(|input| self.nodes[*input].step.drv.clone()).collect(),
            fixed_output: false,
            prefer_local: false,
        }
    }

    /// Bytes of all these.
    pub(crate) fn bytes(&self, contents: Contents) -> u64 {
        contents.iter().map(|content| self.nodes[content].bytes).sum()
    }

    /// Whether a content is made in one way only.
    pub(crate) fn is_made_once(&self, content: usize) -> bool {
        self.nodes.iter().filter(|node| node.content == content).count() == 1
    }

    /// Nodes to build for `top` where this is valid, inputs before their users.
    pub(crate) fn missing(&self, valid: Contents, top: usize) -> BTreeSet<usize> {
        let there = |node: usize| {
            let content = self.nodes[node].content;
            valid.contains(content) || self.substitutable.contains(content)
        };
        let mut missing = BTreeSet::new();
        let mut open = vec![top];
        while let Some(node) = open.pop() {
            if !there(node) && missing.insert(node) {
                open.extend(&self.nodes[node].inputs);
            }
        }
        missing
    }

    /// Contents that can matter for `top`, in whatever way shared ones are made.
    pub(crate) fn related(&self, top: usize) -> Contents {
        let mut related = Contents::default();
        let mut open = vec![self.nodes[top].content];
        while let Some(content) = open.pop() {
            if related.insert(content) {
                let makers = self.nodes.iter().filter(|node| node.content == content);
                open.extend(makers.flat_map(|node| &node.inputs).map(|input| self.nodes[*input].content));
            }
        }
        related
    }

    /// Whether each content that can matter for `top` is made in one way only.
    pub(crate) fn is_plain(&self, top: usize) -> bool {
        self.related(top).iter().all(|content| self.is_made_once(content))
    }

    /// What a worker reports for outputs of this node.
    pub(crate) fn outputs(&self, node: usize) -> Vec<(Arc<str>, OutputPath)> {
        let step = &self.nodes[node].step;
        if step.outputs.is_empty() {
            return vec![("out".into(), format!("{}-floating", step.name).into())];
        }
        let names =
            (0..).map(|number: usize| if number == 0 { "out".into() } else { format!("out{number}").into() });
        names.zip(step.outputs.iter().cloned()).collect()
    }
}
