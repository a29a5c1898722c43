//! Makes a target's toplevel valid and rooted, tells the path infos of its closure, and publishes it when asked: what
//! the coordinator lacks of it is brought there.

use std::sync::Arc;

use fleet_nix::PathInfo;
use fleet_nix::daemon::{DaemonError, Substitute};
use fleet_nix::store_path::{StorePath, StorePathError};
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;

use crate::context::{Context, Outbox, failure};
use crate::infos::to_wire;
use crate::lane::Purpose;
use crate::transfer::{self, TransferError};

/// Path infos in one message.
const INFOS_PER_MESSAGE: usize = 256;
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
    #[error("the toplevel is here, and its closure cannot be published")]
    Publish(#[source] TransferError),
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
    let missing = match &realised {
        Err(RealiseError::Transfer(TransferError::Lost(paths))) => {
            paths.iter().map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    };
    let failure = realised.err().map(|error| failure("infrastructure", &error));
    let done =
        v1::PathsRealised { job: job.job, epoch: job.epoch, infos: Vec::new(), done: true, failure, missing };
    outbox.send(Message::PathsRealised(done)).await;
}

async fn realise(context: &Context, outbox: &Outbox, job: &v1::Realise) -> Result<(), RealiseError> {
    let path: StorePath = job.path.parse()?;
    let right = v1::WorkRight { realise_job: job.job, epoch: job.epoch, ..v1::WorkRight::default() };
    let _guard = context.roots.guard([&path]).await?;
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    let wanted = std::iter::once(path.clone()).collect();
    if lane.daemon.query_valid_paths(&wanted, Substitute::No).await?.is_empty() {
        transfer::make_valid(context, &wanted, right).await?;
    }
    let is_published = job.publish && context.relays();
    if !job.closure && !is_published {
        context.lanes.give_back(lane);
        return Ok(());
    }
    let closure = context.infos.closure(&mut lane.daemon, [path], |_| false).await.map_err(|error| {
        let dangling = |path: &StorePath| RealiseError::Dangling(context.store_dir.print(path));
        if let DaemonError::NotValid(path) = &error { dangling(path) } else { error.into() }
    })?;
    context.lanes.give_back(lane);
    if job.closure {
        for infos in closure.chunks(INFOS_PER_MESSAGE) {
            tell(context, outbox, job, infos).await;
        }
    }
    if is_published {
        transfer::publish(context, closure, right).await.map_err(RealiseError::Publish)?;
    }
    Ok(())
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
