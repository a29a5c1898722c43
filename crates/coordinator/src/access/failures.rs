//! How often each address failed to show who it is. Owns the counts of the present minute.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Addresses whose failures are remembered; when there are more, all are forgotten.
const MAX_ADDRESSES: usize = 65_536;

/// Failures by address, within the present minute.
#[derive(Debug)]
pub(crate) struct Failures {
    limit: AtomicU32,
    counted: Mutex<(u64, HashMap<IpAddr, u32>)>,
}

impl Failures {
    /// Each address may have so many a minute.
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit: limit.into(), counted: Mutex::default() }
    }

    /// Another limit from now on.
    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Whether nothing more of this address is looked at.
    pub(crate) fn are_too_many(&self, address: IpAddr, now: u64) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.with_this_minute(now, |counted| counted.get(&address).is_some_and(|count| *count >= limit))
    }

    /// One more.
    pub(crate) fn count(&self, address: IpAddr, now: u64) {
        self.with_this_minute(now, |counted| {
            if counted.len() >= MAX_ADDRESSES {
                counted.clear();
            }
            *counted.entry(address).or_default() += 1;
        });
    }

    fn with_this_minute<T>(&self, now: u64, act: impl FnOnce(&mut HashMap<IpAddr, u32>) -> T) -> T {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != now / 60 {
            *counted = (now / 60, HashMap::new());
        }
        act(&mut counted.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_forgotten_after_a_minute_and_are_each_address_s_own() {
        let failures = Failures::new(2);
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().expect("an address"));
        assert!(!failures.are_too_many(one, 60));
        failures.count(one, 60);
        failures.count(one, 70);
        assert!(failures.are_too_many(one, 119));
        assert!(!failures.are_too_many(other, 119));
        assert!(!failures.are_too_many(one, 120));
        failures.set_limit(1);
        failures.count(one, 121);
        assert!(failures.are_too_many(one, 121));
    }
}
