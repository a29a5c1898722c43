//! Every path of a table identified once, and found by package.
//!
//! Owns the labels of one finished table. All hosts of a run share it, so one path means the same thing on
//! every host, and comparing parts of names is comparing numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identify::{ConfigurationKind, Evidence, Identified, identify, kernel_version, name_of};
use crate::listing;
use crate::strings::{EMPTY, Strings};
use crate::table::{Closure, PathId, PathTable};

/// A finished table, identified.
#[derive(Clone, Debug)]
pub struct Catalog<'t> {
    table: &'t PathTable,
    strings: Strings,
    labels: Vec<Label>,
    groups: Vec<Group>,
    members: Index,
    listed_names: Vec<u32>,
    listed: Index,
}

/// What one path is. Texts are numbers of the catalog's strings; groups and listed names are numbered in the order
/// of their texts, so that nothing needs sorting by text later.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Label {
    pub(crate) group: u32,
    pub(crate) version: u32,
    pub(crate) output: u32,
    pub(crate) variant: u32,
    /// As the plain listing splits the name: a number of its names, and the text of the version.
    pub(crate) listed_name: u32,
    pub(crate) listed_version: u32,
}

/// All paths of one package or one piece of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) name: u32,
    /// None for a package.
    pub(crate) configuration: Option<ConfigurationKind>,
}

/// Paths by some number, as slices of one list.
#[derive(Clone, Debug, Default)]
struct Index {
    starts: Vec<u32>,
    paths: Vec<PathId>,
}

impl<'t> Catalog<'t> {
    /// Identifies every described path.
    pub fn new(table: &'t PathTable) -> Self {
        let mut names = KnownNames::default();
        for id in table.described() {
            names.add(name_of(table.name(id)));
        }
        let mut catalog = Self {
            table,
            strings: Strings::default(),
            labels: vec![Label::default(); table.slots()],
            groups: Vec::new(),
            members: Index::default(),
            listed_names: Vec::new(),
            listed: Index::default(),
        };
        let mut groups = Numbering::default();
        let mut listed = Numbering::default();
        for id in table.described() {
            let label = catalog.label(id, &names, &mut groups, &mut listed);
            catalog.labels[id.0 as usize] = label;
        }
        let strings = &catalog.strings;
        let (groups, group_places) = groups.sorted(|left, right| {
            strings
                .text(left.name)
                .cmp(strings.text(right.name))
                .then(left.configuration.cmp(&right.configuration))
        });
        let (listed_names, listed_places) =
            listed.sorted(|&left, &right| strings.text(left).cmp(strings.text(right)));
        for id in table.described() {
            let label = &mut catalog.labels[id.0 as usize];
            label.group = group_places[label.group as usize];
            label.listed_name = listed_places[label.listed_name as usize];
        }
        let label = |id: PathId| catalog.labels[id.0 as usize];
        catalog.members = Index::new(groups.len(), table, |id| label(id).group);
        catalog.listed = Index::new(listed_names.len(), table, |id| label(id).listed_name);
        (catalog.groups, catalog.listed_names) = (groups, listed_names);
        catalog
    }

    /// What it was made from.
    pub fn table(&self) -> &'t PathTable {
        self.table
    }

    pub(crate) fn label_of(&self, id: PathId) -> Label {
        self.labels.get(id.0 as usize).copied().unwrap_or_default()
    }

    pub(crate) fn group(&self, group: u32) -> Group {
        self.groups[group as usize]
    }

    pub(crate) fn members(&self, group: u32) -> &[PathId] {
        self.members.of(group)
    }

    pub(crate) fn listed(&self, name: u32) -> &[PathId] {
        self.listed.of(name)
    }

    pub(crate) fn listed_name(&self, name: u32) -> &Arc<str> {
        self.text(self.listed_names[name as usize])
    }

    pub(crate) fn text(&self, number: u32) -> &Arc<str> {
        self.strings.text(number)
    }

    /// What a person chose on each side: direct references of the path that collects a system's or a home's
    /// packages, or of the root when not both sides have such a path.
    pub(crate) fn selected(&self, before: &Closure, after: &Closure) -> [Vec<PathId>; 2] {
        let collection = |closure: &Closure| {
            let collects = |name| matches!(name, "system-path" | "home-manager-path");
            self.references(closure).find(|&id| collects(name_of(self.table.name(id))))
        };
        let from = match (collection(before), collection(after)) {
            (Some(before), Some(after)) => [before, after],
            _ => [before.root(), after.root()],
        };
        from.map(|path| self.table.references(path).collect())
    }

    /// Kernel, its modules and the initrd of a NixOS system; nothing for any other root.
    pub(crate) fn boot_paths(&self, closure: &Closure) -> Vec<PathId> {
        if !name_of(self.table.name(closure.root())).starts_with("nixos-system-") {
            return Vec::new();
        }
        let boots = |id: &PathId| {
            let name = name_of(self.table.name(*id));
            kernel_version(name).is_some() || name.starts_with("initrd") || name == "kernel-modules"
        };
        let mut paths: Vec<_> = self.references(closure).filter(boots).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    fn references(&self, closure: &Closure) -> impl Iterator<Item = PathId> {
        self.table.references(closure.root())
    }

    fn label(
        &mut self,
        id: PathId,
        names: &KnownNames,
        groups: &mut Numbering<Group>,
        listed: &mut Numbering<u32>,
    ) -> Label {
        let base_name = self.table.name(id);
        let (listed_name, listed_version) = listing::split(base_name);
        let mut label = Label {
            listed_name: listed.number(self.strings.intern(listed_name)),
            listed_version: self.strings.intern(listed_version),
            ..Label::default()
        };
        let group = match identify(name_of(base_name), self.table.identity(id), names) {
            Identified::Configuration(kind, name) => {
                Group { name: self.strings.intern(name), configuration: Some(kind) }
            }
            Identified::Package(package) => {
                label.version = self.strings.intern(&package.version);
                label.output = self.strings.intern(package.output);
                label.variant = self.strings.intern(&package.variant);
                Group { name: self.strings.intern(&package.name), configuration: None }
            }
        };
        label.group = groups.number(group);
        label
    }
}

/// Dense numbers in the order of first sight, to be exchanged for numbers in another order.
#[derive(Debug)]
struct Numbering<T> {
    numbers: BTreeMap<T, u32>,
    values: Vec<T>,
}

impl<T> Default for Numbering<T> {
    fn default() -> Self {
        Self { numbers: BTreeMap::new(), values: Vec::new() }
    }
}

impl<T: Copy + Ord> Numbering<T> {
    fn number(&mut self, value: T) -> u32 {
        *self.numbers.entry(value).or_insert_with(|| {
            self.values.push(value);
            u32::try_from(self.values.len() - 1).expect("there are no more values than texts")
        })
    }

    /// The values in order, and the place there of each old number.
    fn sorted(self, compare: impl Fn(&T, &T) -> std::cmp::Ordering) -> (Vec<T>, Vec<u32>) {
        let mut values = self.values;
        values.sort_by(compare);
        let mut places = vec![0; values.len()];
        for (place, value) in (0u32..).zip(&values) {
            if let Some(&number) = self.numbers.get(value) {
                places[number as usize] = place;
            }
        }
        (values, places)
    }
}

impl Index {
    fn new(slots: usize, table: &PathTable, key: impl Fn(PathId) -> u32) -> Self {
        let mut starts = vec![0u32; slots + 1];
        for id in table.described() {
            starts[key(id) as usize + 1] += 1;
        }
        for slot in 0..slots {
            starts[slot + 1] += starts[slot];
        }
        let mut paths = vec![PathId(EMPTY); starts[slots] as usize];
        let mut next = starts.clone();
        for id in table.described() {
            let place = &mut next[key(id) as usize];
            paths[*place as usize] = id;
            *place += 1;
        }
        Self { starts, paths }
    }

    fn of(&self, number: u32) -> &[PathId] {
        let at = |place: usize| self.starts.get(place).map_or(self.paths.len(), |&start| start as usize);
        &self.paths[at(number as usize)..at(number as usize + 1)]
    }
}

/// Names of all described paths.
#[derive(Debug, Default)]
struct KnownNames {
    names: Strings,
    kernels: Strings,
}

impl KnownNames {
    fn add(&mut self, name: &str) {
        self.names.intern(name);
        if let Some(version) = kernel_version(name) {
            self.kernels.intern(version);
        }
    }
}

impl Evidence for KnownNames {
    fn has_name(&self, name: &str) -> bool {
        !name.is_empty() && self.names.get(name).is_some()
    }

    fn has_kernel(&self, version: &str) -> bool {
        !version.is_empty() && self.kernels.get(version).is_some()
    }
}
