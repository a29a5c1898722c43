//! Cycles among steps: impossible among derivations, but a step may join several derivations.
//!
//! Only a last resort, after all else has come to rest.

use std::collections::BTreeSet;

use crate::event::{Failure, FailureCode};
use crate::fleet::Fleet;
use crate::graph::{State, StepId};
use crate::outcome::StepEnd;

impl Fleet {
    /// When all that is wanted waits for each other, makes a step of a cycle in another way, or else fails it.
    /// Says whether anything changed.
    pub(crate) fn break_cycle(&mut self) -> bool {
        let tally = self.graph.tally;
        if tally.waiting == 0 || tally.ready + tally.delayed + tally.leased > 0 {
            return false;
        }
        let waiting = self.graph.ids().find(|id| self.graph.step(*id).state == State::Waiting);
        let Some(cycle) = waiting.and_then(|id| self.cycle_below(id)) else { return false };
        if let Some(changed) = cycle.iter().find(|id| self.graph.try_other_way(**id)) {
            self.doom_by_inputs(*changed);
            return true;
        }
        let id = cycle[0];
        let failure = Failure {
            code: FailureCode::Infrastructure,
            cause: "it is among its own inputs, by derivations that have the same outputs".into(),
            detail: "".into(),
            drv: Some(self.graph.drv(id)),
        };
        self.fail_step(id, failure, StepEnd::NONE);
        true
    }

    /// The steps of a cycle that is reached from `id`.
    fn cycle_below(&self, id: StepId) -> Option<Vec<StepId>> {
        let mut seen = BTreeSet::new();
        let mut path = Vec::new();
        let mut step = id;
        while seen.insert(step) {
            path.push(step);
            step = self.graph.inputs(step).find(|input| self.graph.step(*input).state.is_open())?;
        }
        let first = path.iter().position(|passed| *passed == step)?;
        Some(path.split_off(first))
    }
}
