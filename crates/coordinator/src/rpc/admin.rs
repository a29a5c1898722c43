//! The service `fleet.v1.Admin`: tokens, clients, workers. Only administrators come so far.

use std::sync::Arc;

use arc_swap::ArcSwap;
use fleet_core::WorkerOrder;
use fleet_identity::{
    Answer, ClientToken, JoinToken, Name, Registry, Request as Change, Role, Secret, TokenId, Worker,
    unix_now,
};
use fleet_wire::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

use super::status;
use crate::access::{Caller, Directory};
use crate::server::Material;
use crate::shell::Input;

/// The largest request, bytes.
pub(crate) const MAX_ADMIN: usize = 64 << 10;
/// Longest reason of an order, bytes.
const MAX_REASON: usize = 500;

/// The service `fleet.v1.Admin`.
#[derive(Debug)]
pub(crate) struct AdminService {
    pub(crate) shell: mpsc::Sender<Input>,
    pub(crate) directory: Directory,
    pub(crate) material: Arc<ArcSwap<Material>>,
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenReply>, Status> {
        let by = Caller::of(request.extensions());
        let v1::CreateJoinTokenRequest { name, systems, features, ttl_s } = request.into_inner();
        let name = parse_name(&name)?;
        let (id, secret) = (TokenId::random(), Secret::random());
        let hash = secret.hash();
        let token = JoinToken { id, secret, authority: self.material.load().fingerprint };
        tracing::info!(worker = %name, by = by.owner(), "join token made");
        let change = Change::CreateJoinToken { id, hash, name, systems, features, ttl_s };
        let expires = self.create(change).await?;
        Ok(Response::new(v1::CreateJoinTokenReply { token: token.to_string(), expires }))
    }

    async fn create_client_token(
        &self,
        request: Request<v1::CreateClientTokenRequest>,
    ) -> Result<Response<v1::CreateClientTokenReply>, Status> {
        let by = Caller::of(request.extensions());
        let request = request.into_inner();
        let (name, role) = (parse_name(&request.name)?, parse_role(request.role)?);
        let (id, secret) = (TokenId::random(), Secret::random());
        let hash = secret.hash();
        let token = ClientToken { id, secret };
        tracing::info!(client = %name, %role, by = by.owner(), "client token made");
        let change = Change::CreateClientToken { id, hash, name, role, ttl_s: request.ttl_s };
        let expires = self.create(change).await?;
        Ok(Response::new(v1::CreateClientTokenReply { token: token.to_string(), expires }))
    }

    async fn list_clients(
        &self,
        _: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsReply>, Status> {
        let clients = self.directory.borrow().clients(unix_now());
        let clients = clients.into_iter().map(|client| v1::ClientStatus {
            name: client.name.to_string(),
            role: client.role.map_or(v1::Role::Unspecified, to_wire).into(),
            expires: client.expires,
            revoked: client.revoked,
        });
        Ok(Response::new(v1::ListClientsReply { clients: clients.collect() }))
    }

    async fn revoke_client(
        &self,
        request: Request<v1::RevokeClientRequest>,
    ) -> Result<Response<v1::RevokeClientReply>, Status> {
        let by = Caller::of(request.extensions());
        let name = parse_name(&request.get_ref().name)?;
        super::change(&self.shell, Change::RevokeClient { name: name.clone() }).await?;
        tracing::info!(client = %name, by = by.owner(), "client revoked");
        Ok(Response::new(v1::RevokeClientReply {}))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersReply>, Status> {
        let (reply, answer) = oneshot::channel();
        self.shell.send(Input::Workers(reply)).await.map_err(|_| status::stopping())?;
        let known = answer.await.map_err(|_| status::stopping())?;
        let mut workers = with_registry(known, &self.directory.borrow());
        let wanted = request.into_inner().name;
        workers.retain(|worker| wanted.is_empty() || worker.name == wanted);
        Ok(Response::new(v1::ListWorkersReply { workers }))
    }

    async fn order_worker(
        &self,
        request: Request<v1::OrderWorkerRequest>,
    ) -> Result<Response<v1::OrderWorkerReply>, Status> {
        let by = Caller::of(request.extensions());
        let v1::OrderWorkerRequest { name, order, reason } = request.into_inner();
        if reason.len() > MAX_REASON {
            return Err(Status::invalid_argument(format!("a reason has at most {MAX_REASON} bytes")));
        }
        let name = parse_name(&name)?;
        let order = match v1::WorkerOrder::try_from(order) {
            Ok(v1::WorkerOrder::Drain) => WorkerOrder::Drain,
            Ok(v1::WorkerOrder::Resume) => WorkerOrder::Resume,
            Ok(v1::WorkerOrder::Revoke) => WorkerOrder::Revoke,
            Ok(v1::WorkerOrder::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument("the order must be drain, resume or revoke"));
            }
        };
        tracing::info!(worker = %name, ?order, by = by.owner(), "worker ordered");
        if order == WorkerOrder::Revoke {
            // The registry's business: also somebody who never came can be shut out.
            super::change(&self.shell, Change::RevokeWorker { name, reason }).await?;
            return Ok(Response::new(v1::OrderWorkerReply {}));
        }
        let (reply, answer) = oneshot::channel();
        let input = Input::Order(name.to_string(), order, reason, reply);
        self.shell.send(input).await.map_err(|_| status::stopping())?;
        answer.await.map_err(|_| status::stopping())??;
        Ok(Response::new(v1::OrderWorkerReply {}))
    }
}

impl AdminService {
    async fn create(&self, change: Change) -> Result<u64, Status> {
        match super::change(&self.shell, change).await? {
            Answer::TokenCreated { expires } => Ok(expires),
            Answer::Certificate(_) | Answer::Revoked => Err(status::stopping()),
        }
    }
}

/// What the core knows of workers, with what only the registry knows.
fn with_registry(mut known: Vec<v1::WorkerStatus>, registry: &Registry) -> Vec<v1::WorkerStatus> {
    let unseen = |worker: &&Worker| !known.iter().any(|status| status.name == worker.name.as_str());
    let unseen: Vec<_> = registry.workers().filter(unseen).map(never_seen).collect();
    known.extend(unseen);
    known.sort_by(|one, other| one.name.cmp(&other.name));
    known
}

fn never_seen(worker: &Worker) -> v1::WorkerStatus {
    let (state, reason) = match &worker.revoked {
        Some(revocation) => ("revoked", revocation.reason.clone()),
        None => ("enrolled", "it was never connected since the coordinator remembers".to_owned()),
    };
    v1::WorkerStatus {
        name: worker.name.to_string(),
        state: state.to_owned(),
        reason,
        systems: worker.systems.clone(),
        features: worker.features.clone(),
        ..v1::WorkerStatus::default()
    }
}

fn parse_name(text: &str) -> Result<Name, Status> {
    text.parse().map_err(|error: fleet_identity::NameError| Status::invalid_argument(error.to_string()))
}

fn parse_role(role: i32) -> Result<Role, Status> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Read) => Ok(Role::Read),
        Ok(v1::Role::Submit) => Ok(Role::Submit),
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::Unspecified) | Err(_) => {
            Err(Status::invalid_argument("the role must be read, submit or admin"))
        }
    }
}

fn to_wire(role: Role) -> v1::Role {
    match role {
        Role::Read => v1::Role::Read,
        Role::Submit => v1::Role::Submit,
        Role::Admin => v1::Role::Admin,
    }
}
