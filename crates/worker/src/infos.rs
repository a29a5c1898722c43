//! What the local store says of paths: asked once for paths that are valid and rooted, and told as the wire has it.
//! Owns a bounded memory of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_nix::PathInfo;
use fleet_nix::daemon::{Daemon, DaemonError};
use fleet_nix::store_path::StorePath;
use fleet_wire::v1;

/// Path infos that are remembered; when there are more, all are forgotten and asked for again.
const MAX_INFOS: usize = 200_000;

/// Path infos of valid, rooted paths: they do not change.
#[derive(Debug, Default)]
pub(crate) struct Infos(Mutex<HashMap<StorePath, Arc<PathInfo>>>);

impl Infos {
    /// As the store has them now, in the order of the paths, which must be valid: for what was made just now.
    pub(crate) async fn fresh<'p>(
        &self,
        daemon: &mut Daemon,
        paths: impl IntoIterator<Item = &'p StorePath>,
    ) -> Result<Vec<Arc<PathInfo>>, DaemonError> {
        let paths: Vec<&StorePath> = paths.into_iter().collect();
        let asked = daemon.query_path_infos(paths.iter().copied()).await?;
        let mut infos = Vec::with_capacity(asked.len());
        for (path, info) in paths.into_iter().zip(asked) {
            infos.push(Arc::new(info.ok_or_else(|| DaemonError::NotValid(path.clone()))?));
        }
        let mut known = self.lock();
        if known.len() + infos.len() > MAX_INFOS {
            known.clear();
        }
        known.extend(infos.iter().map(|info| (info.path.clone(), info.clone())));
        Ok(infos)
    }

    /// Of everything reachable from `roots`, which are valid and rooted: asked level by level, each path once. What
    /// `is_known` says of a path's whole closure is left out with it.
    pub(crate) async fn closure(
        &self,
        daemon: &mut Daemon,
        roots: impl IntoIterator<Item = StorePath>,
        is_known: impl Fn(&StorePath) -> bool,
    ) -> Result<Vec<Arc<PathInfo>>, DaemonError> {
        let mut level: BTreeSet<StorePath> = roots.into_iter().filter(|path| !is_known(path)).collect();
        let mut seen: HashSet<StorePath> = level.iter().cloned().collect();
        let mut closure = Vec::new();
        while !level.is_empty() {
            let (mut known, mut unknown) = (Vec::new(), Vec::new());
            {
                let remembered = self.lock();
                for path in &level {
                    match remembered.get(path) {
                        Some(info) => known.push(info.clone()),
                        None => unknown.push(path.clone()),
                    }
                }
            }
            known.extend(self.fresh(daemon, &unknown).await?);
            level = BTreeSet::new();
            for reference in known.iter().flat_map(|info| &info.references) {
                if !is_known(reference) && seen.insert(reference.clone()) {
                    level.insert(reference.clone());
                }
            }
            closure.extend(known);
        }
        Ok(closure)
    }

    /// What is not valid any more may come back as something else.
    pub(crate) fn forget_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StorePath, Arc<PathInfo>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A path info as the wire has it.
pub(crate) fn to_wire(info: &PathInfo) -> v1::PathInfo {
    v1::PathInfo {
        path: info.path.to_string(),
        nar_hash: info.nar_hash.0.to_vec().into(),
        nar_size: info.nar_size,
        references: info.references.iter().map(ToString::to_string).collect(),
        deriver: info.deriver.as_ref().map(ToString::to_string).unwrap_or_default(),
        content_address: info.content_address.as_ref().map(ToString::to_string).unwrap_or_default(),
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        ..v1::PathInfo::default()
    }
}

/// Each after what it refers to. Depth first, with a stack of our own: chains are long.
pub(crate) fn references_first(infos: Vec<Arc<PathInfo>>) -> Vec<Arc<PathInfo>> {
    let mut infos: HashMap<StorePath, Arc<PathInfo>> =
        infos.into_iter().map(|info| (info.path.clone(), info)).collect();
    let mut ordered = Vec::with_capacity(infos.len());
    let mut entered = HashSet::new();
    let mut stack: Vec<StorePath> = infos.keys().cloned().collect();
    stack.sort_unstable();
    while let Some(path) = stack.last().cloned() {
        let Some(info) = infos.get(&path) else {
            stack.pop();
            continue;
        };
        if entered.insert(path.clone()) {
            stack.extend(info.references.iter().filter(|reference| infos.contains_key(*reference)).cloned());
        } else {
            stack.pop();
            ordered.extend(infos.remove(&path));
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_nix::NarHash;

    fn info(number: u32, references: &[u32]) -> Arc<PathInfo> {
        Arc::new(PathInfo {
            path: path(number),
            deriver: None,
            nar_hash: NarHash::of(b""),
            references: references.iter().map(|number| path(*number)).collect(),
            registration_time: 0,
            nar_size: 1,
            ultimate: false,
            signatures: Vec::new(),
            content_address: None,
        })
    }

    fn path(number: u32) -> StorePath {
        format!("{number:0>32}-x").parse().expect("a store path")
    }

    #[test]
    fn references_come_first_and_those_to_itself_or_elsewhere_do_not_matter() {
        let ordered =
            references_first(vec![info(1, &[1, 2, 9]), info(2, &[3]), info(3, &[]), info(4, &[1, 3])]);
        let at = |number| ordered.iter().position(|info| info.path == path(number)).expect("it is there");
        assert_eq!(ordered.len(), 4);
        assert!(at(3) < at(2) && at(2) < at(1) && at(1) < at(4));
    }

    #[test]
    fn a_deep_chain_is_no_recursion() {
        let ordered = references_first((0..100_000).map(|number| info(number, &[number + 1])).collect());
        assert_eq!(ordered.first().map(|info| info.path.clone()), Some(path(99_999)));
    }
}
