//! Timers of the core, by when they are due. Owns nothing else; late timers are harmless.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_core::{Time, Timer};

/// Far enough for "no timer": whoever waits just goes round.
const IDLE_MS: u64 = 3_600_000;

/// Armed timers.
#[derive(Debug, Default)]
pub(super) struct Timers {
    armed: BTreeMap<(Time, u64), Timer>,
    next: u64,
}

impl Timers {
    pub(super) fn arm(&mut self, timer: Timer, at: Time) {
        self.next += 1;
        self.armed.insert((at, self.next), timer);
    }

    /// How long nothing is due.
    pub(super) fn next_due(&self, now: Time) -> Duration {
        let wait = self.armed.keys().next().map_or(IDLE_MS, |(at, _)| at.since_ms(now));
        Duration::from_millis(wait)
    }

    pub(super) fn take_due(&mut self, now: Time) -> Vec<Timer> {
        let later = self.armed.split_off(&(now.plus_ms(1), 0));
        std::mem::replace(&mut self.armed, later).into_values().collect()
    }
}
