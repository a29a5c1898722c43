//! Store paths between this worker's store and the coordinator's, where every worker of a fleet of several machines
//! finds them. `publish` brings what was built or evaluated here, `inputs` fetches what is built elsewhere.
//!
//! Owns who fetches what right now, and how patient a transfer is. Must not decide what is built.

pub(crate) mod archive;
mod claims;
pub(crate) mod fetch;
mod inputs;
pub(crate) mod manifest_cache;
mod publish;
mod seeds;
mod standing;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_nix::daemon::DaemonError;
use fleet_nix::store_path::StorePath;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::chunks_client::ChunksClient;
use fleet_wire::v1::paths_client::PathsClient;
use thiserror::Error;
use tokio::sync::Semaphore;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::backoff::{self, Backoff};
use crate::config::Config;
use crate::peer::Keys;
use claims::Claims;
use fetch::{Coordinator, FetchError, Fetcher, FetcherConfig};
use manifest_cache::ManifestCache;

pub(crate) use inputs::{make_valid, prefetch};
pub(crate) use publish::publish;
pub(crate) use standing::{Standing, Vouchers};

/// Transfers in one direction at a time: each holds some megabytes.
const AT_A_TIME: usize = 4;
/// Paths in one question.
const MAX_ASKED: usize = 65_536;
/// How often what may be a passing fault of the coordinator is tried. One that is not there is waited for.
const TRIES: u32 = 6;

/// Where what is known of cuts is kept, below the state directory.
const CUTS: &str = "cuts";

/// Shared by all jobs.
#[derive(Debug)]
pub(crate) struct Transfer {
    coordinator: Channel,
    fetcher: Fetcher<Coordinator>,
    manifests: Option<Arc<ManifestCache>>,
    fetching: Claims,
    uploads: Semaphore,
    fetches: Semaphore,
    prefetches: Semaphore,
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
    #[error(transparent)]
    Fetch(FetchError),
    #[error("the coordinator describes a path wrongly: {0}")]
    Described(String),
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
            Self::Fetch(FetchError::NotTrusted { .. }) => OutcomeClass::Placement,
            Self::Fetch(FetchError::Refused(error))
                if error.to_string().contains("No space left on device") =>
            {
                OutcomeClass::DiskFull
            }
            Self::Daemon(_) => OutcomeClass::DaemonGone,
            _ => OutcomeClass::Transfer,
        }
    }
}

impl From<FetchError> for TransferError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Daemon(error) => Self::Daemon(error),
            FetchError::Coordinator(status) => Self::Coordinator(status),
            FetchError::Lost(paths) => Self::Lost(paths),
            other => Self::Fetch(other),
        }
    }
}

impl From<Status> for TransferError {
    fn from(status: Status) -> Self {
        Self::Coordinator(Box::new(status))
    }
}

impl Transfer {
    /// With the coordinator at a channel that connects again by itself; `credentials` is the file with this worker's
    /// certificate, `keys` whatever the coordinator signs with.
    pub(crate) async fn new(
        config: &Config,
        coordinator: Channel,
        credentials: Option<PathBuf>,
        keys: Keys,
    ) -> Self {
        let manifests = match &config.state_dir {
            Some(state_dir) => open_manifests(state_dir.join(CUTS)).await,
            None => None,
        };
        let fetcher = FetcherConfig {
            daemon_patience: config.daemon_patience,
            manifests: manifests.clone(),
            ..FetcherConfig::new(config.daemon.clone(), credentials, keys)
        };
        Self {
            fetcher: Fetcher::new(fetcher, Coordinator(coordinator.clone())),
            coordinator,
            manifests,
            fetching: Claims::default(),
            uploads: Semaphore::new(AT_A_TIME),
            fetches: Semaphore::new(AT_A_TIME),
            prefetches: Semaphore::new(1),
        }
    }

    /// Where archives were cut before.
    pub(crate) fn manifests(&self) -> Option<Arc<ManifestCache>> {
        self.manifests.clone()
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

/// A cache that cannot be used is done without.
async fn open_manifests(directory: PathBuf) -> Option<Arc<ManifestCache>> {
    let shown = directory.display().to_string();
    let opened = tokio::task::spawn_blocking(move || ManifestCache::open(&directory)).await.ok()?;
    match opened {
        Ok(manifests) => Some(Arc::new(manifests)),
        Err(error) => {
            tracing::warn!("{shown} cannot be used, archives are cut each time: {error}");
            None
        }
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
