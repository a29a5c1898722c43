//! The gRPC services: requests become inputs of the shell, feeds become streams. No decisions, no state.

mod admin;
mod cache;
mod chunks;
mod enrolment;
mod events;
mod paths;
mod runs;
pub(crate) mod status;
mod workers;

pub(crate) use admin::{AdminService, MAX_ADMIN};
pub(crate) use cache::{CacheService, MAX_CACHE};
pub(crate) use chunks::ChunksService;
pub(crate) use enrolment::{EnrolmentService, MAX_ENROLMENT};
pub(crate) use paths::PathsService;
pub(crate) use runs::{MAX_SELECTOR, RunsService};
pub(crate) use workers::WorkersService;

use fleet_identity::{Answer, Request as Change};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::shell::Input;

/// Asks the shell for a change of the registry.
async fn change(shell: &mpsc::Sender<Input>, change: Change) -> Result<Answer, Status> {
    let (reply, answer) = oneshot::channel();
    shell.send(Input::Registry(change, reply)).await.map_err(|_| status::stopping())?;
    answer.await.map_err(|_| status::stopping())?
}
