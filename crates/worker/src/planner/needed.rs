//! What a target needs where other machines build it. That a path is valid here is no evidence: it counts as there
//! only when a substituter serves it or the coordinator keeps it. What is valid here, needed, and nowhere else, is
//! to be shared rather than built again.

use std::collections::{BTreeSet, HashMap};

use fleet_nix::DerivedPath;
use fleet_nix::daemon::Substitute;
use fleet_nix::proxy::StoreProxy;
use fleet_nix::store_path::{OutputName, StorePath};

use super::{PlanError, Planner};
use crate::transfer::Transfer;

/// What is to be done about a target.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// Derivations to be built.
    pub(super) wanted: BTreeSet<StorePath>,
    /// Valid here and nowhere else, with what they refer to.
    pub(super) here: BTreeSet<StorePath>,
    /// Of what it needs at once, how much a substituter serves that was not counted before.
    pub(super) substitutable_new: u32,
}

/// Where a path can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Elsewhere,
    Here,
    Nowhere,
}

type Places = HashMap<StorePath, Place>;

impl Planner {
    /// Walks from the toplevel down, level by level, and stops at what can be had.
    pub(super) async fn needed(
        &mut self,
        proxy: &StoreProxy,
        transfer: &Transfer,
        toplevel: (StorePath, OutputName),
    ) -> Result<Needed, PlanError> {
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
            let places = self.places(transfer, paths).await?;
            level = BTreeSet::new();
            for (drv, path) in outputs {
                let place = path.as_ref().map_or(Place::Nowhere, |path| places[path]);
                match (place, path) {
                    (Place::Elsewhere, _) => {}
                    (Place::Here, Some(path)) => valid.push((drv, path)),
                    _ if !needed.wanted.insert(drv.clone()) => {}
                    _ => {
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
        needed
            .here
            .extend(valid.into_iter().filter(|(drv, _)| !needed.wanted.contains(drv)).map(|(_, path)| path));
        self.add_sources(transfer, sources, &mut needed.here).await?;
        self.add_references(transfer, &mut needed.here).await?;
        needed.substitutable_new = u32::try_from(self.counted.len() - counted).unwrap_or(u32::MAX);
        Ok(needed)
    }

    /// What a builder reads that no derivation makes.
    async fn add_sources(
        &mut self,
        transfer: &Transfer,
        sources: BTreeSet<StorePath>,
        here: &mut BTreeSet<StorePath>,
    ) -> Result<(), PlanError> {
        for (source, place) in self.places(transfer, sources).await? {
            match place {
                Place::Elsewhere => {}
                Place::Here => _ = here.insert(source),
                Place::Nowhere => return Err(PlanError::Vanished(self.store_dir.print(&source))),
            }
        }
        Ok(())
    }

    /// A path is of no use without what it refers to.
    async fn add_references(
        &mut self,
        transfer: &Transfer,
        here: &mut BTreeSet<StorePath>,
    ) -> Result<(), PlanError> {
        let mut level = here.clone();
        while !level.is_empty() {
            let infos = self.daemon.query_path_infos(&level).await?;
            let references = infos.into_iter().flatten().flat_map(|info| info.references);
            let references = references.filter(|path| !here.contains(path)).collect();
            let places = self.places(transfer, references).await?;
            level =
                places.into_iter().filter(|(_, place)| *place == Place::Here).map(|(path, _)| path).collect();
            here.extend(level.iter().cloned());
        }
        Ok(())
    }

    async fn places(&mut self, transfer: &Transfer, paths: BTreeSet<StorePath>) -> Result<Places, PlanError> {
        let mut places = Places::with_capacity(paths.len());
        let mut open = paths;
        let settle =
            |open: &mut BTreeSet<StorePath>, places: &mut Places, found: BTreeSet<StorePath>, place| {
                open.retain(|path| !found.contains(path));
                places.extend(found.into_iter().map(|path| (path, place)));
            };
        let known = open.intersection(&self.elsewhere).cloned().collect();
        settle(&mut open, &mut places, known, Place::Elsewhere);
        if open.is_empty() {
            return Ok(places);
        }
        let stored = transfer.stored(&open).await?;
        self.elsewhere.extend(stored.iter().cloned());
        settle(&mut open, &mut places, stored, Place::Elsewhere);
        let served = self.daemon.query_substitutable_paths(&open).await?;
        self.count_served(&served);
        settle(&mut open, &mut places, served, Place::Elsewhere);
        self.daemon.add_temp_roots(&open).await?;
        let valid = self.daemon.query_valid_paths(&open, Substitute::No).await?;
        settle(&mut open, &mut places, valid, Place::Here);
        // Substituters that do not want to be asked for many paths at once are asked here.
        let goals: Vec<_> = open.iter().cloned().map(DerivedPath::Opaque).collect();
        if !goals.is_empty() {
            let missing = self.daemon.query_missing(&goals).await?;
            let served = missing.will_substitute.intersection(&open).cloned().collect();
            self.count_served(&served);
            settle(&mut open, &mut places, served, Place::Elsewhere);
        }
        settle(&mut BTreeSet::new(), &mut places, open, Place::Nowhere);
        Ok(places)
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
