//! The coordinator's end and beginning: what its journal keeps, what is lost, and what must be the same again.
//!
//! Plays the part of the journal. A life is the time from one start, or condensation, to the next.

use fleet_core::{Effect, Epoch, Event, Record, Time};

use super::{Coming, Simulation};

/// When the coordinator crashes: an append is the moment from which something has happened.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    /// Nothing is left of the event and of others in the same append, and nobody was told of them.
    Before,
    /// All of it is kept, but no command was sent.
    After,
}

/// What a fleet was at the beginning of a life, and what happened since.
#[derive(Debug, Default)]
struct Life {
    records: Vec<Record>,
    history: Vec<(Time, Event, Vec<Effect>)>,
}

/// What is durable.
#[derive(Debug)]
pub(super) struct Journal {
    records: Vec<Record>,
    /// The present life, where lives are lived twice.
    life: Option<Life>,
}

impl Journal {
    pub(super) fn new(twice: bool) -> Self {
        Self { records: Vec::new(), life: twice.then(Life::default) }
    }

    pub(super) fn append(&mut self, now: Time, event: &Event, effects: &[Effect]) {
        let records = effects.iter().filter_map(|effect| match effect {
            Effect::Append(record) => Some(record.clone()),
            _ => None,
        });
        self.records.extend(records);
        if let Some(life) = &mut self.life {
            life.history.push((now, event.clone(), effects.to_vec()));
        }
    }

    fn begin_life(&mut self) {
        if let Some(life) = &mut self.life {
            *life = Life { records: self.records.clone(), history: Vec::new() };
        }
    }
}

impl Simulation<'_> {
    /// What the journal holds is what the fleet is.
    pub(super) fn agree(&self) -> Result<(), String> {
        let restored = self.restore()?;
        let (restored, live) = (format!("{restored:?}"), format!("{:?}", self.fleet));
        if restored == live {
            return self.live_again();
        }
        let common = restored.bytes().zip(live.bytes()).take_while(|(a, b)| a == b).count();
        let near = |text: &str| text.chars().skip(common.saturating_sub(80)).take(200).collect::<String>();
        let (restored, live) = (near(&restored), near(&live));
        Err(format!("what is restored is what was: {restored}\n  where there was {live}"))
    }

    fn restore(&self) -> Result<fleet_core::Fleet, String> {
        let restored = (self.origin)(self.profile.config.clone(), self.journal.records.clone());
        restored.map_err(|error| format!("a journal is a history: {error}"))
    }

    /// The same events at the same times have the same effects.
    fn live_again(&self) -> Result<(), String> {
        let Some(Life { records, history }) = &self.journal.life else { return Ok(()) };
        let fleet = (self.origin)(self.profile.config.clone(), records.clone());
        let mut fleet = fleet.map_err(|error| format!("a journal is a history: {error}"))?;
        for (number, (at, event, effects)) in history.iter().enumerate() {
            if fleet.apply(*at, event.clone()) != *effects {
                return Err(format!("event {number} has other effects when replayed: {event:?}"));
            }
        }
        Ok(())
    }

    /// The coordinator dies. All sessions end, and what was on the way is lost.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        self.fleet = self.restore()?;
        self.journal.begin_life();
        self.outages += 1;
        self.up = false;
        self.withheld = false;
        self.table.clear();
        self.coming.retain(|_, coming| {
            !matches!(
                coming,
                Coming::Timer(_)
                    | Coming::Knock { .. }
                    | Coming::Said { .. }
                    | Coming::Heard { .. }
                    | Coming::Missed { .. }
                    | Coming::Welcome { .. }
                    | Coming::Told { .. }
                    | Coming::Cut { .. }
                    | Coming::Acknowledged { .. }
            )
        });
        for machine in 0..self.machines.len() {
            if self.machines[machine].session.take().is_some() {
                let ms = self.random.within(100, 5_000);
                self.after(ms, Coming::Return(machine));
            }
        }
        let ms = self.random.below(12_000);
        self.after(ms, Coming::Start);
        Ok(())
    }

    /// The coordinator is back. Sometimes it does not come far.
    pub(super) fn start(&mut self) -> Result<(), String> {
        self.up = true;
        if self.random.chance(50) && !self.profile.is_well() {
            self.doomed = Some(self.moment());
        }
        let floor = if self.random.chance(500) { 0 } else { self.random.below(1_000) };
        self.arrive(Event::Restarted { epoch_floor: Epoch(floor) })
    }

    pub(super) fn moment(&mut self) -> Moment {
        if self.random.chance(500) { Moment::Before } else { Moment::After }
    }

    /// When nobody wants anything, the little that must be remembered replaces the history.
    pub(super) fn condense(&mut self) -> Result<(), String> {
        if !self.up || self.withheld {
            return Ok(());
        }
        let Some(records) = self.fleet.condense() else { return Ok(()) };
        self.journal.records = records;
        self.fleet = self.restore()?;
        self.journal.begin_life();
        self.witness.condensed();
        Ok(())
    }
}
