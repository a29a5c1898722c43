//! The states of a step, and the one way from each to the next.
//!
//! Owns the counters that follow from states (open inputs, ready queues, the tally), so that nothing else
//! can forget them.

use std::cmp::Reverse;

use super::{Graph, ReadyKey, StepId};
use crate::id::{LeaseId, RunId, Time};
use crate::retry::Tries;
use crate::sabotage::Sabotage;

/// What is to be done about a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Only ever named as an input: taken to be there.
    Undefined,
    /// Has the outputs of this other one.
    Alias(StepId),
    /// Nobody wants it. It may be there or not.
    Idle,
    /// Its outputs are valid.
    Present,
    /// Wanted, but inputs are open.
    Waiting,
    /// Wanted, and may be leased.
    Ready,
    /// Failed, and rests until this time.
    Delayed(Time),
    /// Somebody has the right to build it.
    Leased(LeaseId),
    /// For good, as long as a run remembers it.
    Failed,
    /// Because this one did.
    DependencyFailed(StepId),
}

impl State {
    /// Wanted and not over: what depends on it waits.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Waiting | Self::Ready | Self::Delayed(_) | Self::Leased(_))
    }

    pub(crate) fn is_failed(self) -> bool {
        matches!(self, Self::Failed | Self::DependencyFailed(_))
    }
}

/// Open steps by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) waiting: usize,
    pub(crate) ready: usize,
    pub(crate) delayed: usize,
    pub(crate) leased: usize,
}

impl Tally {
    pub(crate) fn of(&mut self, state: State) -> Option<&mut usize> {
        match state {
            State::Waiting => Some(&mut self.waiting),
            State::Ready => Some(&mut self.ready),
            State::Delayed(_) => Some(&mut self.delayed),
            State::Leased(_) => Some(&mut self.leased),
            _ => None,
        }
    }
}

impl Graph {
    /// Brings a step into another state. What depends on it starts or stops waiting for it.
    pub(crate) fn shift(&mut self, id: StepId, to: State) {
        let from = self.enter(id, to);
        if from.is_open() == to.is_open() {
            return;
        }
        let mut cursor = self.step(id).dependents;
        while let Some((dependent, rest)) = self.dependents.split(cursor) {
            if to.is_open() {
                self.block(dependent);
            } else if self.sabotage != Sabotage::ForgetDependents {
                self.unblock(dependent);
            }
            cursor = rest;
        }
    }

    /// Makes a step wanted by a first run, behind all that are wanted already.
    pub(crate) fn open(&mut self, id: StepId, run: RunId) {
        self.join(id, run);
        let order = self.next_order;
        self.next_order += 1;
        self.step_mut(id).order = order;
        self.shift(id, self.startable(id));
    }

    /// What a wanted step is that neither rests nor is leased.
    pub(crate) fn startable(&self, id: StepId) -> State {
        if self.step(id).blocked == 0 || self.sabotage == Sabotage::IgnoreInputs {
            State::Ready
        } else {
            State::Waiting
        }
    }

    /// Tells an open step that a chain of this many dependents hangs on it.
    pub(crate) fn raise(&mut self, id: StepId, rank: u32) {
        let step = self.step(id);
        if step.rank >= rank || !step.state.is_open() {
            return;
        }
        let (class, before) = (self.definition(id).class, self.key(id));
        self.step_mut(id).rank = rank;
        if self.step(id).state == State::Ready {
            self.classes.withdraw(class, before);
            self.classes.offer(class, self.key(id));
        }
    }

    pub(crate) fn key(&self, id: StepId) -> ReadyKey {
        let step = self.step(id);
        ReadyKey { rank: Reverse(step.rank), order: step.order, step: id }
    }

    pub(super) fn block(&mut self, id: StepId) {
        self.step_mut(id).blocked += 1;
        if self.step(id).state == State::Ready {
            self.enter(id, State::Waiting);
        }
    }

    pub(super) fn unblock(&mut self, id: StepId) {
        self.step_mut(id).blocked -= 1;
        if self.step(id).state == State::Waiting {
            self.enter(id, self.startable(id));
        }
    }

    /// Changes the state and what is counted by state, but tells nobody.
    pub(super) fn enter(&mut self, id: StepId, to: State) -> State {
        let (class, key) = (self.definition(id).class, self.key(id));
        let from = std::mem::replace(&mut self.step_mut(id).state, to);
        if let Some(count) = self.tally.of(from) {
            *count -= 1;
        }
        if let Some(count) = self.tally.of(to) {
            *count += 1;
        }
        if from == State::Ready {
            self.classes.withdraw(class, key);
        }
        if to == State::Ready {
            self.classes.offer(class, key);
        }
        if matches!(to, State::Idle | State::Present) {
            let step = self.step_mut(id);
            step.rank = 0;
            step.tries = Tries::default();
        }
        from
    }
}
