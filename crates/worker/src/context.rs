//! What all jobs of a worker share, and how they speak.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fleet_nix::daemon::Trust;
use fleet_nix::proxy::StoreProxy;
use fleet_nix::store_path::{StoreDir, StorePath};
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use tokio::sync::{Mutex, mpsc};
use tonic::transport::Channel;

use crate::config::Config;
use crate::gc_roots::GcRoots;
use crate::health::Health;
use crate::infos::Infos;
use crate::introduced::Introduced;
use crate::lane::Lanes;
use crate::planner::Planner;
use crate::presence::Presence;
use crate::roots::Roots;
use crate::spool::Spool;
use crate::suspects::Suspects;
use crate::transfer::Transfer;

/// Shared by the jobs of a worker, across its sessions.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) store_dir: StoreDir,
    pub(crate) trust: Trust,
    pub(crate) proxy: StoreProxy,
    pub(crate) roots: Roots,
    pub(crate) lanes: Lanes,
    pub(crate) planner: Mutex<Planner>,
    /// Outputs that only this machine has.
    pub(crate) gc_roots: GcRoots,
    pub(crate) infos: Infos,
    /// Which of them a run has been told.
    pub(crate) told: Mutex<HashMap<String, HashSet<StorePath>>>,
    /// What is said of leases.
    pub(crate) spool: Spool,
    pub(crate) presence: Arc<Presence>,
    pub(crate) health: Health,
    /// Outputs that a full disk may have spoilt.
    pub(crate) suspects: Suspects,
    /// What the coordinator was told of paths that nobody built for it.
    pub(crate) introduced: Introduced,
    pub(crate) transfer: Transfer,
    /// Connects again by itself.
    pub(crate) coordinator: Channel,
    /// Holds the proxy's socket and the evaluators' homes; removed when the worker ends.
    pub(crate) runtime_dir: tempfile::TempDir,
}

impl Context {
    /// Whether other machines get what is built here, and this one what they build.
    pub(crate) fn relays(&self) -> bool {
        self.presence.welcome().upload_outputs
    }
}

/// Messages of one session on their way to the coordinator. Senders wait when it is full.
#[derive(Clone, Debug)]
pub(crate) struct Outbox(pub(crate) mpsc::Sender<v1::WorkerMessage>);

impl Outbox {
    /// Sends; a session that has ended loses the message, as everything else of it.
    pub(crate) async fn send(&self, message: Message) {
        let _ = self.0.send(v1::WorkerMessage { sequence: 0, message: Some(message) }).await;
    }

    /// Sends if there is room.
    pub(crate) fn try_send(&self, message: Message) -> Result<(), Box<Message>> {
        self.0.try_send(v1::WorkerMessage { sequence: 0, message: Some(message) }).map_err(|error| {
            let (mpsc::error::TrySendError::Full(message) | mpsc::error::TrySendError::Closed(message)) =
                error;
            Box::new(message.message.unwrap_or(Message::Heartbeat(v1::Heartbeat::default())))
        })
    }
}

/// A failure as the wire has it.
pub(crate) fn failure(code: &str, error: &dyn std::error::Error) -> v1::Failure {
    let cause = fleet_telemetry::with_causes(error);
    v1::Failure { code: code.to_owned(), cause, ..v1::Failure::default() }
}
