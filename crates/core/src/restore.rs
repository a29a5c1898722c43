//! Restoring: the same fleet again, from its history.
//!
//! Events go through the code that took them in at first; what was decided about them is read instead of
//! decided. Nothing is sent, told or armed meanwhile: [`Event::Restarted`](crate::Event::Restarted) comes next.

use std::collections::{BTreeMap, VecDeque};

use crate::config::FleetConfig;
use crate::event::{Event, Timer};
use crate::fleet::Fleet;
use crate::graph::State;
use crate::id::{Epoch, RunId, Time, WorkerId};
use crate::record::{Decision, Record, RestoreError};
use crate::sabotage::Sabotage;

/// An event and what was decided about it.
struct Chapter {
    /// Number of its first record.
    record: usize,
    at: Time,
    event: Event,
    decisions: VecDeque<Decision>,
}

impl Fleet {
    /// The fleet that wrote these records, in this order. Its settings are those it had; the given ones hold
    /// from the next event, which is [`Event::Restarted`].
    pub fn restore(
        config: FleetConfig,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Self, RestoreError> {
        Self::new(config).relive_all(records)
    }

    /// As [`Fleet::restore`], with a bug planted all along.
    #[cfg(any(test, feature = "sabotage"))]
    pub fn restore_sabotaged(
        config: FleetConfig,
        records: impl IntoIterator<Item = Record>,
        sabotage: Sabotage,
    ) -> Result<Self, RestoreError> {
        let mut fleet = Self::new(config);
        fleet.sabotage(sabotage);
        fleet.relive_all(records)
    }

    fn relive_all(mut self, records: impl IntoIterator<Item = Record>) -> Result<Self, RestoreError> {
        let config = self.config.clone();
        let mut chapter: Option<Chapter> = None;
        for (record, entry) in (1..).zip(records) {
            match entry {
                Record::Decided(decision) => match &mut chapter {
                    Some(chapter) => chapter.decisions.push_back(decision),
                    None => return Err(RestoreError::Headless { record }),
                },
                Record::Happened { at, event } => {
                    self.relive(chapter.replace(Chapter { record, at, event, decisions: VecDeque::new() }))?;
                }
                Record::Configured(then) => {
                    self.relive(chapter.take())?;
                    self.configure(*then);
                }
                Record::Condensed(memory) => {
                    self.relive(chapter.take())?;
                    self.remember(*memory);
                }
            }
        }
        self.relive(chapter)?;
        self.configure(config);
        Ok(self)
    }

    fn configure(&mut self, config: FleetConfig) {
        self.graph.set_limit(config.max_steps);
        self.config = config;
    }

    fn relive(&mut self, chapter: Option<Chapter>) -> Result<(), RestoreError> {
        let Some(Chapter { record, at, event, decisions }) = chapter else { return Ok(()) };
        let count = decisions.len();
        self.script = Some(decisions);
        self.take_in(at, &event);
        self.effects.clear();
        match self.script.take().and_then(|rest| Some((rest.len(), rest.front()?.clone()))) {
            None => Ok(()),
            Some((rest, decision)) => {
                let record = record + count - rest + 1;
                Err(RestoreError::Unfit { record, decision: format!("{decision:?}") })
            }
        }
    }

    /// Every session is gone, and so is every timer. Leases wait for their workers; other jobs begin again.
    pub(crate) fn restarted(&mut self, epoch_floor: Epoch) {
        let before = if self.sabotaged(Sabotage::ReuseGrants) { 0 } else { self.grants };
        self.grants = before.max(epoch_floor.0);
        if self.sabotaged(Sabotage::LoseAttempts) {
            self.graph.ids().for_each(|id| self.graph.step_mut(id).attempts = 0);
        }
        self.resume_evals();
        self.resume_realises();
        self.leases.values_mut().for_each(|lease| lease.unsure = true);
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for id in workers {
            self.worker_lost(id);
            self.rearm_canary(id);
        }
        let delayed = self.graph.ids().filter_map(|id| match self.graph.step(id).state {
            State::Delayed(until) => Some((id, until)),
            _ => None,
        });
        let delayed: Vec<_> = delayed.collect();
        for (id, until) in delayed {
            self.arm(Timer::RetryStep(self.graph.drv(id)), until);
        }
        if let Some(due) = self.patience_ends {
            self.arm(Timer::Unplaceable, due);
        }
        let runs: BTreeMap<RunId, Time> = self.runs.iter().map(|(id, run)| (*id, run.submitted)).collect();
        for (id, submitted) in runs {
            self.arm_deadline(id, submitted);
        }
    }
}
