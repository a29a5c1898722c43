//! What was used lately, in two generations: whatever was used within a period is in one of them. When there is more
//! than fits, everything counts as used.

use std::collections::HashSet;
use std::hash::Hash;

/// Things of one generation.
pub(super) const MAX_RECENT: usize = 1 << 21;

#[derive(Clone, Debug)]
pub(super) struct Recent<K> {
    now: Generation<K>,
    before: Generation<K>,
    turned_at: i64,
    limit: usize,
}

#[derive(Clone, Debug)]
struct Generation<K> {
    used: HashSet<K>,
    overflowed: bool,
}

impl<K> Generation<K> {
    fn new() -> Self {
        Self { used: HashSet::new(), overflowed: false }
    }
}

impl<K: Eq + Hash> Recent<K> {
    pub(super) fn new(now: i64, limit: usize) -> Self {
        Self { now: Generation::new(), before: Generation::new(), turned_at: now, limit }
    }

    pub(super) fn add(&mut self, key: K) {
        if self.now.used.len() < self.limit {
            self.now.used.insert(key);
        } else {
            self.now.overflowed = true;
        }
    }

    pub(super) fn has(&self, key: &K) -> bool {
        self.overflowed() || self.now.used.contains(key) || self.before.used.contains(key)
    }

    /// Whether everything has to be taken as used.
    pub(super) fn overflowed(&self) -> bool {
        self.now.overflowed || self.before.overflowed
    }

    /// What is remembered.
    pub(super) fn iter(&self) -> impl Iterator<Item = &K> {
        self.now.used.iter().chain(&self.before.used)
    }

    /// Forgets what was used before the last turn, once a period is over since that. What was used since stays: the
    /// last of it may be new, however long ago the turn was.
    pub(super) fn turn(&mut self, now: i64, period: i64) {
        if now - self.turned_at < period {
            return;
        }
        let last = std::mem::replace(&mut self.now, Generation::new());
        self.before = if period == 0 { Generation::new() } else { last };
        self.turned_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_within_the_period_is_remembered_and_what_is_older_than_two_is_not() {
        let mut recent = Recent::new(0, 100);
        for now in 0..1000 {
            recent.turn(now, 10);
            recent.add(now);
            for ago in 0..10.min(now + 1) {
                assert!(recent.has(&(now - ago)), "{ago} before {now}");
            }
            assert!(!recent.has(&(now - 20)), "{now}");
        }
        // Nobody turned for long, and the last use is new.
        recent.add(4_999);
        recent.turn(5000, 10);
        assert!(recent.has(&4_999));
        recent.turn(5010, 10);
        assert_eq!(recent.iter().count(), 0);
    }

    #[test]
    fn with_too_much_in_use_everything_counts_as_used() {
        let mut recent = Recent::new(0, 9);
        for key in 0..10 {
            recent.add(key);
        }
        assert!(recent.has(&usize::MAX));
        recent.turn(10, 10);
        assert!(recent.has(&usize::MAX));
        recent.turn(20, 10);
        assert!(!recent.has(&usize::MAX));
    }
}
