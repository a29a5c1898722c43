//! How long to wait before the next session: exponential with full jitter, so that a thousand workers that lost one
//! coordinator do not come back as one, and a flapping link is not met with a storm. Told its randomness.

use std::time::Duration;

/// The first wait is at most this.
const BASE: Duration = Duration::from_millis(500);
/// Every wait is at most this.
const CAP: Duration = Duration::from_secs(15);
/// A session that lasted so long was a good one: the next wait is a first one.
const GOOD: Duration = Duration::from_secs(30);
/// What only a person can mend is tried this often.
const SLOW: Duration = Duration::from_mins(1);

/// Counts attempts that came to nothing.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// A session ended after so long; no session at all is one of no length.
    pub(crate) fn ended_after(&mut self, lasted: Duration) {
        self.failures = if lasted >= GOOD { 0 } else { self.failures.saturating_add(1) };
    }

    /// How long to wait now; `random` is any number.
    pub(crate) fn wait(&self, random: u64) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let most = CAP.min(BASE * 2_u32.pow(doublings));
        share(most, random)
    }
}

/// For what is tried slowly: between half of it and one and a half.
pub(crate) fn slowly(random: u64) -> Duration {
    SLOW / 2 + share(SLOW, random)
}

/// A part of `most`, each as likely.
pub(crate) fn share(most: Duration, random: u64) -> Duration {
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random % (millis + 1))
}

/// A number that nobody foresees. Without secrets: the standard library seeds every hasher anew.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(backoff: &Backoff) -> u128 {
        (0..20_000).map(|random| backoff.wait(random).as_millis()).max().unwrap_or_default()
    }

    #[test]
    fn waits_double_up_to_the_cap_and_a_good_session_ends_that() {
        let mut backoff = Backoff::default();
        let mut bounds = Vec::new();
        for _ in 0..7 {
            backoff.ended_after(Duration::ZERO);
            bounds.push(bound(&backoff));
        }
        assert_eq!(bounds, [500, 1000, 2000, 4000, 8000, 15000, 15000]);
        backoff.ended_after(GOOD.checked_sub(Duration::from_millis(1)).expect("positive"));
        assert_eq!(bound(&backoff), 15_000, "a flapping link stays slow");
        backoff.ended_after(GOOD);
        assert_eq!(bound(&backoff), 500);
    }

    #[test]
    fn a_thousand_workers_spread_evenly_and_none_overflows() {
        let mut backoff = Backoff::default();
        (0..u32::MAX.ilog2() * 2).for_each(|_| backoff.ended_after(Duration::ZERO));
        backoff.failures = u32::MAX;
        backoff.ended_after(Duration::ZERO);
        let mut seconds = [0_u32; 16];
        for _ in 0..1000 {
            seconds[usize::try_from(backoff.wait(random()).as_secs()).expect("small")] += 1;
        }
        assert!(seconds[..15].iter().all(|count| (20..140).contains(count)), "{seconds:?}");
        assert!((30_000..=90_000).contains(&slowly(random()).as_millis()));
    }
}
