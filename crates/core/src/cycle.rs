//! Cycles among steps: impossible among derivations, but a step may join several derivations.
//!
//! Only a last resort, after all else has come to rest.

use std::collections::BTreeSet;

use crate::event::{Failure, FailureCode};
use crate::fleet::Fleet;
use crate::graph::{State, StepId};
use crate::id::DrvPath;
use crate::outcome::StepEnd;
use crate::record::Decision;

impl Fleet {
    /// When all that is wanted waits for each other: a step of a cycle, one that can be made in another way if
    /// there is one.
    pub(crate) fn next_cycle(&self) -> Option<Decision> {
        let tally = self.graph.tally;
        if tally.waiting == 0 || tally.ready + tally.delayed + tally.leased > 0 {
            return None;
        }
        let waiting = self.graph.ids().find(|id| self.graph.step(*id).state == State::Waiting)?;
        let cycle = self.cycle_below(waiting)?;
        let other = cycle.iter().find(|id| self.graph.has_other_way(**id));
        Some(Decision::CycleBroken { drv: self.graph.drv(*other.unwrap_or(&cycle[0])) })
    }

    /// Makes a step of a cycle in another way, or else fails it.
    pub(crate) fn break_cycle(&mut self, drv: &DrvPath) -> Option<()> {
        let id = self.graph.find(drv).filter(|id| self.graph.step(*id).state == State::Waiting)?;
        if self.graph.try_other_way(id) {
            self.doom_by_inputs(id);
            return Some(());
        }
        let failure = Failure {
            code: FailureCode::Infrastructure,
            cause: "it is among its own inputs, by derivations that have the same outputs".into(),
            detail: "".into(),
            drv: Some(drv.clone()),
        };
        self.fail_step(id, failure, StepEnd::NONE);
        Some(())
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
