//! Store paths on their way from one worker to others: which are kept, keep these, describe those.

use std::pin::Pin;
use std::sync::Arc;

use fleet_core::{Epoch, EvalJobId, LeaseId};
use fleet_wire::v1;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::access::Caller;
use crate::paths::{PathTable, PathsError};
use crate::shell::Input;

/// Paths in one call.
const MAX_PATHS: usize = 65_536;
/// Paths of one call that are looked at ahead of the one that is kept.
const VERIFIED_AHEAD: usize = 4;

/// The service `fleet.v1.Paths`.
#[derive(Debug)]
pub(crate) struct PathsService {
    pub(crate) table: PathTable,
    pub(crate) shell: mpsc::Sender<Input>,
}

/// What someone wants to keep a path for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The worker that asks; none is this machine's own user, who may speak for any.
    pub(crate) worker: Option<Arc<str>>,
    pub(crate) right: Right,
    /// Base name.
    pub(crate) path: String,
}

/// By which right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// It is an output of a step of this lease.
    Lease(LeaseId, Epoch),
    /// The evaluator needs it to be elsewhere.
    Eval(EvalJobId, Epoch),
}

#[tonic::async_trait]
impl v1::paths_server::Paths for PathsService {
    async fn stored(&self, request: Request<v1::StoredRequest>) -> Result<Response<v1::StoredReply>, Status> {
        let paths = bounded(request.into_inner().paths)?;
        let stored = self.table.stored(paths).await.map_err(|error| status::paths(&error))?;
        Ok(Response::new(v1::StoredReply { stored }))
    }

    async fn register(
        &self,
        request: Request<Streaming<v1::StoredPath>>,
    ) -> Result<Response<v1::RegisterReply>, Status> {
        let worker = speaks_as(&Caller::of(request.extensions()));
        let refused = |error: PathsError| {
            if let PathsError::Differs { .. } = error {
                tracing::warn!(worker = worker.as_deref().unwrap_or("-"), %error, "the first stays");
            }
            status::paths(&error)
        };
        // Kept one after the other: a path never without those before it.
        let verified = request.into_inner().map(|path| async {
            let path = path?;
            self.allow(worker.clone(), &path).await?;
            self.table.verify(path).await.map_err(refused)
        });
        let mut verified = std::pin::pin!(verified.buffered(VERIFIED_AHEAD));
        let mut registered = 0;
        while let Some(path) = verified.try_next().await? {
            if registered == MAX_PATHS as u64 {
                return Err(too_many());
            }
            self.table.keep(path).await.map_err(refused)?;
            registered += 1;
        }
        Ok(Response::new(v1::RegisterReply { registered }))
    }

    async fn look(&self, _: Request<v1::LookRequest>) -> Result<Response<v1::LookReply>, Status> {
        Err(Status::unimplemented("not served yet"))
    }

    type LocateStream = Pin<Box<dyn Stream<Item = Result<v1::Located, Status>> + Send>>;

    async fn locate(&self, _: Request<v1::LocateRequest>) -> Result<Response<Self::LocateStream>, Status> {
        Err(Status::unimplemented("not served yet"))
    }

    async fn vouch(
        &self,
        _: Request<Streaming<v1::VouchRequest>>,
    ) -> Result<Response<v1::VouchReply>, Status> {
        Err(Status::unimplemented("not served yet"))
    }

    type DescribeStream = Pin<Box<dyn Stream<Item = Result<v1::StoredPath, Status>> + Send>>;

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<Self::DescribeStream>, Status> {
        let roots = bounded(request.into_inner().paths)?;
        let described = self.table.describe(roots).await.map_err(|error| status::paths(&error))?;
        Ok(Response::new(Box::pin(futures::stream::iter(described.into_iter().map(Ok)))))
    }
}

impl PathsService {
    /// Asks the shell whether the worker may bring this path, now.
    async fn allow(&self, worker: Option<Arc<str>>, path: &v1::StoredPath) -> Result<(), Status> {
        let right = match (path.lease, path.eval_job) {
            (0, 0) => return Err(status::no_right("it names neither a lease nor an eval job")),
            (lease, 0) => Right::Lease(LeaseId(lease), Epoch(path.epoch)),
            (0, job) => Right::Eval(EvalJobId(job), Epoch(path.epoch)),
            _ => return Err(Status::invalid_argument("a path is kept for a lease or an eval job, not both")),
        };
        let path = path.info.as_ref().map(|info| info.path.clone()).unwrap_or_default();
        let (reply, answer) = oneshot::channel();
        let asked = self.shell.send(Input::MayKeep(Claim { worker, right, path }, reply)).await;
        asked.map_err(|_| status::stopping())?;
        answer.await.map_err(|_| status::stopping())?
    }
}

/// The worker that a certificate names. The access layer lets nobody else in but this machine's user.
fn speaks_as(caller: &Caller) -> Option<Arc<str>> {
    caller.worker().map(|identity| Arc::from(identity.name.as_str()))
}

fn bounded(paths: Vec<String>) -> Result<Vec<String>, Status> {
    if paths.len() > MAX_PATHS { Err(too_many()) } else { Ok(paths) }
}

fn too_many() -> Status {
    Status::invalid_argument(format!("at most {MAX_PATHS} paths a call"))
}
