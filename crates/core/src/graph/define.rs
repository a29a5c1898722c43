//! How derivations enter the graph: definitions, edges, and which derivations are the same step.

use std::sync::Arc;

use super::{ClassId, Definition, Graph, Locality, Need, Span, State, Step, StepId};
use crate::chain::Head;
use crate::event::NewStep;
use crate::id::{DrvPath, OutputPath};
use crate::retry::{Kind, Tries};

/// Edges and outputs must stay below 2³².
const MAX_ARENA: usize = u32::MAX as usize / 2;

/// There is no room for another definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the graph holds its bound of {limit} derivations")]
pub(crate) struct GraphFull {
    /// Of derivations.
    pub(crate) limit: usize,
}

impl Graph {
    /// Takes a definition in. One that is known already stays as it is.
    pub(crate) fn define(&mut self, new: &NewStep) -> Result<(), GraphFull> {
        if self.find_listed(&new.drv).is_some() {
            return Ok(());
        }
        let edges = self.input_arena.len().saturating_add(new.inputs.len());
        let outputs = self.output_arena.len().saturating_add(new.outputs.len());
        let names = self.len().saturating_add(new.inputs.len());
        if names >= self.limit || edges.max(outputs) >= MAX_ARENA {
            return Err(GraphFull { limit: self.limit });
        }
        let id = self.mention(&new.drv);
        let made = self.read(new);
        let step = self.step_mut(id);
        step.name = Arc::clone(&new.name);
        step.made = made;
        if let Some(same) = self.twin(&new.outputs) {
            self.alias(id, same);
            return Ok(());
        }
        self.step_mut(id).state = State::Idle;
        self.link_inputs(id);
        self.store_outputs(id, &new.outputs);
        Ok(())
    }

    /// The number of a derivation, defined or not.
    fn mention(&mut self, drv: &DrvPath) -> StepId {
        let id = StepId(self.drvs.intern(&drv.0));
        if self.steps.len() < self.drvs.len() {
            self.steps.push(Step {
                name: Arc::clone(&drv.0),
                state: State::Undefined,
                made: Definition {
                    inputs: Span::default(),
                    class: ClassId::default(),
                    kind: Kind::Ordinary,
                    locality: Locality::Anywhere,
                },
                definition: id,
                outputs: Span::default(),
                dependents: Head::EMPTY,
                blocked: 0,
                interest: Head::EMPTY,
                claims: 0,
                rank: 0,
                order: 0,
                attempts: 0,
                tries: Tries::default(),
                lost: 0,
                built: None,
            });
        }
        id
    }

    /// The step that has exactly these outputs.
    fn twin(&self, outputs: &[OutputPath]) -> Option<StepId> {
        let key = self.keys.find(outputs.first()?.as_str())?;
        let owner = self.owners[key as usize];
        (self.outputs(owner) == outputs).then_some(owner)
    }

    fn store_outputs(&mut self, id: StepId, outputs: &[OutputPath]) {
        self.step_mut(id).outputs = append(&mut self.output_arena, outputs.iter().cloned());
        let Some(first) = outputs.first() else { return };
        let key = self.keys.intern(&first.0) as usize;
        // The same first output with other siblings is no twin; the older step keeps the key.
        if key == self.owners.len() {
            self.owners.push(id);
        }
    }

    /// What needs `id` needs `same` from now on.
    fn alias(&mut self, id: StepId, same: StepId) {
        let mut head = std::mem::replace(&mut self.step_mut(id).dependents, Head::EMPTY);
        self.step_mut(id).state = State::Alias(same);
        self.ways.entry(same).or_default();
        for dependent in self.dependents.take(&mut head) {
            if dependent != same {
                self.link(same, dependent);
            }
        }
    }

    fn read(&mut self, new: &NewStep) -> Definition {
        let mut inputs: Vec<StepId> = new.inputs.iter().map(|drv| self.mention(drv)).collect();
        inputs.sort_unstable();
        inputs.dedup();
        Definition {
            inputs: append(&mut self.input_arena, inputs.into_iter()),
            class: self.classes.intern(Need::new(&new.system, &new.features)),
            kind: if new.fixed_output { Kind::FixedOutput } else { Kind::Ordinary },
            locality: if new.prefer_local { Locality::NearInputs } else { Locality::Anywhere },
        }
    }

    pub(super) fn link_inputs(&mut self, id: StepId) {
        let inputs: Vec<StepId> = self.inputs(id).collect();
        for input in inputs {
            self.link(input, id);
        }
    }

    pub(super) fn unlink_inputs(&mut self, id: StepId) {
        let inputs: Vec<StepId> = self.inputs(id).collect();
        for input in inputs {
            let mut head = self.step(input).dependents;
            self.dependents.remove(&mut head, id);
            self.step_mut(input).dependents = head;
            if self.step(input).state.is_open() {
                self.unblock(id);
            }
        }
    }

    fn link(&mut self, input: StepId, dependent: StepId) {
        let mut head = self.step(input).dependents;
        self.dependents.push(&mut head, dependent);
        self.step_mut(input).dependents = head;
        if self.step(input).state.is_open() {
            self.block(dependent);
        }
    }
}

fn append<T>(arena: &mut Vec<T>, values: impl Iterator<Item = T>) -> Span {
    let position = |arena: &Vec<T>| u32::try_from(arena.len()).expect("arenas are bounded below 2^32");
    let start = position(arena);
    arena.extend(values);
    Span { start, len: position(arena) - start }
}
