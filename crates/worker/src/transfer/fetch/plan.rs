//! Which paths come, in which order, and who gives each. Pure.

use std::collections::{BTreeSet, HashMap};

use fleet_nix::PathInfo;
use fleet_nix::store_path::StorePath;
use fleet_wire::v1;

use super::holders::Trust;
use super::locate::{Located, LocatedPath};
use crate::transfer::manifest_cache::Pieces;

/// So much is asked of one holder before another is asked as well: a connection has its price.
const SHARE: u64 = 64 << 20;

/// A path that is to come.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) info: PathInfo,
    /// Among the plan's holders.
    holders: Vec<usize>,
    /// Where the coordinator has it.
    pub(super) manifest: Option<Pieces>,
}

/// Who gives a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A worker, among the plan's holders.
    Holder(usize),
    Coordinator,
}

/// Paths to come, each after its references.
#[derive(Debug)]
pub(super) struct Plan {
    holders: Vec<v1::Holder>,
    items: Vec<Item>,
}

impl Plan {
    /// Those that no upstream cache serves.
    pub(super) fn new(located: Located) -> Self {
        let items = located.paths.into_iter().filter(|path| !path.upstream).map(|path| Item {
            info: path.info,
            holders: path.holders,
            manifest: path.manifest,
        });
        Self { items: items.collect(), holders: located.holders }
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn holder(&self, number: usize) -> &v1::Holder {
        &self.holders[number]
    }

    /// These are here; those that were not at first have come.
    pub(super) fn drop_valid(&mut self, valid: &BTreeSet<StorePath>) {
        self.items.retain(|item| !valid.contains(&item.info.path));
    }

    /// The first, in their order, that is not among these.
    pub(super) fn first_absent(&self, valid: &BTreeSet<StorePath>) -> Option<usize> {
        self.items.iter().position(|item| !valid.contains(&item.info.path))
    }

    /// Who gives each, from position `from` on: workers before the coordinator, few workers for little, more for much.
    pub(super) fn assign(&self, trust: &Trust, from: usize) -> Vec<Option<Source>> {
        let mut loads = vec![0; self.holders.len()];
        let assigned = self.items[from..].iter().map(|item| {
            let holders = item.holders.iter().copied();
            let usable = holders.filter(|&n| trust.may_give(&self.holders[n].worker, &item.info.path));
            match usable.min_by_key(|&number| loads[number] / SHARE) {
                Some(number) => {
                    loads[number] += item.info.nar_size;
                    Some(Source::Holder(number))
                }
                None => item.manifest.is_some().then_some(Source::Coordinator),
            }
        });
        assigned.collect()
    }

    /// Paths that nobody gives as things are.
    pub(super) fn unserved(&self, trust: &Trust) -> BTreeSet<StorePath> {
        let assigned = self.items.iter().zip(self.assign(trust, 0));
        assigned.filter(|(_, source)| source.is_none()).map(|(item, _)| item.info.path.clone()).collect()
    }

    /// Holders that would be asked, and have not answered yet.
    pub(super) fn unreached(&self, trust: &Trust) -> Vec<&v1::Holder> {
        let numbers = self.assign(trust, 0).into_iter().filter_map(|source| match source {
            Some(Source::Holder(number)) => Some(number),
            _ => None,
        });
        let holders = numbers.collect::<BTreeSet<_>>().into_iter().map(|number| &self.holders[number]);
        holders.filter(|holder| !trust.is_reached(&holder.worker)).collect()
    }

    /// Other places for some of them.
    pub(super) fn relocate(&mut self, located: Located) {
        let first = self.holders.len();
        self.holders.extend(located.holders);
        let mut places: HashMap<StorePath, LocatedPath> =
            located.paths.into_iter().map(|path| (path.info.path.clone(), path)).collect();
        for item in &mut self.items {
            if let Some(place) = places.remove(&item.info.path) {
                item.holders = place.holders.into_iter().map(|number| first + number).collect();
                item.manifest = place.manifest;
                item.info = place.info;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_nix::NarHash;

    fn path(number: u32) -> StorePath {
        format!("{number:0>32}-x").parse().expect("a store path")
    }

    fn located(paths: &[(u32, u64, &[usize], bool)]) -> Located {
        let holder = |name: &str| v1::Holder { worker: name.to_owned(), ..v1::Holder::default() };
        let path = |&(number, nar_size, holders, is_kept): &(u32, u64, &[usize], bool)| LocatedPath {
            info: PathInfo {
                path: path(number),
                deriver: None,
                nar_hash: NarHash::of(b""),
                references: BTreeSet::new(),
                registration_time: 0,
                nar_size,
                ultimate: false,
                signatures: Vec::new(),
                content_address: None,
            },
            holders: holders.to_vec(),
            upstream: number == 6,
            manifest: is_kept.then(|| Vec::new().into()),
        };
        Located {
            holders: vec![holder("a"), holder("b")],
            paths: paths.iter().map(path).collect(),
            lost: BTreeSet::new(),
        }
    }

    #[test]
    fn workers_come_first_and_share_what_is_much() {
        let plan = Plan::new(located(&[
            (1, SHARE / 2, &[0, 1], true),
            (2, SHARE / 2, &[0, 1], false),
            (3, 1, &[0, 1], false),
            (4, 1, &[0], true),
            (5, 1, &[], true),
            (6, 1, &[], false),
        ]));
        assert_eq!(plan.len(), 5, "the daemon fetches what is upstream");
        let trust = Trust::default();
        let expected =
            [Source::Holder(0), Source::Holder(0), Source::Holder(1), Source::Holder(0), Source::Coordinator];
        assert_eq!(plan.assign(&trust, 0), expected.map(Some));
        assert_eq!(plan.unreached(&trust).len(), 2);
        let mut trust = Trust::default();
        trust.give_up("a", "broken".to_owned());
        trust.gone("b", &path(3));
        let expected = [
            Some(Source::Holder(1)),
            Some(Source::Holder(1)),
            None,
            Some(Source::Coordinator),
            Some(Source::Coordinator),
        ];
        assert_eq!(plan.assign(&trust, 0), expected);
        assert_eq!(plan.unserved(&trust), BTreeSet::from([path(3)]));
        assert_eq!(trust.unusable(), ["a", "b"]);
    }

    #[test]
    fn a_path_may_be_found_elsewhere_later() {
        let mut plan = Plan::new(located(&[(1, 1, &[0], false), (2, 1, &[0], false)]));
        plan.relocate(located(&[(2, 1, &[1], true)]));
        let mut trust = Trust::default();
        assert_eq!(plan.assign(&trust, 0), [Some(Source::Holder(0)), Some(Source::Holder(3))]);
        trust.give_up("b", "broken".to_owned());
        assert_eq!(plan.assign(&trust, 1), [Some(Source::Coordinator)]);
        plan.drop_valid(&BTreeSet::from([path(1)]));
        assert_eq!(plan.first_absent(&BTreeSet::new()), Some(0));
        assert_eq!(plan.items()[0].info.path, path(2));
    }
}
