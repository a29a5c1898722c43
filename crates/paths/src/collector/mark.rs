//! Which paths lead where. No recursion: closures are deep.

use std::collections::{HashMap, HashSet};

use fleet_nix::StorePath;

use super::KeptPath;

/// Paths that are here, and what each refers to.
pub(super) struct Graph<'a> {
    kept: &'a [KeptPath],
    index: HashMap<&'a StorePath, usize>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(kept: &'a [KeptPath]) -> Self {
        let index = kept.iter().enumerate().map(|(at, kept)| (&kept.path, at)).collect();
        Self { kept, index }
    }

    /// Where these are, as far as they are here.
    pub(super) fn places<'r>(&self, paths: impl Iterator<Item = &'r StorePath>) -> Vec<usize> {
        paths.filter_map(|path| self.index.get(path).copied()).collect()
    }

    /// All that these lead to.
    pub(super) fn closure(&self, roots: Vec<usize>) -> HashSet<&'a StorePath> {
        let (mut reached, mut ahead) = (HashSet::new(), roots);
        while let Some(at) = ahead.pop() {
            if reached.insert(&self.kept[at].path) {
                ahead.extend(self.references(at));
            }
        }
        reached
    }

    /// Of `unneeded`, those that are due and to which no other refers that is not: the last to go first.
    pub(super) fn going(
        &self,
        unneeded: &HashSet<&'a StorePath>,
        due: impl Fn(&StorePath) -> bool,
    ) -> Vec<StorePath> {
        let mut going = self.references_first(unneeded);
        let mut wanted: HashSet<usize> = HashSet::new();
        // Users before what they refer to.
        for at in going.iter().rev() {
            if wanted.contains(at) || !due(&self.kept[*at].path) {
                wanted.insert(*at);
                wanted.extend(self.references(*at));
            }
        }
        going.retain(|at| !wanted.contains(at));
        going.into_iter().map(|at| self.kept[at].path.clone()).collect()
    }

    fn references_first(&self, among: &HashSet<&'a StorePath>) -> Vec<usize> {
        enum Visit {
            Enter(usize),
            Leave(usize),
        }
        let (mut seen, mut order) = (HashSet::new(), Vec::new());
        let mut stack: Vec<Visit> = self
            .kept
            .iter()
            .enumerate()
            .filter(|(_, kept)| among.contains(&kept.path))
            .map(|(at, _)| Visit::Enter(at))
            .collect();
        while let Some(visit) = stack.pop() {
            match visit {
                Visit::Leave(at) => order.push(at),
                Visit::Enter(at) if seen.insert(at) => {
                    stack.push(Visit::Leave(at));
                    let inside = self.references(at).filter(|next| among.contains(&self.kept[*next].path));
                    stack.extend(inside.map(Visit::Enter));
                }
                Visit::Enter(_) => {}
            }
        }
        order
    }

    fn references(&self, at: usize) -> impl Iterator<Item = usize> {
        self.kept[at].references.iter().filter_map(|path| self.index.get(path).copied())
    }
}
