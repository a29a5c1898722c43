//! The end of a realise job whose closure everybody is to be served: what was brought is published, references first,
//! before the core hears that the target is there. Runs beside the shell; its outcome comes back as an input.

use std::collections::HashSet;

use fleet_core::{Epoch, RealiseJobId, WorkerId};
use fleet_nix::StorePath;
use fleet_paths::Standing;
use fleet_telemetry::with_causes;
use fleet_wire::{from_wire, v1};
use tokio::sync::mpsc;

use super::round::Round;
use super::{Input, Shell};
use crate::paths::{PathTable, PathsError};

/// What came of publishing for a realise job.
#[derive(Debug)]
pub(crate) struct Published {
    worker: WorkerId,
    /// The job's last message.
    message: v1::PathsRealised,
    /// Why it could not be done, if so.
    result: Result<(), String>,
}

/// Where paths are published, and who is told.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    pub(super) table: PathTable,
    /// The shell's own inputs: it ends when nobody else has them.
    pub(super) shell: mpsc::WeakSender<Input>,
}

impl Shell {
    /// Whether the closure of this job's toplevel is being published; then the job ends later.
    pub(super) fn publishes(&mut self, worker: WorkerId, message: &v1::PathsRealised) -> bool {
        let Some(job) = self.realises.get_mut(&RealiseJobId(message.job)) else { return false };
        let (true, Some(toplevel), Some(publisher)) = (job.publish, &job.path, &self.publisher) else {
            return false;
        };
        if message.failure.is_some() {
            return false;
        }
        // Said twice, it is done once.
        job.publish = false;
        let closure = self.known.closure(std::slice::from_ref(toplevel));
        let is_upstream = |path: &&&StorePath| self.known.standing(path) == Standing::Upstream;
        let (upstream, paths): (Vec<_>, Vec<_>) = closure.into_iter().partition(|path| is_upstream(&path));
        let upstream: HashSet<StorePath> = upstream.into_iter().cloned().collect();
        let paths: Vec<StorePath> = paths.into_iter().cloned().collect();
        let unheard = paths.is_empty() && upstream.is_empty();
        let unheard = unheard.then(|| format!("nothing is known of {toplevel}"));
        let (publisher, message) = (publisher.clone(), message.clone());
        tokio::spawn(async move {
            let result = match unheard {
                Some(why) => Err(why),
                None => told(publisher.table.publish(&paths, &upstream).await),
            };
            let outcome = Published { worker, message, result };
            if let Some(shell) = publisher.shell.upgrade() {
                // It stops: the job is given again after that.
                let _ = shell.send(Input::Published(Box::new(outcome))).await;
            }
        });
        true
    }

    /// A realise job ends, unless it is somebody else's by now.
    pub(super) fn published(&mut self, published: Published, round: &mut Round) {
        let Published { worker, mut message, result } = published;
        let (id, epoch) = (RealiseJobId(message.job), Epoch(message.epoch));
        if self.realises.get(&id).is_none_or(|job| (job.worker, job.epoch) != (worker, epoch)) {
            return;
        }
        self.realises.remove(&id);
        if let Err(cause) = result {
            tracing::error!(job = message.job, "a closure cannot be published: {cause}");
            let (code, cause) = ("transfer".to_owned(), format!("it cannot be published: {cause}"));
            message.failure = Some(v1::Failure { code, cause, ..v1::Failure::default() });
        }
        match from_wire::realised(worker, message) {
            Ok(event) => self.apply(event, round),
            // It was read once, and what was added is ours.
            Err(error) => tracing::error!("a realise job's end cannot be read: {error}"),
        }
    }
}

fn told(result: Result<(), PathsError>) -> Result<(), String> {
    result.map_err(|error| with_causes(&error))
}
