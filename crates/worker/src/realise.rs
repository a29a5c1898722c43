//! Makes a target's toplevel valid and rooted, and tells the path infos of its closure.

use std::collections::HashSet;
use std::sync::Arc;

use fleet_nix::PathInfo;
use fleet_nix::daemon::{Daemon, DaemonError, Substitute};
use fleet_nix::store_path::{StorePath, StorePathError};
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;

use crate::context::{Context, Outbox, failure};
use crate::lane::Purpose;
use crate::transfer::{self, TransferError};

/// Path infos in one message.
const INFOS_PER_MESSAGE: usize = 256;
/// Path infos that are remembered; when there are more, all are forgotten and asked for again.
const MAX_INFOS: usize = 200_000;
/// Runs whose told paths are remembered.
const MAX_RUNS: usize = 64;

#[derive(Debug, Error)]
enum RealiseError {
    #[error("the toplevel has a bad store path")]
    Path(#[from] StorePathError),
    #[error("the Nix daemon failed")]
    Daemon(#[from] DaemonError),
    #[error("the toplevel is not here and cannot be brought")]
    Transfer(#[from] TransferError),
    #[error("{0} is referred to but not valid: the store is damaged; `nix store verify --all` says where")]
    Dangling(String),
}

/// Runs a realise job to its end and reports it.
pub(crate) async fn run(context: Arc<Context>, outbox: Outbox, job: v1::Realise) {
    let realised = realise(&context, &outbox, &job).await;
    if let Err(RealiseError::Daemon(error)) = &realised
        && error.remote().is_none()
    {
        context.lanes.forget_idle();
    }
    let failure = realised.err().map(|error| failure("infrastructure", &error));
    let done = v1::PathsRealised {
        job: job.job,
        epoch: job.epoch,
        infos: Vec::new(),
        done: true,
        failure,
        missing: Vec::new(),
    };
    outbox.send(Message::PathsRealised(done)).await;
}

async fn realise(context: &Context, outbox: &Outbox, job: &v1::Realise) -> Result<(), RealiseError> {
    let path: StorePath = job.path.parse()?;
    context.roots.hold([&path]).await?;
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    let wanted = std::iter::once(path.clone()).collect();
    if lane.daemon.query_valid_paths(&wanted, Substitute::No).await?.is_empty() {
        let right = v1::WorkRight { realise_job: job.job, epoch: job.epoch, ..v1::WorkRight::default() };
        transfer::make_valid(context, &wanted, right).await?;
    }
    if job.closure {
        for info in closure(context, &mut lane.daemon, &path).await?.chunks(INFOS_PER_MESSAGE) {
            tell(context, outbox, job, info).await;
        }
    }
    context.lanes.give_back(lane);
    Ok(())
}

/// Path infos of everything reachable from `root`, which is rooted: asked level by level, each path once.
async fn closure(
    context: &Context,
    daemon: &mut Daemon,
    root: &StorePath,
) -> Result<Vec<Arc<PathInfo>>, RealiseError> {
    let mut infos = context.infos.lock().await;
    if infos.len() > MAX_INFOS {
        infos.clear();
    }
    let mut seen = HashSet::from([root.clone()]);
    let mut level = vec![root.clone()];
    let mut closure = Vec::new();
    while !level.is_empty() {
        let unknown: Vec<_> = level.iter().filter(|path| !infos.contains_key(*path)).collect();
        let asked = daemon.query_path_infos(unknown.iter().copied()).await?;
        for (path, info) in unknown.into_iter().zip(asked) {
            let info = info.ok_or_else(|| RealiseError::Dangling(context.store_dir.print(path)))?;
            infos.insert(path.clone(), Arc::new(info));
        }
        let known: Vec<_> = level.iter().map(|path| infos[path].clone()).collect();
        let references = known.iter().flat_map(|info| &info.references);
        level = references.filter(|path| seen.insert((*path).clone())).cloned().collect();
        closure.extend(known);
    }
    Ok(closure)
}

/// Sends those of `infos` that the run has not been told.
async fn tell(context: &Context, outbox: &Outbox, job: &v1::Realise, infos: &[Arc<PathInfo>]) {
    let fresh: Vec<_> = {
        let mut runs = context.told.lock().await;
        if runs.len() >= MAX_RUNS && !runs.contains_key(&job.run) {
            runs.clear();
        }
        let told = runs.entry(job.run.clone()).or_default();
        infos.iter().filter(|info| told.insert(info.path.clone())).map(|info| to_wire(info)).collect()
    };
    if !fresh.is_empty() {
        let message = v1::PathsRealised {
            job: job.job,
            epoch: job.epoch,
            infos: fresh,
            done: false,
            failure: None,
            missing: Vec::new(),
        };
        outbox.send(Message::PathsRealised(message)).await;
    }
}

fn to_wire(info: &PathInfo) -> v1::PathInfo {
    v1::PathInfo {
        path: info.path.to_string(),
        nar_hash: info.nar_hash.0.to_vec().into(),
        nar_size: info.nar_size,
        references: info.references.iter().map(ToString::to_string).collect(),
        deriver: info.deriver.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..v1::PathInfo::default()
    }
}
