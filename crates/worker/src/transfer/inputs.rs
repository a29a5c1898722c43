//! Paths that a job needs, into the local store: what the fleet has comes from those who have it, the rest from the
//! daemon's substituters.

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_nix::DerivedPath;
use fleet_nix::daemon::{Daemon, DaemonError, Substitute, ignore};
use fleet_nix::store_path::StorePath;
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;

use super::fetch::{FetchError, Fetched, Located};
use super::{Patience, TransferError, store_path};
use crate::context::Context;
use crate::lane::Purpose;

/// Paths in one message.
const TOLD_TOGETHER: usize = 4096;

/// How soon something is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Now,
    /// Perhaps, and later: one at a time, beside what is needed now.
    Perhaps,
}

/// Makes `paths` valid, with all they refer to, by the right of a lease or job that needs them. They must be rooted.
pub(crate) async fn make_valid(
    context: &Context,
    paths: &BTreeSet<StorePath>,
    right: v1::WorkRight,
) -> Result<(), TransferError> {
    let mut patience = Patience::default();
    loop {
        let Err(error) = bring(context, paths, right, Need::Now).await else { return Ok(()) };
        if matches!(error, TransferError::Daemon(_)) {
            context.lanes.forget_idle();
        }
        patience.after(error).await?;
    }
}

/// Brings what a step needs that will probably be leased to us. Ends quietly: the lease brings what is lacking then.
pub(crate) async fn prefetch(context: Arc<Context>, order: v1::Prefetch) {
    let inputs: Result<BTreeSet<StorePath>, _> = order.inputs.iter().map(|path| store_path(path)).collect();
    let (Ok(inputs), Some(right)) = (inputs, order.right) else {
        tracing::debug!(drv = order.drv, "a hint that cannot be read");
        return;
    };
    let brought = async {
        context.roots.hold(&inputs).await?;
        bring(&context, &inputs, right, Need::Perhaps).await
    };
    if let Err(error) = brought.await {
        tracing::debug!(
            drv = order.drv,
            error = &error as &dyn std::error::Error,
            "inputs were not brought early"
        );
    }
}

async fn bring(
    context: &Context,
    paths: &BTreeSet<StorePath>,
    right: v1::WorkRight,
    need: Need,
) -> Result<(), TransferError> {
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    let absent = absent(&mut lane.daemon, paths).await?;
    if absent.is_empty() || !context.relays() {
        substitute(context, &mut lane.daemon, absent, &BTreeSet::new()).await?;
        context.lanes.give_back(lane);
        return Ok(());
    }
    let located = context.transfer.fetcher.locate(right, &absent).await.map_err(of_fetch)?;
    let ours = located.paths.iter().filter(|path| !path.upstream);
    let ours: BTreeSet<StorePath> = ours.map(|path| path.info.path.clone()).collect();
    let references =
        located.paths.iter().filter(|path| !path.upstream).flat_map(|path| &path.info.references);
    let others: BTreeSet<StorePath> =
        references.cloned().chain(absent).filter(|reference| !ours.contains(reference)).collect();
    context.roots.hold(ours.iter().chain(&others)).await?;
    let others = self::absent(&mut lane.daemon, &others).await?;
    substitute(context, &mut lane.daemon, others, &located.lost).await?;
    context.lanes.give_back(lane);
    import(context, ours, located, right, need).await
}

async fn absent(
    daemon: &mut Daemon,
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, DaemonError> {
    let valid = daemon.query_valid_paths(paths, Substitute::No).await?;
    Ok(paths.difference(&valid).cloned().collect())
}

/// Those of `lost` that no substituter has either are lost.
async fn substitute(
    context: &Context,
    daemon: &mut Daemon,
    absent: BTreeSet<StorePath>,
    lost: &BTreeSet<StorePath>,
) -> Result<(), TransferError> {
    if absent.is_empty() {
        return Ok(());
    }
    let absent: Vec<_> = absent.into_iter().map(DerivedPath::Opaque).collect();
    let results = daemon.build_paths_with_results(&absent, &mut ignore).await?;
    let failed = results.into_iter().filter(|(_, result)| !result.status.is_success());
    let failed = failed.map(|(path, result)| {
        let (DerivedPath::Opaque(path) | DerivedPath::Built { drv: path, .. }) = path;
        (path, result.error_message)
    });
    let failed: Vec<(StorePath, String)> = failed.collect();
    let gone: BTreeSet<StorePath> =
        failed.iter().map(|(path, _)| path).filter(|path| lost.contains(*path)).cloned().collect();
    match failed.into_iter().next() {
        None => Ok(()),
        Some(_) if !gone.is_empty() => Err(TransferError::Lost(gone)),
        Some((path, cause)) => {
            Err(TransferError::InputMissing { path: context.store_dir.print(&path), cause })
        }
    }
}

/// Imports what is absent. What came before a fault stays.
async fn import(
    context: &Context,
    names: BTreeSet<StorePath>,
    located: Located,
    right: v1::WorkRight,
    need: Need,
) -> Result<(), TransferError> {
    if names.is_empty() {
        return Ok(());
    }
    let transfer = &context.transfer;
    let _claim = transfer.fetching.take(names).await;
    let permits = match need {
        Need::Now => &transfer.fetches,
        Need::Perhaps => &transfer.prefetches,
    };
    let _permit = permits.acquire().await.map_err(|_| TransferError::Interrupted)?;
    let fetched = transfer.fetcher.import(right, located).await.map_err(of_fetch)?;
    tell(context, &fetched);
    Ok(())
}

/// Others may have it from here.
fn tell(context: &Context, fetched: &Fetched) {
    if fetched.paths.is_empty() {
        return;
    }
    tracing::debug!(
        paths = fetched.paths.len(),
        from_peers = fetched.from_peers,
        from_coordinator = fetched.from_coordinator,
        from_here = fetched.from_here,
        "inputs have come"
    );
    for paths in fetched.paths.chunks(TOLD_TOGETHER) {
        let paths = paths.iter().map(ToString::to_string).collect();
        context.presence.mention(Message::PathsHeld(v1::PathsHeld { paths }));
    }
}

/// Whoever has no right to the paths any more has lost the lease or job.
fn of_fetch(error: FetchError) -> TransferError {
    match error {
        FetchError::Coordinator(status) if status.code() == tonic::Code::Aborted => {
            TransferError::Void(status)
        }
        other => other.into(),
    }
}
