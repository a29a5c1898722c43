//! The diffs of all hosts together: what happened to several of them is said once.
//!
//! Owns the grouping of equal changes by the set of hosts that have them. Borrows the diffs; knows no text.

use std::collections::BTreeMap;

use crate::change::{Change, What};
use crate::closure_diff::{ClosureDiff, ConfigurationChange};

/// Changes of a fleet. Hosts are numbers: places in the list it was made from.
#[derive(Clone, Debug)]
pub struct FleetDiff<'a> {
    /// Every change of a package once, in the order of names.
    pub changes: Vec<FleetChange<'a>>,
    /// Every change of configuration once, in the order of names, with the hosts that have it.
    pub configuration: Vec<(&'a ConfigurationChange, Vec<usize>)>,
}

/// Things grouped by the hosts that have them: the largest set first.
pub type ByHosts<'s, T> = Vec<(&'s [usize], Vec<T>)>;

/// One change and the hosts that have it.
#[derive(Clone, Debug)]
pub struct FleetChange<'a> {
    /// What happened.
    pub what: &'a What,
    /// Where, ascending and not empty.
    pub hosts: Vec<usize>,
    /// Smallest and greatest change of size among them, in bytes.
    pub size_delta: (i64, i64),
    /// Whether a person chose the package on some host, before and after.
    pub selected: (bool, bool),
}

impl<'a> FleetDiff<'a> {
    /// Groups the changes of the given hosts.
    pub fn new(diffs: impl IntoIterator<Item = (usize, &'a ClosureDiff)>) -> Self {
        let mut changes: BTreeMap<&What, FleetChange<'a>> = BTreeMap::new();
        let mut configuration: BTreeMap<&ConfigurationChange, Vec<usize>> = BTreeMap::new();
        for (host, diff) in diffs {
            for change in &diff.changes {
                changes.entry(&change.what).or_insert_with(|| FleetChange::new(change)).join(host, change);
            }
            for change in &diff.configuration {
                configuration.entry(change).or_default().push(host);
            }
        }
        Self { changes: changes.into_values().collect(), configuration: configuration.into_iter().collect() }
    }

    /// The changes of packages by their hosts.
    pub fn changes_by_hosts<'s>(
        &'s self,
        keep: impl Fn(&FleetChange<'a>) -> bool,
    ) -> ByHosts<'s, &'s FleetChange<'a>> {
        let kept = self.changes.iter().filter(|change| keep(change));
        by_hosts(kept.map(|change| (&change.hosts[..], change)))
    }

    /// The changes of configuration by their hosts.
    pub fn configuration_by_hosts<'s>(
        &'s self,
        keep: impl Fn(&ConfigurationChange) -> bool,
    ) -> ByHosts<'s, &'a ConfigurationChange> {
        let kept = self.configuration.iter().filter(|(change, _)| keep(change));
        by_hosts(kept.map(|(change, hosts)| (&hosts[..], *change)))
    }
}

fn by_hosts<'s, T>(items: impl Iterator<Item = (&'s [usize], T)>) -> ByHosts<'s, T> {
    let mut sets: BTreeMap<&[usize], Vec<T>> = BTreeMap::new();
    for (hosts, item) in items {
        sets.entry(hosts).or_default().push(item);
    }
    let mut sets: Vec<_> = sets.into_iter().collect();
    sets.sort_by_key(|(hosts, _)| std::cmp::Reverse(hosts.len()));
    sets
}

impl<'a> FleetChange<'a> {
    fn new(change: &'a Change) -> Self {
        let size = change.size_delta;
        Self { what: &change.what, hosts: Vec::new(), size_delta: (size, size), selected: (false, false) }
    }

    fn join(&mut self, host: usize, change: &Change) {
        self.hosts.push(host);
        self.size_delta =
            (self.size_delta.0.min(change.size_delta), self.size_delta.1.max(change.size_delta));
        self.selected.0 |= change.selected.0;
        self.selected.1 |= change.selected.1;
    }
}
