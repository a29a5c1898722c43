//! Disk room: how large outputs will be, what leases reserve, and which stores have room for a step.
//!
//! Owns the sizes of what was built before, and every worker's reservations. Decides nothing: placement and
//! patience ask. A worker that does not say what it has room for is taken to have enough.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::graph::StepId;
use crate::id::{System, WorkerId};
use crate::sabotage::Sabotage;
use crate::worker::Worker;

/// A change of free space that is worth a record: this share of what was known, and never less than the least.
const WORTH_SHARE: u64 = 8;
const WORTH_LEAST: u64 = 64 << 20;
/// Nothing is larger, whatever is said of it.
const MAX_BYTES: u64 = 1 << 40;

/// Bytes of outputs by system and name without version, as last built; as many as the settings allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sizes {
    known: BTreeMap<System, BTreeMap<Arc<str>, u64>>,
    /// Oldest first.
    order: VecDeque<(System, Arc<str>)>,
    /// No step is taken to need more.
    largest: u64,
}

impl Sizes {
    fn of(&self, system: &System, name: &str) -> Option<u64> {
        self.known.get(system)?.get(stem(name)).copied()
    }

    fn learn(&mut self, system: &System, name: &str, bytes: u64, most: usize) {
        if most == 0 {
            return;
        }
        self.largest = self.largest.max(bytes);
        let names = self.known.entry(system.clone()).or_default();
        if let Some(known) = names.get_mut(stem(name)) {
            *known = bytes;
            return;
        }
        let name: Arc<str> = stem(name).into();
        names.insert(Arc::clone(&name), bytes);
        self.order.push_back((system.clone(), name));
        while self.order.len() > most
            && let Some((system, name)) = self.order.pop_front()
        {
            self.forget(&system, &name);
        }
    }

    fn forget(&mut self, system: &System, name: &str) {
        if let Some(names) = self.known.get_mut(system) {
            names.remove(name);
            if names.is_empty() {
                self.known.remove(system);
            }
        }
    }

    /// Whether it is within its bound, and whole.
    pub(crate) fn is_consistent(&self, most: usize) -> bool {
        let known = self.known.values().map(BTreeMap::len).sum::<usize>();
        let all = self.order.iter().all(|(system, name)| self.of(system, name).is_some());
        let within = self.known.values().flatten().all(|(_, bytes)| *bytes <= self.largest);
        all && within && known == self.order.len() && known <= most
    }
}

/// A derivation's name without its version, which begins with the first dash before something that is no letter.
fn stem(name: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| {
        let next = name[at + 1..].chars().next();
        *at > 0 && next.is_some_and(|next| !next.is_alphabetic())
    };
    name.match_indices('-').find(begins).map_or(name, |(at, _)| &name[..at])
}

/// A number of bytes for people.
pub(crate) fn in_words(bytes: u64) -> String {
    let (unit, name) = if bytes >= 1 << 30 { (1 << 30, "GiB") } else { (1 << 20, "MiB") };
    let tenths = bytes.saturating_mul(10).div_ceil(unit);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

impl Worker {
    /// Whether its store has room for this much, beside what leases reserve.
    pub(crate) fn has_room(&self, bytes: u64, floor: u64) -> bool {
        self.could_hold(bytes.saturating_add(self.reserved), floor)
    }

    /// Whether its store would have room for this much if it built nothing else.
    pub(crate) fn could_hold(&self, bytes: u64, floor: u64) -> bool {
        self.store_free.is_none_or(|free| free >= floor.saturating_add(bytes))
    }
}

impl Fleet {
    /// Bytes that a step's outputs will probably take.
    pub(crate) fn predicted_bytes(&self, id: StepId) -> u64 {
        let system = &self.graph.classes.get(self.graph.definition(id).class).need.system;
        let known = self.sizes.of(system, &self.graph.step(id).name);
        known.unwrap_or(self.config.disk_prior_bytes.min(MAX_BYTES))
    }

    /// No step is predicted to take more than this.
    pub(crate) fn largest_prediction(&self) -> u64 {
        self.sizes.largest.max(self.config.disk_prior_bytes.min(MAX_BYTES))
    }

    pub(crate) fn has_room(&self, worker: &Worker, bytes: u64) -> bool {
        worker.has_room(bytes, self.config.disk_floor_bytes)
    }

    pub(crate) fn could_hold(&self, worker: &Worker, bytes: u64) -> bool {
        worker.could_hold(bytes, self.config.disk_floor_bytes)
    }

    /// Keeps room for a lease; answers how much.
    pub(crate) fn reserve(&mut self, id: WorkerId, step: StepId) -> u64 {
        let bytes = self.predicted_bytes(step);
        let bytes = if self.sabotaged(Sabotage::ReserveNothing) { 0 } else { bytes };
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.reserved = worker.reserved.saturating_add(bytes);
        }
        bytes
    }

    /// A lease, or a step of it, is over.
    pub(crate) fn release(&mut self, id: WorkerId, bytes: u64) {
        if let Some(worker) = self.workers.get_mut(&id)
            && self.sabotage != Sabotage::LeakReservation
        {
            worker.reserved = worker.reserved.saturating_sub(bytes);
        }
    }

    /// A worker built a step: its store has less room from now on, and the next time we know better.
    pub(crate) fn learn_size(&mut self, worker: WorkerId, id: StepId, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let class = self.graph.definition(id).class;
        let (system, name) = (&self.graph.classes.get(class).need.system, &self.graph.step(id).name);
        self.sizes.learn(system, name, bytes.min(MAX_BYTES), self.config.remember_sizes);
        if let Some(free) = self.workers.get_mut(&worker).and_then(|worker| worker.store_free.as_mut()) {
            *free = free.saturating_sub(bytes);
        }
    }

    /// Whether what a worker says of its store differs so much from what is known that it changes anything.
    pub(crate) fn is_other_room(&self, worker: &Worker, free: Option<u64>) -> bool {
        let (Some(known), Some(free)) = (worker.store_free, free) else { return worker.store_free != free };
        let awaited = free > known && !self.cramped.is_empty();
        awaited || known.abs_diff(free) >= (known.min(free) / WORTH_SHARE).max(WORTH_LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_version() {
        for (name, expected) in [
            ("hello-2.12.1", "hello"),
            ("nixos-system-web-24.05", "nixos-system-web"),
            ("gtk+3-3.24", "gtk+3"),
            ("no-version", "no-version"),
            ("-1", "-1"),
            ("ends-", "ends-"),
            ("x-ü1", "x-ü1"),
        ] {
            assert_eq!(stem(name), expected);
        }
    }

    #[test]
    fn sizes_are_remembered_by_system_as_many_as_allowed() {
        let (linux, arm) = (System::from("x86_64-linux"), System::from("aarch64-linux"));
        let mut sizes = Sizes::default();
        sizes.learn(&linux, "a-1", 10, 2);
        sizes.learn(&arm, "a-1", 20, 2);
        sizes.learn(&linux, "a-2", 11, 2);
        assert_eq!((sizes.of(&linux, "a-3"), sizes.of(&arm, "a-3")), (Some(11), Some(20)));
        sizes.learn(&linux, "b-1", 30, 2);
        assert_eq!((sizes.of(&linux, "a-3"), sizes.of(&linux, "b-7")), (None, Some(30)));
        assert!(sizes.is_consistent(2) && !sizes.is_consistent(1));
        sizes.learn(&linux, "c", 40, 0);
        assert_eq!(sizes.of(&linux, "c"), None);
    }
}
