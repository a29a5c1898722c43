//! Closures: where all of one can be had, and what an output may refer to. No recursion: closures are deep.

use std::collections::HashSet;
use std::sync::Arc;

use fleet_nix::{PathInfo, StorePath};

use crate::table::{Id, Origin, Standing, Table};

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// These paths only.
    Alone,
    /// All they refer to, as far as it is known. What an upstream cache serves brings its own.
    Closure,
}

/// Where some paths can be had.
#[derive(Clone, Debug, Default)]
pub struct Whereabouts {
    /// Each after what it refers to.
    pub places: Vec<Place>,
    /// Paths that nobody has, or of which nobody heard.
    pub lost: Vec<StorePath>,
}

/// Where one path can be had.
#[derive(Clone, Debug)]
pub struct Place {
    /// What it is; without signatures.
    pub info: Arc<PathInfo>,
    /// Held, kept or upstream.
    pub standing: Standing,
    /// Names of the workers that have it.
    pub holders: Vec<Arc<str>>,
}

impl Table {
    /// Where these paths, and what they refer to, can be had.
    pub fn locate(&self, roots: &[StorePath], depth: Depth) -> Whereabouts {
        let mut found = Whereabouts::default();
        let known: Vec<Id> = roots.iter().filter_map(|path| self.id(path)).collect();
        let order = match depth {
            Depth::Closure => self.in_order(&known),
            Depth::Alone => {
                let mut seen = HashSet::new();
                known.into_iter().filter(|id| seen.insert(*id)).collect()
            }
        };
        for id in order {
            let standing = self.standing_of(id);
            match self.known(id) {
                Some(known) if standing != Standing::Lost => found.places.push(Place {
                    info: Arc::clone(&known.info),
                    standing,
                    holders: known
                        .holders
                        .iter()
                        .map(|holder| Arc::clone(self.holder_name(*holder)))
                        .collect(),
                }),
                _ => found.lost.push(self.path(id).clone()),
            }
        }
        let mut unheard: Vec<_> = roots.iter().filter(|path| self.id(path).is_none()).cloned().collect();
        unheard.sort_unstable();
        unheard.dedup();
        found.lost.extend(unheard);
        found
    }

    /// What is known of these closures, each path after its references. Of what upstream serves, only the path itself.
    pub fn closure(&self, roots: &[StorePath]) -> Vec<&StorePath> {
        let known: Vec<Id> = roots.iter().filter_map(|path| self.id(path)).collect();
        self.in_order(&known).into_iter().map(|id| self.path(id)).collect()
    }

    /// Whether `path` is one of `roots`, or in the closure of one.
    pub fn reaches(&self, roots: &[StorePath], wanted: &HashSet<&StorePath>) -> HashSet<StorePath> {
        let mut reached: HashSet<StorePath> =
            roots.iter().filter(|path| wanted.contains(path)).cloned().collect();
        let mut seen: HashSet<Id> = HashSet::new();
        let mut ahead: Vec<Id> = roots.iter().filter_map(|path| self.id(path)).collect();
        while let Some(id) = ahead.pop() {
            if reached.len() == wanted.len() {
                break;
            }
            if !seen.insert(id) {
                continue;
            }
            let path = self.path(id);
            if wanted.contains(path) {
                reached.insert(path.clone());
            }
            ahead.extend(self.known(id).into_iter().flat_map(|known| &known.references));
        }
        reached
    }

    /// All that [`reaches`](Self::reaches) finds from a path: itself, and its closure as far as it is known.
    pub fn reached(&self, root: &StorePath) -> HashSet<StorePath> {
        let mut seen: HashSet<Id> = HashSet::new();
        let mut ahead: Vec<Id> = self.id(root).into_iter().collect();
        while let Some(id) = ahead.pop() {
            if seen.insert(id) {
                ahead.extend(self.known(id).into_iter().flat_map(|known| &known.references));
            }
        }
        seen.into_iter().map(|id| self.path(id).clone()).chain([root.clone()]).collect()
    }

    /// All that the bytes of a path may name: of a built one the closures of its inputs and the outputs beside it, of
    /// others what they say they refer to. None for a path that is not known.
    pub fn scan_candidates(&self, path: &StorePath) -> Option<Vec<StorePath>> {
        let known = self.known(self.id(path)?)?;
        let Some(execution) = &known.execution else {
            return Some(known.info.references.iter().cloned().collect());
        };
        let mut seen: HashSet<Id> = execution.outputs.iter().copied().collect();
        let mut ahead: Vec<Id> = execution.inputs.clone();
        seen.extend(&known.references);
        ahead.extend(&known.references);
        seen.extend(&ahead);
        while let Some(id) = ahead.pop() {
            for reference in self.known(id).into_iter().flat_map(|known| &known.references) {
                if seen.insert(*reference) {
                    ahead.push(*reference);
                }
            }
        }
        let mut candidates: Vec<StorePath> = seen.into_iter().map(|id| self.path(id).clone()).collect();
        candidates.sort_unstable();
        Some(candidates)
    }

    /// Depth first, with a stack of our own.
    fn in_order(&self, roots: &[Id]) -> Vec<Id> {
        enum Visit {
            Enter(Id),
            Leave(Id),
        }
        let (mut seen, mut order) = (HashSet::new(), Vec::new());
        let mut stack: Vec<Visit> = roots.iter().rev().map(|id| Visit::Enter(*id)).collect();
        while let Some(visit) = stack.pop() {
            let id = match visit {
                Visit::Enter(id) => id,
                Visit::Leave(id) => {
                    order.push(id);
                    continue;
                }
            };
            if !seen.insert(id) {
                continue;
            }
            stack.push(Visit::Leave(id));
            let known = self.known(id).filter(|known| known.origin != Origin::Upstream);
            let references = known.into_iter().flat_map(|known| known.references.iter().rev());
            stack.extend(references.map(|reference| Visit::Enter(*reference)));
        }
        order
    }
}
