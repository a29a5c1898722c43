//! Store paths on their way from one worker to others: how they stand, where they can be had, who vouches for them,
//! and keeping them here.

use std::pin::Pin;
use std::sync::Arc;

use fleet_nix::PathInfo;
use fleet_paths::{Depth, Standing};
use fleet_store::Manifest;
use fleet_wire::v1;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use super::status;
use crate::access::Caller;
use crate::infos;
use crate::internal_key::InternalKeys;
use crate::paths::{Expected, PathTable, PathsError};
use crate::shell::{ASK_AGAIN, Asking, Input, LocateAnswer, LocateQuestion, RELAYED_WITHIN, Reply};

mod located;

/// Paths in one call.
const MAX_PATHS: usize = 65_536;
/// References of all paths that one call vouches for: they are in memory together.
const MAX_REFERENCES: usize = 1 << 20;
/// Workers that one call may say it cannot reach.
const MAX_UNREACHABLE: usize = 1_024;
/// Paths of one call that are looked at ahead of the one that is kept.
const VERIFIED_AHEAD: usize = 4;
/// How often an answer is asked for again, because what was kept turns out to be gone.
const DAMAGED_AGAIN: usize = 3;

/// The service `fleet.v1.Paths`.
#[derive(Debug)]
pub(crate) struct PathsService {
    pub(crate) table: PathTable,
    pub(crate) keys: InternalKeys,
    pub(crate) shell: mpsc::Sender<Input>,
}

#[tonic::async_trait]
impl v1::paths_server::Paths for PathsService {
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
            let mut path = path?;
            let expected = self.admit(worker.clone(), &path).await?;
            if let Some(known) = &expected.known {
                path.info = path.info.map(|claimed| as_known(known, claimed));
            }
            let name = path.info.as_ref().map(|info| info.path.clone()).unwrap_or_default();
            Ok::<_, Status>((name, self.table.verify(path, Some(expected)).await.map_err(refused)?))
        });
        let mut verified = std::pin::pin!(verified.buffered(VERIFIED_AHEAD));
        let mut registered = 0;
        while let Some((name, path)) = verified.try_next().await? {
            if registered == MAX_PATHS as u64 {
                return Err(too_many());
            }
            self.table.keep(path).await.map_err(refused)?;
            self.set_kept(&name, true).await?;
            registered += 1;
        }
        Ok(Response::new(v1::RegisterReply { registered }))
    }

    async fn look(&self, request: Request<v1::LookRequest>) -> Result<Response<v1::LookReply>, Status> {
        let paths = bounded(request.into_inner().paths)?;
        let paths = infos::store_paths(&paths).map_err(|error| status::refused(&error))?;
        let mut standings = self.ask(|reply| Input::Look(paths.clone(), reply)).await?;
        // Who is told that a path is kept counts on it: from here on nobody removes it, or it is gone by now.
        let _entered = self.table.usage().enter().await;
        for (path, standing) in paths.iter().zip(&mut standings) {
            if *standing == Standing::Kept && !self.table.has(path) {
                *standing = Standing::Lost;
            }
        }
        Ok(Response::new(v1::LookReply { standings: standings.into_iter().map(standing).collect() }))
    }

    type LocateStream = Pin<Box<dyn Stream<Item = Result<v1::Located, Status>> + Send>>;

    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<Self::LocateStream>, Status> {
        let worker = speaks_as(&Caller::of(request.extensions()));
        let v1::LocateRequest { right, paths, alone, relay, unreachable } = request.into_inner();
        if unreachable.len() > MAX_UNREACHABLE {
            return Err(Status::invalid_argument(format!("at most {MAX_UNREACHABLE} unreachable workers")));
        }
        let question = LocateQuestion {
            asking: Asking::new(worker, right.as_ref())?,
            paths: infos::store_paths(&bounded(paths)?).map_err(|error| status::refused(&error))?,
            depth: if alone { Depth::Alone } else { Depth::Closure },
            unreachable,
            relay,
        };
        for _ in 0..DAMAGED_AGAIN {
            let answer = self.answer(&question).await?;
            if let Some(manifests) = self.manifests_of(&answer).await? {
                let messages = located::messages(answer, manifests, self.keys.clone());
                return Ok(Response::new(Box::pin(messages)));
            }
        }
        Err(status::not_relayed())
    }

    async fn vouch(
        &self,
        request: Request<Streaming<v1::VouchRequest>>,
    ) -> Result<Response<v1::VouchReply>, Status> {
        let worker = speaks_as(&Caller::of(request.extensions()));
        let mut requests = request.into_inner();
        let (mut asking, mut vouched, mut references) = (None, Vec::new(), 0);
        while let Some(v1::VouchRequest { right, info }) =
            requests.message().await.map_err(status::of_peer)?
        {
            if vouched.len() == MAX_PATHS {
                return Err(too_many());
            }
            // The first names the right, of all.
            if asking.is_none() {
                asking = Some(Asking::new(worker.clone(), right.as_ref())?);
            }
            let info = info.ok_or_else(|| Status::invalid_argument("a path without an info"))?;
            references += info.references.len();
            if references > MAX_REFERENCES {
                return Err(Status::invalid_argument(format!("at most {MAX_REFERENCES} references a call")));
            }
            vouched.push(infos::from_wire(&info).map_err(|error| status::refused(&error))?);
        }
        let Some(asking) = asking else { return Ok(Response::new(v1::VouchReply::default())) };
        let standings = self.ask(|reply| Input::Vouch(asking, vouched, reply)).await?;
        Ok(Response::new(v1::VouchReply { standings: standings.into_iter().map(standing).collect() }))
    }
}

impl PathsService {
    /// Asks the shell whether the worker may bring this path, now.
    async fn admit(&self, worker: Option<Arc<str>>, path: &v1::StoredPath) -> Result<Expected, Status> {
        let asking = Asking::new(worker, path.right.as_ref())?;
        let info = infos::from_wire(path.info.as_ref().unwrap_or(&v1::PathInfo::default()));
        let info = info.map_err(|error| status::refused(&error))?;
        self.ask(|reply| Input::MayKeep(asking, Box::new(info), reply)).await
    }

    /// The shell's answer. One that waits for a relay is asked for again from time to time, for who was asked to share
    /// may hang.
    async fn answer(&self, question: &LocateQuestion) -> Result<LocateAnswer, Status> {
        let ask = |question: LocateQuestion| self.ask(|reply| Input::Locate(Box::new(question), reply));
        if !question.relay {
            return ask(question.clone()).await;
        }
        let answered = async {
            loop {
                if let Ok(answer) = tokio::time::timeout(ASK_AGAIN, ask(question.clone())).await {
                    return answer;
                }
            }
        };
        tokio::time::timeout(RELAYED_WITHIN, answered).await.unwrap_or_else(|_| Err(status::not_relayed()))
    }

    /// The manifests of what is kept, in the order of the answer. None when the shell must answer again, because it
    /// took something to be here that is not.
    async fn manifests_of(&self, answer: &LocateAnswer) -> Result<Option<Vec<Option<Manifest>>>, Status> {
        let mut manifests = Vec::with_capacity(answer.found.len());
        let mut all = true;
        for found in &answer.found {
            if found.standing != Standing::Kept {
                manifests.push(None);
                continue;
            }
            let name = found.info.path.as_str();
            let manifest = self.table.manifest(&found.info.path).await;
            if let Some(manifest) = manifest.map_err(|error| status::paths(&error))? {
                manifests.push(Some(manifest));
            } else {
                self.set_kept(name, false).await?;
                all = false;
            }
        }
        Ok(all.then_some(manifests))
    }

    async fn set_kept(&self, path: &str, here: bool) -> Result<(), Status> {
        let path = infos::store_path(path).map_err(|error| status::refused(&error))?;
        self.ask(|reply| Input::Kept(path, here, reply)).await
    }

    async fn ask<T>(&self, input: impl FnOnce(Reply<T>) -> Input) -> Result<T, Status> {
        ask(&self.shell, input).await
    }
}

/// Asks the shell, and waits for its answer.
pub(super) async fn ask<T>(
    shell: &mpsc::Sender<Input>,
    input: impl FnOnce(Reply<T>) -> Input,
) -> Result<T, Status> {
    let (reply, answer) = oneshot::channel();
    shell.send(input(reply)).await.map_err(|_| status::stopping())?;
    answer.await.map_err(|_| status::stopping())?
}

/// Who brings a path has no say in what is noted of it: content address, deriver and signatures are those that were
/// looked at when it was first heard of.
fn as_known(known: &PathInfo, claimed: v1::PathInfo) -> v1::PathInfo {
    let mut info = infos::to_wire(known);
    if info.content_address.is_empty() {
        // One that is checked like any other.
        info.content_address = claimed.content_address;
    }
    info
}

/// The worker that a certificate names. The access layer lets nobody else in but this machine's user.
pub(super) fn speaks_as(caller: &Caller) -> Option<Arc<str>> {
    caller.worker().map(|identity| Arc::from(identity.name.as_str()))
}

fn standing(standing: Standing) -> i32 {
    let standing = match standing {
        Standing::Unknown => v1::PathStanding::Unknown,
        Standing::Lost => v1::PathStanding::Lost,
        Standing::Held => v1::PathStanding::Held,
        Standing::Kept => v1::PathStanding::Kept,
        Standing::Upstream => v1::PathStanding::Upstream,
    };
    standing.into()
}

fn bounded(paths: Vec<String>) -> Result<Vec<String>, Status> {
    if paths.len() > MAX_PATHS { Err(too_many()) } else { Ok(paths) }
}

fn too_many() -> Status {
    Status::invalid_argument(format!("at most {MAX_PATHS} paths a call"))
}
