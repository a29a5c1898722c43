//! Who may come in: the one owner of the registry, which publishes a snapshot after every change.

use std::sync::Arc;

use fleet_identity::{Answer, Request, unix_now};
use fleet_wire::v1;
use tonic::Status;

use super::Shell;
use crate::rpc::status;

impl Shell {
    pub(super) fn change_registry(&mut self, change: Request) -> Result<Answer, Status> {
        let mut registry = (**self.registry.borrow()).clone();
        let decision = registry.decide(unix_now(), change).map_err(|error| status::registry(&error))?;
        if decision.record.is_some() {
            self.registry.send_replace(Arc::new(registry));
        }
        Ok(decision.answer)
    }

    pub(super) fn worker_statuses(&self) -> Vec<v1::WorkerStatus> {
        let connected = self.workers.values().map(|session| v1::WorkerStatus {
            name: session.name.clone(),
            state: "connected".to_owned(),
            ..v1::WorkerStatus::default()
        });
        connected.collect()
    }
}
