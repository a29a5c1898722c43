//! Store paths between this worker's store and the coordinator's, where every worker of a fleet of several machines
//! finds them. `publish` brings what was built or evaluated here, `inputs` fetches what is built elsewhere.
//!
//! Owns who fetches what right now, and how patient a transfer is. Must not decide what is built.

mod archive;
mod chunk_reader;
mod claims;
mod inputs;
mod publish;
mod standing;

use std::collections::BTreeSet;
use std::time::Duration;

use fleet_nix::daemon::DaemonError;
use fleet_nix::store_path::StorePath;
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::chunks_client::ChunksClient;
use fleet_wire::v1::paths_client::PathsClient;
use thiserror::Error;
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backoff::{self, Backoff};
use claims::Claims;

pub(crate) use inputs::{make_valid, prefetch};
pub(crate) use publish::publish;
pub(crate) use standing::{Standing, Vouchers};

/// Transfers in one direction at a time: each holds some megabytes.
const AT_A_TIME: usize = 4;
/// Paths in one question.
const MAX_ASKED: usize = 65_536;
/// How often what may be a passing fault of the coordinator is tried. One that is not there is waited for.
const TRIES: u32 = 6;

/// Shared by all jobs.
#[derive(Debug)]
pub(crate) struct Transfer {
    coordinator: Channel,
    fetching: Claims,
    uploads: Semaphore,
    fetches: Semaphore,
}

/// Why paths could not be moved.
#[derive(Debug, Error)]
pub(crate) enum TransferError {
    #[error("the Nix daemon failed")]
    Daemon(#[from] DaemonError),
    #[error("the coordinator did not serve: {}", .0.message())]
    Coordinator(Box<Status>),
    #[error("the lease or job is over: {}", .0.message())]
    Void(Box<Status>),
    #[error("input {path} is not valid here and cannot be substituted: {cause}")]
    InputMissing { path: String, cause: String },
    #[error("nobody has these inputs any more: {}", listed(.0))]
    Lost(BTreeSet<StorePath>),
    #[error("the Nix daemon refuses what the coordinator sent")]
    Refused(#[source] DaemonError),
    #[error("what the coordinator sent is damaged")]
    Damaged(#[source] chunk_reader::ChunkReadError),
    #[error("the coordinator describes a path wrongly: {0}")]
    Described(String),
    #[error(
        "the Nix daemon takes unsigned paths from trusted users only, and outputs of other machines are unsigned: \
         add the worker's user to `trusted-users` in nix.conf and restart nix-daemon ({0})"
    )]
    NotTrusted(String),
    #[error(
        "{0} is known to this machine only: it was not built under a lease, no upstream cache signed it, and its content \
         does not name it"
    )]
    LocalOnly(StorePath),
    #[error("{0} cannot be read from the store")]
    Unreadable(StorePath, #[source] fleet_store::ChunkError),
    #[error("moving paths was interrupted")]
    Interrupted,
}

impl TransferError {
    /// What may be done about an attempt that ended so; never the step's fault.
    pub(crate) fn class(&self) -> OutcomeClass {
        match self {
            Self::Void(_) => OutcomeClass::Cancelled,
            Self::InputMissing { .. } | Self::Lost(_) => OutcomeClass::InputMissing,
            Self::NotTrusted(_) => OutcomeClass::Placement,
            Self::Refused(error) if error.to_string().contains("No space left on device") => {
                OutcomeClass::DiskFull
            }
            Self::Daemon(_) => OutcomeClass::DaemonGone,
            _ => OutcomeClass::Transfer,
        }
    }
}

impl From<Status> for TransferError {
    fn from(status: Status) -> Self {
        Self::Coordinator(Box::new(status))
    }
}

impl Transfer {
    /// With the coordinator at a channel that connects again by itself.
    pub(crate) fn new(coordinator: Channel) -> Self {
        Self {
            coordinator,
            fetching: Claims::default(),
            uploads: Semaphore::new(AT_A_TIME),
            fetches: Semaphore::new(AT_A_TIME),
        }
    }

    /// Those of `paths` that the coordinator keeps.
    pub(crate) async fn stored(
        &self,
        paths: impl IntoIterator<Item = &StorePath>,
    ) -> Result<BTreeSet<StorePath>, TransferError> {
        let names: Vec<String> = paths.into_iter().map(ToString::to_string).collect();
        let mut stored = BTreeSet::new();
        for asked in names.chunks(MAX_ASKED) {
            let mut patience = Patience::default();
            let reply = loop {
                let request = v1::StoredRequest { paths: asked.to_vec() };
                match self.paths().stored(request).await {
                    Ok(reply) => break reply.into_inner(),
                    Err(status) => patience.after(status.into()).await?,
                }
            };
            for path in reply.stored {
                stored.insert(store_path(&path)?);
            }
        }
        Ok(stored)
    }

    fn paths(&self) -> PathsClient<Channel> {
        PathsClient::new(self.coordinator.clone()).max_decoding_message_size(fleet_wire::MAX_MESSAGE)
    }

    fn chunks(&self) -> ChunksClient<Channel> {
        ChunksClient::new(self.coordinator.clone()).max_decoding_message_size(fleet_wire::MAX_MESSAGE)
    }
}

/// How long one transfer is tried. A coordinator that is not there is waited for: whoever waits no more, because
/// the lease is void, drops the future.
#[derive(Debug, Default)]
struct Patience {
    backoff: Backoff,
    faults: u32,
    lost_daemon: bool,
}

impl Patience {
    /// Returns when it is time for another try, or the error when another would not help.
    async fn after(&mut self, error: TransferError) -> Result<(), TransferError> {
        match &error {
            // A connection that lay idle may have ended long ago: the next one is new.
            TransferError::Daemon(lost) if lost.remote().is_none() && !self.lost_daemon => {
                self.lost_daemon = true;
                return Ok(());
            }
            TransferError::Coordinator(status) => match status.code() {
                Code::Unavailable => {}
                // What may pass: its disk may be cleared, a chunk that it lost be put again.
                Code::Unknown
                | Code::Internal
                | Code::Cancelled
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::FailedPrecondition => self.faults += 1,
                _ => return Err(error),
            },
            _ => return Err(error),
        }
        if self.faults >= TRIES {
            return Err(error);
        }
        tracing::debug!(error = &error as &dyn std::error::Error, "a transfer is tried again");
        self.backoff.ended_after(Duration::ZERO);
        tokio::time::sleep(self.backoff.wait(backoff::random())).await;
        Ok(())
    }
}

/// The first few, for people.
fn listed(paths: &BTreeSet<StorePath>) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = paths.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = paths.len().saturating_sub(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

fn store_path(text: &str) -> Result<StorePath, TransferError> {
    text.parse().map_err(|_| TransferError::Described(format!("{text:?} is not a store path")))
}
