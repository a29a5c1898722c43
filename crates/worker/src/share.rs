//! Brings paths to the coordinator when it says so: somebody needs them who cannot reach this machine.

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_nix::daemon::Substitute;
use fleet_nix::store_path::{StorePath, StorePathError};
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;

use crate::context::{Context, Outbox};
use crate::lane::Purpose;
use crate::transfer::{self, TransferError};

#[derive(Debug, Error)]
enum ShareError {
    #[error("the order has a bad store path")]
    Path(#[from] StorePathError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// Carries out an order. The coordinator learns at once what is not here any more, so that it asks somebody else; what
/// cannot be brought for another reason is as good as not here.
pub(crate) async fn run(context: Arc<Context>, outbox: Outbox, order: v1::Share) {
    let lost = match share(&context, &order).await {
        Ok(lost) => lost.iter().map(ToString::to_string).collect(),
        Err(ShareError::Transfer(TransferError::Void(status))) => {
            tracing::debug!(share = order.share, %status, "nobody waits for these paths any more");
            return;
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(share = order.share, error, "paths cannot be brought to the coordinator");
            order.paths
        }
    };
    if !lost.is_empty() {
        outbox.send(Message::PathsLost(v1::PathsLost { paths: lost })).await;
    }
}

/// Gives the paths that are not valid any more.
async fn share(context: &Context, order: &v1::Share) -> Result<BTreeSet<StorePath>, ShareError> {
    let paths = order.paths.iter().map(|path| path.parse()).collect::<Result<BTreeSet<StorePath>, _>>()?;
    let right = v1::WorkRight { share: order.share, ..v1::WorkRight::default() };
    let _guard = context.roots.guard(&paths).await.map_err(TransferError::from)?;
    let mut lane = context.lanes.take(Purpose::Substitute).await.map_err(TransferError::from)?;
    let valid = lane.daemon.query_valid_paths(&paths, Substitute::No).await.map_err(TransferError::from)?;
    let infos = context.infos.fresh(&mut lane.daemon, &valid).await.map_err(TransferError::from)?;
    context.lanes.give_back(lane);
    transfer::publish(context, infos, right).await?;
    Ok(paths.difference(&valid).cloned().collect())
}
