//! Changes of who may come in: decided by the registry, kept with everything else, and published when durable. A
//! worker that is shut out loses its session and its leases in the same round.

use std::sync::Arc;

use fleet_core::{Event, WorkerOrder};
use fleet_identity::{Answer, Request};
use tonic::Status;

use super::Shell;
use super::round::{Deed, Round};
use crate::kept;
use crate::rpc::status;

impl Shell {
    pub(super) fn change_registry(&mut self, request: Request, round: &mut Round) -> Result<Answer, Status> {
        let revoked = match &request {
            Request::RevokeWorker { name, reason } => Some((name.clone(), reason.clone())),
            _ => None,
        };
        let decision = self
            .registry
            .decide(fleet_identity::unix_now(), request)
            .map_err(|error| status::registry(&error))?;
        if let Some(record) = &decision.record {
            round.keep(kept::identity(record));
            round.then(Deed::Publish(Arc::new(self.registry.clone())));
        }
        if let Some((name, reason)) = revoked {
            let (worker, name) = (self.fleet.worker_named(name.as_str()), name.as_str().into());
            let order = WorkerOrder::Revoke;
            self.apply(Event::WorkerOrdered { worker, name, order, reason: reason.into() }, round);
            self.forget_holder_if_gone(worker, round);
        }
        Ok(decision.answer)
    }
}
