//! Makes a target's toplevel valid and rooted, and tells the path infos of its closure.

use std::collections::HashSet;
use std::sync::Arc;

use fleet_nix::daemon::{Daemon, DaemonError, Substitute};
use fleet_nix::store_path::{StorePath, StorePathError};
use fleet_nix::{DerivedPath, PathInfo};
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;

use crate::context::{Context, failure};
use crate::lane::Limits;

/// Path infos in one message.
const INFOS_PER_MESSAGE: usize = 256;
/// Runs whose told paths are remembered.
const MAX_RUNS: usize = 64;
/// Substitution has no limit of its own here: the daemon's settings bound each download.
const LIMITS: Limits = Limits {
    timeout_s: 0,
    max_silent_s: 0,
};

#[derive(Debug, Error)]
enum RealiseError {
    #[error("the toplevel has a bad store path")]
    Path(#[from] StorePathError),
    #[error("the Nix daemon failed")]
    Daemon(#[from] DaemonError),
    #[error("{path} is not valid and cannot be substituted: {cause}")]
    NotValid { path: String, cause: String },
    #[error("{0} is referred to but not valid: the store is damaged; `nix store verify --all` says where")]
    Dangling(String),
}

/// Runs a realise job to its end and reports it.
pub(crate) async fn run(context: Arc<Context>, job: v1::Realise) {
    let failure = realise(&context, &job)
        .await
        .err()
        .map(|error| failure("infrastructure", &error));
    let done = v1::PathsRealised {
        job: job.job,
        epoch: job.epoch,
        infos: Vec::new(),
        done: true,
        failure,
    };
    context.outbox.send(Message::PathsRealised(done)).await;
}

async fn realise(context: &Context, job: &v1::Realise) -> Result<(), RealiseError> {
    let path: StorePath = job.path.parse()?;
    context.roots.hold([&path]).await?;
    let mut lane = context.lanes.take(LIMITS).await?;
    let wanted = std::iter::once(path.clone()).collect();
    if lane
        .daemon
        .query_valid_paths(&wanted, Substitute::No)
        .await?
        .is_empty()
    {
        let goal = [DerivedPath::Opaque(path.clone())];
        let results = lane
            .daemon
            .build_paths_with_results(&goal, &mut |_| std::ops::ControlFlow::Continue(()))
            .await?;
        if let Some((_, result)) = results
            .into_iter()
            .find(|(_, result)| !result.status.is_success())
        {
            return Err(RealiseError::NotValid {
                path: context.store_dir.print(&path),
                cause: result.error_message,
            });
        }
    }
    if job.closure {
        for info in closure(context, &mut lane.daemon, &path)
            .await?
            .chunks(INFOS_PER_MESSAGE)
        {
            tell(context, job, info).await;
        }
    }
    context.lanes.give_back(lane);
    Ok(())
}

/// Path infos of everything reachable from `root`, which is rooted.
async fn closure(
    context: &Context,
    daemon: &mut Daemon,
    root: &StorePath,
) -> Result<Vec<Arc<PathInfo>>, RealiseError> {
    let mut infos = context.infos.lock().await;
    let mut seen: HashSet<StorePath> = HashSet::from([root.clone()]);
    let mut queue = vec![root.clone()];
    let mut closure = Vec::new();
    while let Some(path) = queue.pop() {
        let info = match infos.get(&path) {
            Some(info) => info.clone(),
            None => {
                let asked = daemon.query_path_info(&path).await?;
                let info = asked.ok_or_else(|| RealiseError::Dangling(context.store_dir.print(&path)))?;
                let info = Arc::new(info);
                infos.insert(path, info.clone());
                info
            }
        };
        queue.extend(
            info.references
                .iter()
                .filter(|reference| seen.insert((*reference).clone()))
                .cloned(),
        );
        closure.push(info);
    }
    Ok(closure)
}

/// Sends those of `infos` that the run has not been told.
async fn tell(context: &Context, job: &v1::Realise, infos: &[Arc<PathInfo>]) {
    let fresh: Vec<_> = {
        let mut runs = context.told.lock().await;
        if runs.len() >= MAX_RUNS && !runs.contains_key(&job.run) {
            runs.clear();
        }
        let told = runs.entry(job.run.clone()).or_default();
        infos
            .iter()
            .filter(|info| told.insert(info.path.clone()))
            .map(|info| to_wire(info))
            .collect()
    };
    if !fresh.is_empty() {
        let message = v1::PathsRealised {
            job: job.job,
            epoch: job.epoch,
            infos: fresh,
            done: false,
            failure: None,
        };
        context.outbox.send(Message::PathsRealised(message)).await;
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
