//! What differs between the closures of one host's two sides.
//!
//! Owns the walk from sets of paths to changes of packages and configuration. Looks only at packages of which
//! a path came or went.

use std::sync::Arc;

use crate::catalog::{Catalog, Label};
use crate::change::{Change, Instance, What, classify};
use crate::identify::ConfigurationKind;
use crate::listing::Listing;
use crate::table::{Closure, PathId};

/// What differs between two closures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosureDiff {
    /// Packages, by name.
    pub changes: Vec<Change>,
    /// Generated files, units and the like, by name.
    pub configuration: Vec<ConfigurationChange>,
    /// The closure before.
    pub before: ClosureSize,
    /// The closure after.
    pub after: ClosureSize,
    /// Paths that are only in the closure after.
    pub paths_added: usize,
    /// Paths that are only in the closure before.
    pub paths_removed: usize,
    /// Kernel, its modules or the initrd of a NixOS system differ.
    pub needs_reboot: bool,
    /// The same two closures in the plain manner of nvd.
    pub listing: Listing,
}

/// How large a closure is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClosureSize {
    /// Paths.
    pub paths: usize,
    /// Sum of their NAR sizes in bytes.
    pub nar_size: u64,
}

/// One piece of configuration, changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigurationChange {
    /// Name of its store path.
    pub name: Arc<str>,
    /// Of what kind it is.
    pub kind: ConfigurationKind,
    /// What happened to it.
    pub fate: Fate,
}

/// What happened to a piece of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its content differs.
    Changed,
}

impl ClosureDiff {
    /// Compares two closures of the catalog's table.
    pub fn between(catalog: &Catalog<'_>, before: &Closure, after: &Closure) -> Self {
        let (removed, added) = (before.without(after), after.without(before));
        let touched = groups(catalog, &[&removed[..], &added[..]].concat());
        let selected = catalog.selected(before, after).map(|paths| groups(catalog, &paths));
        let mut diff = Self {
            changes: Vec::new(),
            configuration: Vec::new(),
            before: ClosureSize { paths: before.paths(), nar_size: before.nar_size() },
            after: ClosureSize { paths: after.paths(), nar_size: after.nar_size() },
            paths_added: added.len(),
            paths_removed: removed.len(),
            needs_reboot: catalog.boot_paths(before) != catalog.boot_paths(after),
            listing: Listing::between(catalog, before, after, removed.iter().chain(&added).copied()),
        };
        // Groups are numbered in the order of their names, and so both lists come out in that order.
        for group in touched {
            let sides = Sides::of(catalog, group, before, after);
            let name = catalog.text(catalog.group(group).name);
            match catalog.group(group).configuration {
                Some(kind) => {
                    diff.configuration.push(ConfigurationChange {
                        name: Arc::clone(name),
                        kind,
                        fate: sides.fate(),
                    });
                }
                None => diff.changes.push(Change {
                    what: sides.what(catalog, name),
                    size_delta: sides.size_delta(catalog),
                    selected: (
                        selected[0].binary_search(&group).is_ok(),
                        selected[1].binary_search(&group).is_ok(),
                    ),
                }),
            }
        }
        diff
    }

    /// Sum of NAR sizes after, minus before, in bytes.
    pub fn size_delta(&self) -> i64 {
        signed(self.after.nar_size) - signed(self.before.nar_size)
    }
}

/// The paths of one group in both closures.
struct Sides {
    before: Vec<PathId>,
    after: Vec<PathId>,
}

impl Sides {
    fn of(catalog: &Catalog<'_>, group: u32, before: &Closure, after: &Closure) -> Self {
        let within = |closure: &Closure| {
            catalog.members(group).iter().copied().filter(|&id| closure.contains(id)).collect()
        };
        Self { before: within(before), after: within(after) }
    }

    fn fate(&self) -> Fate {
        match (self.before.is_empty(), self.after.is_empty()) {
            (true, _) => Fate::Added,
            (_, true) => Fate::Removed,
            _ => Fate::Changed,
        }
    }

    fn what(&self, catalog: &Catalog<'_>, name: &Arc<str>) -> What {
        // Most changes are plain rebuilds, and numbers say so without looking at texts.
        if numbers(catalog, &self.before) == numbers(catalog, &self.after) {
            return What::rebuilt(name);
        }
        classify(name, instances(catalog, &self.before), instances(catalog, &self.after))
    }

    fn size_delta(&self, catalog: &Catalog<'_>) -> i64 {
        let sum = |side: &[PathId]| {
            side.iter().fold(0u64, |sum, &id| sum.saturating_add(catalog.table().nar_size(id)))
        };
        signed(sum(&self.after)) - signed(sum(&self.before))
    }
}

fn numbers(catalog: &Catalog<'_>, side: &[PathId]) -> Vec<(u32, u32, u32)> {
    let numbers = |label: Label| (label.version, label.output, label.variant);
    let mut numbers: Vec<_> = side.iter().map(|&id| numbers(catalog.label_of(id))).collect();
    numbers.sort_unstable();
    numbers
}

fn instances(catalog: &Catalog<'_>, side: &[PathId]) -> Vec<Instance> {
    let text = |number| Arc::clone(catalog.text(number));
    let instance = |label: Label| Instance {
        version: text(label.version),
        output: text(label.output),
        variant: text(label.variant),
    };
    side.iter().map(|&id| instance(catalog.label_of(id))).collect()
}

fn groups(catalog: &Catalog<'_>, paths: &[PathId]) -> Vec<u32> {
    let mut groups: Vec<_> = paths.iter().map(|&id| catalog.label_of(id).group).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
