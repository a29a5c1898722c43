//! The service `fleet.v1.Enrolment`: a join token becomes a certificate, a certificate the next one. The only
//! service that answers strangers: everything it takes is small, and who fails often waits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use fleet_identity::{Answer, Issued, Join, JoinToken, PublicKey, Request as Change, unix_now};
use fleet_wire::v1;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::status;
use crate::access::{Caller, Directory};
use crate::server::{Material, Peer, PeerOrigin, network};
use crate::shell::Input;

/// The largest request, bytes.
pub(crate) const MAX_ENROLMENT: usize = 16 << 10;
/// Addresses whose failures are remembered; when there are more, all are forgotten.
const MAX_ADDRESSES: usize = 65_536;

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

/// Failed enrolments by address, within the present minute.
#[derive(Debug)]
pub(crate) struct Failures {
    limit: std::sync::atomic::AtomicU32,
    counted: Mutex<(u64, HashMap<IpAddr, u32>)>,
}

impl Failures {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit: limit.into(), counted: Mutex::default() }
    }

    /// Another limit from now on.
    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, std::sync::atomic::Ordering::Relaxed);
    }

    fn are_too_many(&self, address: IpAddr, now: u64) -> bool {
        let limit = self.limit.load(std::sync::atomic::Ordering::Relaxed);
        self.with_this_minute(now, |counted| counted.get(&address).is_some_and(|count| *count >= limit))
    }

    fn count(&self, address: IpAddr, now: u64) {
        self.with_this_minute(now, |counted| {
            if counted.len() >= MAX_ADDRESSES {
                counted.clear();
            }
            *counted.entry(address).or_default() += 1;
        });
    }

    fn with_this_minute<T>(&self, now: u64, act: impl FnOnce(&mut HashMap<IpAddr, u32>) -> T) -> T {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != now / 60 {
            *counted = (now / 60, HashMap::new());
        }
        act(&mut counted.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_forgotten_after_a_minute_and_are_each_address_s_own() {
        let failures = Failures::new(2);
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().expect("an address"));
        assert!(!failures.are_too_many(one, 60));
        failures.count(one, 60);
        failures.count(one, 70);
        assert!(failures.are_too_many(one, 119));
        assert!(!failures.are_too_many(other, 119));
        assert!(!failures.are_too_many(one, 120));
        failures.set_limit(1);
        failures.count(one, 121);
        assert!(failures.are_too_many(one, 121));
    }
}
