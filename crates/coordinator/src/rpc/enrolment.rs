//! The service `fleet.v1.Enrolment`: a join token becomes a certificate, a certificate the next one. The only
//! service that answers strangers: everything it takes is small, and who fails often waits.

use std::sync::Arc;

use arc_swap::ArcSwap;
use fleet_identity::{Answer, Issued, Join, JoinToken, PublicKey, Request as Change, unix_now};
use fleet_wire::v1;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::status;
use crate::access::{Caller, Directory, Failures};
use crate::server::{Material, Peer, PeerOrigin, network};
use crate::shell::Input;

/// The largest request, bytes.
pub(crate) const MAX_ENROLMENT: usize = 16 << 10;

/// The service `fleet.v1.Enrolment`.
#[derive(Debug)]
pub(crate) struct EnrolmentService {
    pub(crate) shell: mpsc::Sender<Input>,
    pub(crate) directory: Directory,
    pub(crate) material: Arc<ArcSwap<Material>>,
    pub(crate) failures: Arc<Failures>,
}

#[tonic::async_trait]
impl v1::enrolment_server::Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<v1::EnrolRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let address = match request.extensions().get::<Peer>().map(|peer| &peer.origin) {
            Some(PeerOrigin::Remote { address, .. }) => Some(network(*address)),
            _ => None,
        };
        let now = unix_now();
        if address.is_some_and(|address| self.failures.are_too_many(address, now)) {
            return Err(status::too_many_failures());
        }
        let answer = self.trade(request.into_inner(), now).await;
        if let (Err(_), Some(address)) = (&answer, address) {
            self.failures.count(address, now);
        }
        answer.map(Response::new)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrolReply>, Status> {
        let caller = Caller::of(request.extensions());
        let identity = caller.worker().ok_or_else(|| status::forbidden("a worker with its certificate"))?;
        let now = unix_now();
        let grant = self.directory.borrow().renewal(now, identity);
        let grant = grant.map_err(|refused| status::shut_out(&refused))?;
        let key = PublicKey::from_request(&request.get_ref().request);
        let key = key.map_err(|error| status::bad_request(&error))?;
        let material = self.material.load_full();
        let issued = material.authority.sign_worker(now, &grant, &key);
        let issued = issued.map_err(|error| status::not_signed(&error))?;
        Ok(Response::new(reply(issued, &material)))
    }
}

impl EnrolmentService {
    async fn trade(&self, request: v1::EnrolRequest, now: u64) -> Result<v1::EnrolReply, Status> {
        let token: JoinToken = request.token.parse().map_err(|error| status::bad_credential(&error))?;
        let key = PublicKey::from_request(&request.request).map_err(|error| status::bad_request(&error))?;
        let join = self.directory.borrow().join(now, &token, &key.fingerprint);
        let material = self.material.load_full();
        let issued = match join.map_err(|error| status::registry(&error))? {
            Join::Issued(issued) => issued,
            Join::Sign(grant) => {
                let issued = material.authority.sign_worker(now, &grant, &key);
                let issued = issued.map_err(|error| status::not_signed(&error))?;
                // Others may ask at the same time: the registry says whose certificate it is.
                match super::change(&self.shell, Change::RedeemJoinToken { token, issued }).await? {
                    Answer::Certificate(issued) => {
                        tracing::info!(worker = %issued.identity.name, "enrolled");
                        issued
                    }
                    Answer::TokenCreated { .. } | Answer::Revoked => return Err(status::stopping()),
                }
            }
        };
        Ok(reply(issued, &material))
    }
}

fn reply(issued: Issued, material: &Material) -> v1::EnrolReply {
    v1::EnrolReply {
        name: issued.identity.name.to_string(),
        not_after: issued.identity.not_after,
        chain: vec![issued.certificate.into()],
        authorities: material.trusted.iter().map(|der| der.to_vec().into()).collect(),
    }
}
