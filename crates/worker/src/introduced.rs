//! Tells the coordinator of what upstream caches and sources made, before a step is reported that may refer to it: else
//! it could not see that an output refers to nothing but what its inputs brought along. Owns what this session has
//! told, so that a step costs no question as a rule.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_nix::PathInfo;
use fleet_nix::daemon::{Daemon, DaemonError};
use fleet_nix::store_path::StorePath;
use fleet_wire::v1;

use crate::context::Context;
use crate::infos::references_first;
use crate::lane::Purpose;
use crate::transfer::{Standing, TransferError, Vouchers};

/// Paths that are remembered; when there are more, all are forgotten and told again.
const MAX_TOLD: usize = 500_000;

/// Paths whose closures this session has told.
#[derive(Debug, Default)]
pub(crate) struct Introduced(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    paths: HashSet<StorePath>,
    /// Outputs that were reported, in whichever session: what has not arrived is said again.
    outputs: HashSet<StorePath>,
    /// Those of them that the coordinator does not believe in.
    refused: HashSet<StorePath>,
}

impl Introduced {
    /// A new session: another coordinator may be there, or one that lost what it was told.
    pub(crate) fn forget_all(&self) {
        let mut told = self.lock();
        told.paths.clear();
        told.refused.clear();
    }

    /// These are reported.
    pub(crate) fn reported<'p>(&self, outputs: impl IntoIterator<Item = &'p StorePath>) {
        let mut told = self.lock();
        if told.outputs.len() > MAX_TOLD {
            told.outputs.clear();
        }
        told.outputs.extend(outputs.into_iter().cloned());
    }

    fn knows(&self, path: &StorePath) -> bool {
        let told = self.lock();
        told.paths.contains(path) || told.outputs.contains(path)
    }

    fn remember(&self, paths: impl Iterator<Item = StorePath>, refused: Vec<StorePath>) {
        let mut told = self.lock();
        if told.paths.len() > MAX_TOLD {
            told.paths.clear();
            told.refused.clear();
        }
        told.paths.extend(paths);
        told.refused.extend(refused);
    }

    /// What `outputs` refer to and the coordinator cannot account for: of `inputs`, which are valid, it knows only what
    /// somebody vouched for. Gives such a reference, and a path behind it that only this machine knows.
    pub(crate) async fn unaccounted(
        &self,
        context: &Context,
        daemon: &mut Daemon,
        inputs: &BTreeSet<StorePath>,
        outputs: &[Arc<PathInfo>],
    ) -> Result<Option<(StorePath, StorePath)>, DaemonError> {
        let refused = self.lock().refused.clone();
        if refused.is_empty() {
            return Ok(None);
        }
        // What only a refused path leads to is not among these.
        let visible =
            context.infos.closure(daemon, inputs.iter().cloned(), |path| refused.contains(path)).await?;
        let mut seen: HashSet<&StorePath> =
            inputs.iter().chain(outputs.iter().map(|info| &info.path)).collect();
        seen.extend(visible.iter().flat_map(|info| &info.references));
        let mut references = outputs.iter().flat_map(|info| &info.references);
        let Some(unseen) = references.find(|path| !seen.contains(path)) else { return Ok(None) };
        let behind = inputs.iter().chain(visible.iter().flat_map(|info| &info.references));
        let behind = behind.into_iter().find(|path| refused.contains(*path));
        Ok(behind.map(|behind| (unseen.clone(), behind.clone())))
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of the closures of `inputs`, which are valid and rooted, as far as this session has not and the coordinator
/// knows nothing of them.
pub(crate) async fn introduce(
    context: &Context,
    inputs: &BTreeSet<StorePath>,
    right: v1::WorkRight,
) -> Result<(), TransferError> {
    let introduced = &context.introduced;
    let fresh: Vec<StorePath> = inputs.iter().filter(|path| !introduced.knows(path)).cloned().collect();
    if fresh.is_empty() {
        return Ok(());
    }
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    let closure = context.infos.closure(&mut lane.daemon, fresh, |path| introduced.knows(path)).await?;
    context.lanes.give_back(lane);
    let standings = context.transfer.look(closure.iter().map(|info| &info.path)).await?;
    let is_unknown = |info: &&Arc<PathInfo>| standings.get(&info.path) == Some(&Standing::Unknown);
    let vouchers = Vouchers::of(&context.presence.welcome());
    let (believed, mut refused): (Vec<_>, Vec<_>) = references_first(closure.clone())
        .into_iter()
        .filter(|info| is_unknown(&info))
        .partition(|info| vouchers.vouch_for(&context.store_dir, info));
    if !believed.is_empty() {
        let answers = context.transfer.vouch(&believed, right).await?;
        refused
            .extend(believed.into_iter().filter(|info| answers.get(&info.path) == Some(&Standing::Unknown)));
    }
    if let Some(first) = refused.first() {
        let (first, count) = (&first.path, refused.len());
        tracing::debug!(%first, count, "no upstream cache signed what inputs refer to");
    }
    let refused = refused.into_iter().map(|info| info.path.clone()).collect();
    introduced.remember(closure.into_iter().map(|info| info.path.clone()), refused);
    Ok(())
}
