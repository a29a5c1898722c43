//! What happened to one package between two closures.
//!
//! Owns the rules that turn the paths of one package on both sides into one letter and its details. Knows
//! instances only: no tables, no hosts.

use std::fmt;
use std::sync::Arc;

use crate::version::{Relation, nix_order, relate, shared_components};

/// What happened to a package, as one letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// D: to an earlier version.
    Downgraded,
    /// U: to a later version.
    Upgraded,
    /// C: versions differ, without one direction.
    Changed,
    /// V: same version, for another interpreter or kernel.
    VariantChanged,
    /// A: no path of it before.
    Added,
    /// R: no path of it after.
    Removed,
    /// O: same versions, other outputs.
    OutputsChanged,
    /// N: same versions and outputs, in another number of copies.
    CopiesChanged,
    /// B: same names, other hashes.
    Rebuilt,
}

impl ChangeKind {
    /// Its letter.
    pub fn letter(self) -> char {
        match self {
            Self::Downgraded => 'D',
            Self::Upgraded => 'U',
            Self::Changed => 'C',
            Self::VariantChanged => 'V',
            Self::Added => 'A',
            Self::Removed => 'R',
            Self::OutputsChanged => 'O',
            Self::CopiesChanged => 'N',
            Self::Rebuilt => 'B',
        }
    }
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.letter())
    }
}

/// One package, changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What two hosts share when the same happened to both.
    pub what: What,
    /// Sum of NAR sizes after, minus before, in bytes.
    pub size_delta: i64,
    /// Whether a person chose it, before and after.
    pub selected: (bool, bool),
}

/// The part of a change that is compared across hosts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct What {
    /// Package name, without the version of the interpreter it is for.
    pub name: Arc<str>,
    /// In one letter.
    pub kind: ChangeKind,
    /// Old and new versions that belong together.
    pub versions: Vec<VersionPair>,
    /// Versions that went without a successor.
    pub versions_removed: Vec<Arc<str>>,
    /// Versions that came without a predecessor.
    pub versions_added: Vec<Arc<str>>,
    /// Outputs that are gone; `out` is the main one.
    pub outputs_removed: Vec<Arc<str>>,
    /// Outputs that are new.
    pub outputs_added: Vec<Arc<str>>,
    /// Variants before, when they differ: `python3.12`, `kernel 6.18.16`.
    pub variants_before: Vec<Arc<str>>,
    /// Variants after, when they differ.
    pub variants_after: Vec<Arc<str>>,
    /// Copies before and after, for [`ChangeKind::CopiesChanged`]; none when they only moved between versions.
    pub copies: Option<(usize, usize)>,
}

/// One version in the place of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionPair {
    /// The old one.
    pub before: Arc<str>,
    /// The new one.
    pub after: Arc<str>,
    /// Their order.
    pub relation: Relation,
}

/// One path of a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    pub(crate) version: Arc<str>,
    pub(crate) output: Arc<str>,
    pub(crate) variant: Arc<str>,
}

/// More versions of one package than this are paired from the newest down, without looking for the best fit.
const PAIRED_BY_FIT: usize = 32;

/// All paths of one package on each side, of which at least one is not on both.
pub(crate) fn classify(name: &Arc<str>, mut before: Vec<Instance>, mut after: Vec<Instance>) -> What {
    before.sort_unstable();
    after.sort_unstable();
    let mut what = What::rebuilt(name);
    if before == after {
        return what;
    }
    let versions = (distinct(&before, |i| &i.version), distinct(&after, |i| &i.version));
    if before.is_empty() || after.is_empty() {
        what.kind = if before.is_empty() { ChangeKind::Added } else { ChangeKind::Removed };
        (what.versions_removed, what.versions_added) = versions;
        what.outputs_removed = shown_outputs(distinct(&before, |i| &i.output));
        what.outputs_added = shown_outputs(distinct(&after, |i| &i.output));
        (what.variants_before, what.variants_after) = variants(&before, &after);
        return what;
    }
    if versions.0 != versions.1 {
        (what.versions_removed, what.versions_added) = subtract_both(&versions.0, &versions.1);
        what.pair_versions();
        what.kind = kind_of_pairs(&what.versions);
    }
    let (gone, new) = subtract_both(&distinct(&before, |i| &i.output), &distinct(&after, |i| &i.output));
    (what.outputs_removed, what.outputs_added) = (shown_outputs(gone), shown_outputs(new));
    (what.variants_before, what.variants_after) = variants(&before, &after);
    if versions.0 == versions.1 {
        what.kind = same_versions(&mut what, &before, &after);
    }
    what
}

impl What {
    /// The same package by name, made anew.
    pub(crate) fn rebuilt(name: &Arc<str>) -> Self {
        Self {
            name: Arc::clone(name),
            kind: ChangeKind::Rebuilt,
            versions: Vec::new(),
            versions_removed: Vec::new(),
            versions_added: Vec::new(),
            outputs_removed: Vec::new(),
            outputs_added: Vec::new(),
            variants_before: Vec::new(),
            variants_after: Vec::new(),
            copies: None,
        }
    }

    /// Moves versions that belong together from the leftovers into pairs.
    fn pair_versions(&mut self) {
        let pairs = best_pairs(&self.versions_removed, &self.versions_added);
        for &(from, to) in &pairs {
            let (before, after) =
                (Arc::clone(&self.versions_removed[from]), Arc::clone(&self.versions_added[to]));
            let relation = relate(&before, &after);
            self.versions.push(VersionPair { before, after, relation });
        }
        // From the last on, so that earlier places stay what they are.
        for &(from, to) in pairs.iter().rev() {
            self.versions_removed.remove(from);
            self.versions_added.remove(to);
        }
    }
}

/// Which of the old versions, in ascending order, which of the new ones replaces. Pairs never cross, and as many
/// components as possible are shared within them; among equals the newest versions pair.
fn best_pairs(old: &[Arc<str>], new: &[Arc<str>]) -> Vec<(usize, usize)> {
    if old.len().max(new.len()) > PAIRED_BY_FIT {
        let pairs = (0..old.len()).rev().zip((0..new.len()).rev());
        return pairs.collect::<Vec<_>>().into_iter().rev().collect();
    }
    // best[i][j]: the worth of the best pairs among the first i old and the first j new versions.
    let worth = |from: usize, to: usize| 1 + 2 * shared_components(&old[from], &new[to]);
    let mut best = vec![vec![0; new.len() + 1]; old.len() + 1];
    for from in 0..old.len() {
        for to in 0..new.len() {
            let paired = best[from][to] + worth(from, to);
            best[from + 1][to + 1] = paired.max(best[from][to + 1]).max(best[from + 1][to]);
        }
    }
    let (mut from, mut to) = (old.len(), new.len());
    let mut pairs = Vec::new();
    while from > 0 && to > 0 {
        if best[from][to] == best[from - 1][to - 1] + worth(from - 1, to - 1) {
            (from, to) = (from - 1, to - 1);
            pairs.push((from, to));
        } else if best[from][to] == best[from - 1][to] {
            from -= 1;
        } else {
            to -= 1;
        }
    }
    pairs.reverse();
    pairs
}

fn kind_of_pairs(pairs: &[VersionPair]) -> ChangeKind {
    let all = |relation| !pairs.is_empty() && pairs.iter().all(|pair| pair.relation == relation);
    if all(Relation::Upgrade) {
        ChangeKind::Upgraded
    } else if all(Relation::Downgrade) {
        ChangeKind::Downgraded
    } else {
        ChangeKind::Changed
    }
}

fn same_versions(what: &mut What, before: &[Instance], after: &[Instance]) -> ChangeKind {
    let outputs = |side: &[Instance]| {
        let mut pairs: Vec<_> =
            side.iter().map(|i| (Arc::clone(&i.version), Arc::clone(&i.output))).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    };
    if what.variants_before != what.variants_after {
        ChangeKind::VariantChanged
    } else if outputs(before) != outputs(after) {
        if what.outputs_added.is_empty() && what.outputs_removed.is_empty() {
            // Only which version has which output changed: name the outputs that moved.
            (what.outputs_removed, what.outputs_added) = moved_outputs(&outputs(before), &outputs(after));
        }
        ChangeKind::OutputsChanged
    } else {
        let (most, all) = ((most_copies(before), most_copies(after)), (before.len(), after.len()));
        what.copies = [most, all].into_iter().find(|(old, new)| old != new);
        ChangeKind::CopiesChanged
    }
}

type VersionOutput = (Arc<str>, Arc<str>);

fn moved_outputs(before: &[VersionOutput], after: &[VersionOutput]) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let missing = |here: &[VersionOutput], there: &[VersionOutput]| {
        let mut outputs: Vec<_> =
            here.iter().filter(|pair| !there.contains(pair)).map(|(_, output)| Arc::clone(output)).collect();
        outputs.sort_unstable();
        outputs.dedup();
        shown_outputs(outputs)
    };
    (missing(before, after), missing(after, before))
}

/// How often the most frequent instance of a sorted list stands in it.
fn most_copies(sorted: &[Instance]) -> usize {
    sorted.chunk_by(|left, right| left == right).map(<[Instance]>::len).max().unwrap_or(0)
}

fn variants(before: &[Instance], after: &[Instance]) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let sides = (distinct(before, |i| &i.variant), distinct(after, |i| &i.variant));
    if sides.0 == sides.1 {
        return (Vec::new(), Vec::new());
    }
    let named = |side: Vec<Arc<str>>| side.into_iter().filter(|variant| !variant.is_empty()).collect();
    (named(sides.0), named(sides.1))
}

/// Distinct values in the order of versions.
fn distinct(instances: &[Instance], part: impl Fn(&Instance) -> &Arc<str>) -> Vec<Arc<str>> {
    let mut values: Vec<_> = instances.iter().map(|instance| Arc::clone(part(instance))).collect();
    values.sort_unstable_by(|left, right| nix_order(left, right).then_with(|| left.cmp(right)));
    values.dedup();
    values
}

fn subtract_both(left: &[Arc<str>], right: &[Arc<str>]) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let missing = |here: &[Arc<str>], there: &[Arc<str>]| {
        here.iter().filter(|value| !there.contains(value)).cloned().collect()
    };
    (missing(left, right), missing(right, left))
}

fn shown_outputs(outputs: Vec<Arc<str>>) -> Vec<Arc<str>> {
    let shown = |output: Arc<str>| {
        if output.is_empty() { Arc::from("out") } else { output }
    };
    outputs.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests;
