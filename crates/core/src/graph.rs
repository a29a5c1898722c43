//! All steps of all runs in one graph: dense ids, arenas, no heap object per step beyond its names.
//!
//! Owns what is known of each derivation, who depends on whom, which derivations are the same step, and
//! what state a step is in. Must not know runs beyond their ids, nor workers; must not recurse.

mod class;
mod define;
mod state;
mod ways;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use class::{ClassId, Classes, Need, ReadyKey};
pub(crate) use state::{State, Tally};

use crate::chain::{Chains, Head};
use crate::event::Failure;
use crate::id::{DrvPath, OutputPath, RunId, WorkerId};
use crate::intern::Names;
use crate::retry::{Kind, Tries};
use crate::sabotage::Sabotage;

/// A derivation that was mentioned. Several share one step when they have the same outputs: see
/// [`Graph::resolve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StepId(pub(crate) u32);

/// Everything known of one step.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) name: Arc<str>,
    pub(crate) state: State,
    /// What its own derivation says.
    made: Definition,
    /// The derivation that is leased, of all with these outputs.
    definition: StepId,
    outputs: Span,
    /// One entry per edge: steps that have this one among their inputs.
    dependents: Head,
    /// Inputs that are open, counted per edge.
    pub(crate) blocked: u32,
    /// Runs that want it now. Empty unless open.
    pub(crate) interest: Head,
    /// Runs that want it, or remember that it failed. Zero unless open or failed.
    pub(crate) claims: u32,
    /// Longest chain of dependents that were wanted with it.
    pub(crate) rank: u32,
    /// When it became wanted, against all others: first come, first served.
    order: u64,
    /// Leases so far, over all runs and workers.
    pub(crate) attempts: u32,
    pub(crate) tries: Tries,
    /// Times its outputs were lost and had to be made again, since a run first wanted it.
    pub(crate) lost: u16,
    pub(crate) built: Option<Built>,
}

/// What a derivation says of how its outputs are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Definition {
    inputs: Span,
    pub(crate) class: ClassId,
    pub(crate) kind: Kind,
    pub(crate) locality: Locality,
}

/// Who made a step's outputs valid, and at which event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Built {
    pub(crate) by: WorkerId,
    pub(crate) tick: u64,
}

/// Where a step is best built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locality {
    /// Wherever there is room.
    Anywhere,
    /// Moving its inputs would cost more than building it.
    NearInputs,
}

/// A slice of an arena.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of<T>(self, arena: &[T]) -> &[T] {
        &arena[self.start as usize..][..self.len as usize]
    }
}

/// The graph.
#[derive(Debug)]
pub(crate) struct Graph {
    /// Derivation of each id.
    drvs: Names,
    steps: Vec<Step>,
    /// As they were given; an input may since have turned out to be the same step as another.
    input_arena: Vec<StepId>,
    output_arena: Vec<OutputPath>,
    /// First output of each step, and whose it is.
    keys: Names,
    owners: Vec<StepId>,
    /// Of steps with several derivations: those by which they are wanted now, but for the one in use.
    ways: BTreeMap<StepId, Vec<StepId>>,
    dependents: Chains<StepId>,
    pub(crate) interest: Chains<RunId>,
    pub(crate) classes: Classes,
    /// Where outputs that float turned out to be.
    pub(crate) floating: BTreeMap<StepId, Vec<(Arc<str>, OutputPath)>>,
    /// Why each failed step did.
    pub(crate) failures: BTreeMap<StepId, Failure>,
    pub(crate) tally: Tally,
    next_order: u64,
    limit: usize,
    pub(crate) sabotage: Sabotage,
}

impl Graph {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            drvs: Names::default(),
            steps: Vec::new(),
            input_arena: Vec::new(),
            output_arena: Vec::new(),
            keys: Names::default(),
            owners: Vec::new(),
            ways: BTreeMap::new(),
            dependents: Chains::new(),
            interest: Chains::new(),
            classes: Classes::default(),
            floating: BTreeMap::new(),
            failures: BTreeMap::new(),
            tally: Tally::default(),
            next_order: 0,
            limit,
            sabotage: Sabotage::Nothing,
        }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The step of a derivation, if it was ever defined.
    pub(crate) fn find(&self, drv: &DrvPath) -> Option<StepId> {
        self.find_listed(drv).map(|listed| self.resolve(listed))
    }

    /// A derivation itself, if it was ever defined.
    pub(crate) fn find_listed(&self, drv: &DrvPath) -> Option<StepId> {
        let id = StepId(self.drvs.find(drv.as_str())?);
        (self.step(id).state != State::Undefined).then_some(id)
    }

    /// The step that stands for a derivation.
    pub(crate) fn resolve(&self, id: StepId) -> StepId {
        match self.steps[id.0 as usize].state {
            State::Alias(same) => same,
            _ => id,
        }
    }

    pub(crate) fn step(&self, id: StepId) -> &Step {
        &self.steps[id.0 as usize]
    }

    pub(crate) fn step_mut(&mut self, id: StepId) -> &mut Step {
        &mut self.steps[id.0 as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = StepId> + use<> {
        (0..u32::try_from(self.steps.len()).expect("names are bounded below 2^32")).map(StepId)
    }

    /// The derivation to lease for a step.
    pub(crate) fn drv(&self, id: StepId) -> DrvPath {
        DrvPath(Arc::clone(self.drvs.text(self.step(id).definition.0)))
    }

    /// What names a step for ever: its first output, or its derivation where outputs float.
    pub(crate) fn key_text(&self, id: StepId) -> Arc<str> {
        let first = self.outputs(id).first().map(|output| &output.0);
        Arc::clone(first.unwrap_or_else(|| self.drvs.text(id.0)))
    }

    /// How a step is made at present.
    pub(crate) fn definition(&self, id: StepId) -> Definition {
        self.step(self.step(id).definition).made
    }

    /// Steps and mere derivations among a step's inputs, one entry per edge.
    pub(crate) fn inputs(&self, id: StepId) -> impl Iterator<Item = StepId> + '_ {
        let given = self.definition(id).inputs.of(&self.input_arena);
        // Of two sources with the same content, one may need the other's user; as one step it does not.
        given.iter().map(|input| self.resolve(*input)).filter(move |input| *input != id)
    }

    /// Steps among the inputs of a derivation itself, whether or not its step is made so at present.
    pub(crate) fn inputs_of_derivation(&self, id: StepId) -> impl Iterator<Item = StepId> + '_ {
        self.step(id).made.inputs.of(&self.input_arena).iter().map(|input| self.resolve(*input))
    }

    pub(crate) fn dependents(&self, id: StepId) -> impl Iterator<Item = StepId> + '_ {
        self.dependents.iter(self.step(id).dependents)
    }

    pub(crate) fn outputs(&self, id: StepId) -> &[OutputPath] {
        self.step(id).outputs.of(&self.output_arena)
    }

    /// The step at fault when an input of this one failed.
    pub(crate) fn failed_input(&self, id: StepId) -> Option<StepId> {
        self.inputs(id).find_map(|input| match self.step(input).state {
            State::Failed => Some(input),
            State::DependencyFailed(root) => Some(root),
            _ => None,
        })
    }

    pub(crate) fn interested(&self, id: StepId) -> impl Iterator<Item = RunId> + '_ {
        self.interest.iter(self.step(id).interest)
    }

    /// Adds a run to those that want an open step.
    pub(crate) fn join(&mut self, id: StepId, run: RunId) {
        let step = &mut self.steps[id.0 as usize];
        self.interest.push(&mut step.interest, run);
        step.claims += 1;
    }

    /// Takes a run from those that want an open step.
    pub(crate) fn leave(&mut self, id: StepId, run: RunId) {
        let step = &mut self.steps[id.0 as usize];
        if self.interest.remove(&mut step.interest, run) {
            step.claims -= 1;
        }
    }

    /// Ends all interest in a step and says whose it was; claims stay.
    pub(crate) fn take_interest(&mut self, id: StepId) -> Vec<RunId> {
        let step = &mut self.steps[id.0 as usize];
        self.interest.take(&mut step.interest)
    }
}
