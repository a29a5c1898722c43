//! Steps with several derivations: fixed outputs that are fetched from different places, above all.
//!
//! Whoever wants such a step lists one of its derivations, whose inputs are there or wanted too; of the
//! others nothing is known. So a step is made as the first who wants it asks, and in another way that was
//! asked for only when that one leads nowhere. This also keeps cycles out: a fetcher's own source comes
//! from a fetcher that needs nothing, and is listed first.

use super::{Graph, State, StepId};

impl Graph {
    /// Somebody wants a step by this derivation. Before it is open, that settles how it is made.
    pub(crate) fn ask_for(&mut self, id: StepId, listed: StepId) {
        if !self.ways.contains_key(&id) || self.step(id).definition == listed {
            return;
        }
        if !self.step(id).state.is_open() {
            self.redefine(id, listed);
        } else if let Some(ways) = self.ways.get_mut(&id)
            && !ways.contains(&listed)
        {
            ways.push(listed);
        }
    }

    /// Whether a step could be made in another way that was asked for.
    pub(crate) fn has_other_way(&self, id: StepId) -> bool {
        !matches!(self.step(id).state, State::Leased(_))
            && self.ways.get(&id).is_some_and(|ways| !ways.is_empty())
    }

    /// Makes a wanted step in another way that was asked for, if there is one.
    pub(crate) fn try_other_way(&mut self, id: StepId) -> bool {
        let leased = matches!(self.step(id).state, State::Leased(_));
        let other = self.ways.get_mut(&id).filter(|_| !leased).and_then(Vec::pop);
        if let Some(other) = other {
            self.redefine(id, other);
        }
        other.is_some()
    }

    /// Nobody wants a step any more, in any way.
    pub(crate) fn forget_ways(&mut self, id: StepId) {
        if let Some(ways) = self.ways.get_mut(&id) {
            ways.clear();
        }
    }

    fn redefine(&mut self, id: StepId, definition: StepId) {
        let state = self.step(id).state;
        if state == State::Ready {
            // Out of the queue of its old class.
            self.enter(id, State::Waiting);
        }
        self.unlink_inputs(id);
        if self.step(id).state == State::Ready {
            self.enter(id, State::Waiting);
        }
        self.step_mut(id).definition = definition;
        self.link_inputs(id);
        if self.step(id).state == State::Waiting {
            self.enter(id, self.startable(id));
        }
    }
}
