//! Cycles among steps: impossible among derivations, but steps join derivations that share their outputs.
//!
//! Only a last resort: [`Graph`](crate::graph::Graph) picks definitions so that none arises.

use std::collections::BTreeSet;

use crate::event::{Failure, FailureCode};
use crate::fleet::Fleet;
use crate::graph::{State, StepId};
use crate::outcome::StepEnd;

impl Fleet {
    /// When all that is wanted waits for each other, fails one step of a cycle and says so.
    pub(crate) fn break_cycle(&mut self) -> bool {
        let tally = self.graph.tally;
        if tally.waiting == 0 || tally.ready + tally.delayed + tally.leased > 0 {
            return false;
        }
        let waiting = self.graph.ids().find(|id| self.graph.step(*id).state == State::Waiting);
        let Some(id) = waiting.and_then(|id| self.on_cycle(id)) else { return false };
        let failure = Failure {
            code: FailureCode::Infrastructure,
            cause: "it is among its own inputs, by derivations that have the same outputs".into(),
            detail: "".into(),
            drv: Some(self.graph.drv(id)),
        };
        self.fail_step(id, failure, StepEnd::NONE);
        true
    }

    /// A step that comes twice on the way down from `id`.
    fn on_cycle(&self, id: StepId) -> Option<StepId> {
        let mut seen = BTreeSet::new();
        let mut step = id;
        while seen.insert(step) {
            step = self.graph.inputs(step).find(|input| self.graph.step(*input).state.is_open())?;
        }
        Some(step)
    }
}
