//! When to try again, and when to give up. Pure: told the time and a number to jitter with.

use std::time::{Duration, Instant};

/// Pauses grow from this…
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// …up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// One outage: how long it has lasted, and how often we tried.
#[derive(Clone, Debug)]
pub struct Backoff {
    within: Duration,
    since: Option<Instant>,
    attempts: u32,
}

impl Backoff {
    /// Gives up when an outage has lasted for `within`.
    pub fn new(within: Duration) -> Self {
        Self { within, since: None, attempts: 0 }
    }

    /// An attempt failed: how long to wait before the next, or nothing when it is time to give up.
    pub fn failed(&mut self, now: Instant, jitter: u64) -> Option<Duration> {
        let since = *self.since.get_or_insert(now);
        let left =
            self.within.checked_sub(now.saturating_duration_since(since)).filter(|left| !left.is_zero())?;
        let longest = FIRST_PAUSE.saturating_mul(1 << self.attempts.min(16)).min(LONGEST_PAUSE);
        self.attempts = self.attempts.saturating_add(1);
        // Between half and all of it: clients that lost the same coordinator must not come back together.
        let half = longest / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        Some((half + Duration::from_millis(jitter % spread)).min(left))
    }

    /// An attempt went well; how long the outage was, if there was one.
    pub fn succeeded(&mut self) -> Option<Instant> {
        self.attempts = 0;
        self.since.take()
    }

    /// Failures since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// When the outage began.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// How long it tries.
    pub fn within(&self) -> Duration {
        self.within
    }
}

/// Different for every call: the standard library seeds each hasher from the system's randomness.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_never_long_and_never_equal() {
        let start = Instant::now();
        let mut backoff = Backoff::new(Duration::from_hours(1));
        for attempt in 0_u32..40 {
            let pause = backoff.failed(start, u64::from(attempt) * 7919).expect("not yet");
            let longest = (FIRST_PAUSE * 2_u32.pow(attempt.min(10))).min(LONGEST_PAUSE);
            assert!(pause >= longest / 2 && pause <= longest, "{attempt}: {pause:?}");
        }
    }

    #[test]
    fn an_outage_ends_with_the_first_success() {
        let start = Instant::now();
        let mut backoff = Backoff::new(Duration::from_mins(1));
        assert!(backoff.failed(start, 0).is_some());
        assert!(
            backoff
                .failed(start + Duration::from_secs(59), 0)
                .is_some_and(|pause| pause <= Duration::from_secs(1))
        );
        assert_eq!(backoff.succeeded(), Some(start));
        assert!(backoff.failed(start + Duration::from_secs(100), 0).is_some(), "a new outage");
        assert!(backoff.failed(start + Duration::from_secs(160), 0).is_none(), "time to give up");
    }

    #[test]
    fn without_patience_the_first_failure_is_the_last() {
        assert!(Backoff::new(Duration::ZERO).failed(Instant::now(), 0).is_none());
    }
}
