//! What a target needs where other machines build it. That a path is valid here is no evidence: it counts as there only
//! when the coordinator knows who has it, or a substituter serves it. What is valid here, needed, and nowhere else, is
//! shared if its content or an upstream cache says what it is; otherwise it is built, or found built, under a lease.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fleet_nix::daemon::Substitute;
use fleet_nix::proxy::StoreProxy;
use fleet_nix::store_path::{OutputName, StorePath};
use fleet_nix::{DerivedPath, PathInfo};
use fleet_wire::v1;

use super::{Asker, PlanError, Planner};
use crate::infos::references_first;
use crate::transfer::{Standing, Vouchers};

/// What is to be done about a target.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// Derivations to be built.
    pub(super) wanted: BTreeSet<StorePath>,
    /// Valid here and nowhere else, with what they refer to; the coordinator knows what they are.
    pub(super) here: BTreeMap<StorePath, Arc<PathInfo>>,
    /// Of what it needs at once, how much a substituter serves that was not counted before.
    pub(super) substitutable_new: u32,
}

/// Where a path can be had.
#[derive(Clone, Debug)]
enum Place {
    Elsewhere,
    Here(Arc<PathInfo>),
    /// Valid here, and nobody else would believe it.
    LocalOnly,
    Nowhere,
}

type Places = HashMap<StorePath, Place>;

impl Planner {
    /// Walks from the toplevel down, level by level, and stops at what can be had.
    pub(super) async fn needed(
        &mut self,
        asker: Asker<'_>,
        toplevel: (StorePath, OutputName),
    ) -> Result<Needed, PlanError> {
        let proxy = &asker.context.proxy;
        let mut needed = Needed::default();
        let counted = self.counted.len();
        let (mut sources, mut valid) = (BTreeSet::new(), Vec::new());
        let mut seen = BTreeSet::from([toplevel]);
        let mut level = seen.clone();
        while !level.is_empty() {
            let mut outputs = Vec::with_capacity(level.len());
            for (drv, name) in level {
                let path = self.find_output(proxy, &drv, &name).await?;
                outputs.push((drv, path));
            }
            let paths = outputs.iter().filter_map(|(_, path)| path.clone()).collect();
            let places = self.places(asker, paths).await?;
            level = BTreeSet::new();
            for (drv, path) in outputs {
                match path.as_ref().map_or(&Place::Nowhere, |path| &places[path]) {
                    Place::Elsewhere => {}
                    Place::Here(info) => valid.push((drv, info.clone())),
                    _ if !needed.wanted.insert(drv.clone()) => {}
                    Place::LocalOnly | Place::Nowhere => {
                        let known = self.know(proxy, &drv).await?;
                        sources.extend(known.sources.iter().cloned());
                        level.extend(
                            known.inputs.iter().filter(|input| seen.insert((*input).clone())).cloned(),
                        );
                    }
                }
            }
        }
        // Of what is built anyway, all outputs are.
        let valid = valid.into_iter().filter(|(drv, _)| !needed.wanted.contains(drv));
        needed.here.extend(valid.map(|(_, info)| (info.path.clone(), info)));
        self.add_sources(asker, sources, &mut needed.here).await?;
        needed.substitutable_new = u32::try_from(self.counted.len() - counted).unwrap_or(u32::MAX);
        Ok(needed)
    }

    /// What a builder reads that no derivation makes, and what all of it refers to: a path is of no use without that.
    async fn add_sources(
        &mut self,
        asker: Asker<'_>,
        sources: BTreeSet<StorePath>,
        here: &mut BTreeMap<StorePath, Arc<PathInfo>>,
    ) -> Result<(), PlanError> {
        let referred = here.values().flat_map(|info| &info.references).cloned();
        let mut level: BTreeSet<StorePath> = sources.into_iter().chain(referred).collect();
        loop {
            level.retain(|path| !here.contains_key(path));
            if level.is_empty() {
                return Ok(());
            }
            let mut references = BTreeSet::new();
            for (path, place) in self.places(asker, level).await? {
                match place {
                    Place::Elsewhere => {}
                    Place::Here(info) => {
                        references.extend(info.references.iter().cloned());
                        here.insert(path, info);
                    }
                    Place::LocalOnly => return Err(PlanError::LocalOnly(self.store_dir.print(&path))),
                    Place::Nowhere => return Err(PlanError::Vanished(self.store_dir.print(&path))),
                }
            }
            level = references;
        }
    }

    async fn places(&mut self, asker: Asker<'_>, paths: BTreeSet<StorePath>) -> Result<Places, PlanError> {
        let mut places = Places::with_capacity(paths.len());
        let mut open = paths;
        let known: BTreeSet<StorePath> = open.intersection(&self.elsewhere).cloned().collect();
        settle(&mut open, &mut places, known);
        if open.is_empty() {
            return Ok(places);
        }
        let standings = asker.context.transfer.look(&open).await?;
        let had = standings.into_iter().filter(|(_, standing)| is_elsewhere(*standing));
        let had: BTreeSet<StorePath> = had.map(|(path, _)| path).collect();
        self.elsewhere.extend(had.iter().cloned());
        settle(&mut open, &mut places, had);
        let served = self.daemon.query_substitutable_paths(&open).await?;
        self.count_served(&served);
        settle(&mut open, &mut places, served);
        self.daemon.add_temp_roots(&open).await?;
        let valid = self.daemon.query_valid_paths(&open, Substitute::No).await?;
        open.retain(|path| !valid.contains(path));
        self.place_valid(asker, &valid, &mut places).await?;
        // Substituters that do not want to be asked for many paths at once are asked here.
        let goals: Vec<_> = open.iter().cloned().map(DerivedPath::Opaque).collect();
        if !goals.is_empty() {
            let missing = self.daemon.query_missing(&goals).await?;
            let served = missing.will_substitute.intersection(&open).cloned().collect();
            self.count_served(&served);
            settle(&mut open, &mut places, served);
        }
        places.extend(open.into_iter().map(|path| (path, Place::Nowhere)));
        Ok(places)
    }

    /// What is valid here and nobody else has: the coordinator is told of what it will believe.
    async fn place_valid(
        &mut self,
        asker: Asker<'_>,
        valid: &BTreeSet<StorePath>,
        places: &mut Places,
    ) -> Result<(), PlanError> {
        let Asker { context, job: (job, epoch) } = asker;
        let vouchers = Vouchers::of(&context.presence.welcome());
        let mut believed = Vec::new();
        for (path, info) in valid.iter().zip(self.daemon.query_path_infos(valid).await?) {
            match info {
                Some(info) if vouchers.vouch_for(&self.store_dir, &info) => believed.push(Arc::new(info)),
                _ => _ = places.insert(path.clone(), Place::LocalOnly),
            }
        }
        if believed.is_empty() {
            return Ok(());
        }
        let right = v1::WorkRight { eval_job: job, epoch, ..v1::WorkRight::default() };
        let believed = references_first(believed);
        let standings = context.transfer.vouch(&believed, right).await?;
        for info in believed {
            let place = match standings.get(&info.path) {
                Some(Standing::Upstream | Standing::Kept) => Place::Elsewhere,
                Some(Standing::Held | Standing::Lost) => Place::Here(info.clone()),
                _ => Place::LocalOnly,
            };
            places.insert(info.path.clone(), place);
        }
        Ok(())
    }

    fn count_served(&mut self, served: &BTreeSet<StorePath>) {
        self.elsewhere.extend(served.iter().cloned());
        self.counted.extend(served.iter().cloned());
    }

    /// Where an output will be, if that is known already.
    async fn find_output(
        &mut self,
        proxy: &StoreProxy,
        drv: &StorePath,
        name: &OutputName,
    ) -> Result<Option<StorePath>, PlanError> {
        match self.output(proxy, drv, name).await {
            Ok(path) => Ok(Some(path)),
            Err(PlanError::NoOutput { .. }) if self.know(proxy, drv).await?.outputs.contains_key(name) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Others can have it.
fn is_elsewhere(standing: Standing) -> bool {
    matches!(standing, Standing::Held | Standing::Kept | Standing::Upstream)
}

/// Of these no more is asked: they can be had elsewhere.
fn settle(open: &mut BTreeSet<StorePath>, places: &mut Places, found: BTreeSet<StorePath>) {
    open.retain(|path| !found.contains(path));
    places.extend(found.into_iter().map(|path| (path, Place::Elsewhere)));
}
