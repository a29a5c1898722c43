//! Two closures compared in the manner of nvd 0.2: names guessed from paths, outputs left in the version.
//!
//! Kept apart from our own classification so that whoever reads nvd's output today finds the same names,
//! letters and numbers. Owns that comparison and its words; the text is the report's.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::identify::name_of;
use crate::table::{Closure, PathId};

/// Differences as nvd lists them; each part in name order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names on both sides with other versions.
    pub versions: Vec<Row>,
    /// Names on both sides with the same versions, chosen on one side only.
    pub selection: Vec<Row>,
    /// Names that were not there before.
    pub added: Vec<Row>,
    /// Names that are not there any more.
    pub removed: Vec<Row>,
}

/// One name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The letter: `U`, `D`, `C`, `A` or `R`.
    pub letter: char,
    /// Whether it is chosen: `*` on both sides, `.` on none, `+` after only, `-` before only.
    pub mark: char,
    /// Text before the first dash that a digit follows.
    pub name: Arc<str>,
    /// Versions in ascending order, once per path; an empty one is a path without a version.
    pub before: Vec<Arc<str>>,
    /// The same after; only for rows of versions that changed.
    pub after: Vec<Arc<str>>,
}

impl Listing {
    /// Compares two closures, of which the given paths are not on both sides.
    pub(crate) fn between(
        catalog: &Catalog<'_>,
        before: &Closure,
        after: &Closure,
        differing: impl Iterator<Item = PathId>,
    ) -> Self {
        let chosen = Chosen::of(catalog, before, after);
        let mut names: Vec<u32> = differing.map(|id| catalog.label_of(id).listed_name).collect();
        names.extend(chosen.on_one_side());
        names.sort_unstable();
        names.dedup();
        let mut listing = Self::default();
        for name in names {
            let sides = (versions(catalog, before, name), versions(catalog, after, name));
            listing.add(catalog, name, chosen.mark(name), sides);
        }
        listing
    }

    fn add(&mut self, catalog: &Catalog<'_>, name: u32, mark: char, (before, after): (Vec<u32>, Vec<u32>)) {
        let unchosen = !matches!(mark, '+' | '-');
        if before == after && (before.is_empty() || unchosen) {
            return;
        }
        let (before, after) = (ascending(catalog, &before), ascending(catalog, &after));
        let row = |letter, before, after| Row {
            letter,
            mark,
            name: Arc::clone(catalog.listed_name(name)),
            before,
            after,
        };
        if before.is_empty() {
            self.added.push(row('A', after, Vec::new()));
        } else if after.is_empty() {
            self.removed.push(row('R', before, Vec::new()));
        } else if !equal(&before, &after) {
            self.versions.push(row(letter(&before, &after), before, after));
        } else if !unchosen {
            self.selection.push(row('C', before, Vec::new()));
        }
    }
}

/// Name and version of a base name: the shortest name that a dash and a digit follow.
pub(crate) fn split(base_name: &str) -> (&str, &str) {
    let name = name_of(base_name);
    let digit = |dash: &usize| *dash > 0 && name.as_bytes().get(dash + 1).is_some_and(u8::is_ascii_digit);
    let without_drv = |text: &'_ str| {
        text.strip_suffix(".drv").filter(|rest| !rest.is_empty()).map_or(text.len(), str::len)
    };
    match name.match_indices('-').map(|(dash, _)| dash).find(digit) {
        Some(dash) => {
            let version = &name[dash + 1..];
            (&name[..dash], &version[..without_drv(version)])
        }
        None => (&name[..without_drv(name)], ""),
    }
}

/// Compares chunk by chunk: runs of digits and runs of letters, whatever stands between them.
fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (Chunks(left), Chunks(right));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(left), Some(right)) => match left.cmp(&right) {
                Ordering::Equal => {}
                order => return order,
            },
        }
    }
}

/// Letters sort before numbers, and `pre` before all.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Chunk<'a> {
    Pre,
    Letters(&'a str),
    Number(usize, &'a str),
}

struct Chunks<'a>(&'a str);

impl<'a> Iterator for Chunks<'a> {
    type Item = Chunk<'a>;

    fn next(&mut self) -> Option<Chunk<'a>> {
        let rest = self.0.trim_start_matches(|c: char| !c.is_alphanumeric());
        let first = rest.chars().next()?;
        let end = if first.is_ascii_digit() {
            rest.find(|c: char| !c.is_ascii_digit())
        } else {
            rest.find(|c: char| c.is_ascii_digit() || !c.is_alphanumeric())
        };
        let (chunk, rest) = rest.split_at(end.unwrap_or(rest.len()));
        self.0 = rest;
        Some(if first.is_ascii_digit() {
            let digits = chunk.trim_start_matches('0');
            Chunk::Number(digits.len(), digits)
        } else if chunk == "pre" {
            Chunk::Pre
        } else {
            Chunk::Letters(chunk)
        })
    }
}

fn versions(catalog: &Catalog<'_>, closure: &Closure, name: u32) -> Vec<u32> {
    let within = catalog.listed(name).iter().copied().filter(|&id| closure.contains(id));
    let mut versions: Vec<_> = within.map(|id| catalog.label_of(id).listed_version).collect();
    versions.sort_unstable();
    versions
}

fn ascending(catalog: &Catalog<'_>, versions: &[u32]) -> Vec<Arc<str>> {
    let mut versions: Vec<_> = versions.iter().map(|&number| Arc::clone(catalog.text(number))).collect();
    versions.sort_by(|left, right| compare(left, right).then_with(|| left.cmp(right)));
    versions
}

fn equal(before: &[Arc<str>], after: &[Arc<str>]) -> bool {
    let pairs = || before.iter().zip(after);
    before.len() == after.len() && pairs().all(|(old, new)| compare(old, new) == Ordering::Equal)
}

fn letter(before: &[Arc<str>], after: &[Arc<str>]) -> char {
    let order = |old: Option<&Arc<str>>, new: Option<&Arc<str>>| {
        old.zip(new).map_or(Ordering::Equal, |(old, new)| compare(old, new))
    };
    if order(before.last(), after.first()) == Ordering::Less {
        'U'
    } else if order(before.first(), after.last()) == Ordering::Greater {
        'D'
    } else {
        'C'
    }
}

/// Runs of versions that count as equal, each with its last spelling and its length.
pub(crate) fn counted(versions: &[Arc<str>]) -> impl Iterator<Item = (&str, usize)> {
    let runs = versions.chunk_by(|left, right| compare(left, right) == Ordering::Equal);
    runs.filter_map(|run| run.last().map(|version| (&**version, run.len())))
}

/// Names a person chose, on each side.
struct Chosen {
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Chosen {
    fn of(catalog: &Catalog<'_>, before: &Closure, after: &Closure) -> Self {
        let [before, after] = catalog.selected(before, after).map(|paths| {
            let mut names: Vec<_> = paths.iter().map(|&id| catalog.label_of(id).listed_name).collect();
            names.sort_unstable();
            names.dedup();
            names
        });
        Self { before, after }
    }

    fn on_one_side(&self) -> impl Iterator<Item = u32> {
        let before = self.before.iter().filter(|&name| self.after.binary_search(name).is_err());
        let after = self.after.iter().filter(|&name| self.before.binary_search(name).is_err());
        before.chain(after).copied()
    }

    fn mark(&self, name: u32) -> char {
        match (self.before.binary_search(&name).is_ok(), self.after.binary_search(&name).is_ok()) {
            (true, true) => '*',
            (false, false) => '.',
            (false, true) => '+',
            (true, false) => '-',
        }
    }
}

#[cfg(test)]
mod tests;
