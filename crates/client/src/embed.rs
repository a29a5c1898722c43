//! Coordinator and worker in this process: the real ones, over an in-memory connection, against the local Nix
//! daemon. Owns their lifetime; decides nothing.

use std::path::PathBuf;
use std::time::Duration;

use fleet_coordinator::{Coordinator, StartError};
use fleet_nix::daemon::{AddressError, DaemonAddress};
use fleet_worker::{Worker, WorkerError};
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// How long builders may take to end after the session did.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

/// What embedded mode needs to know.
#[derive(Clone, Debug)]
pub struct EmbedConfig {
    /// Chunks, logs and the journal.
    pub state_dir: PathBuf,
    /// The evaluators' fetcher cache.
    pub cache_dir: PathBuf,
    /// Store URI; none takes it from the environment as Nix does.
    pub store: Option<String>,
    /// The `nix` command.
    pub nix: PathBuf,
    /// Builds at a time; none for one a processor.
    pub slots: Option<u32>,
    /// Evaluators at a time; none for the worker's default.
    pub eval_slots: Option<u32>,
}

/// Why embedded mode cannot start.
#[derive(Debug, Error)]
pub enum EmbedError {
    /// The store URI is not one of a daemon.
    #[error(transparent)]
    Store(#[from] AddressError),
    /// The coordinator cannot start.
    #[error(transparent)]
    Coordinator(#[from] StartError),
    /// The worker cannot start.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// Both halves, running.
#[derive(Debug)]
pub struct Embedded {
    /// Leads to the coordinator.
    pub channel: Channel,
    stop: CancellationToken,
    worker: Option<JoinHandle<Result<(), WorkerError>>>,
}

/// Starts a coordinator and a worker in this process.
pub async fn start(config: EmbedConfig) -> Result<Embedded, EmbedError> {
    let address = match &config.store {
        Some(uri) => DaemonAddress::from_store_uri(uri)?,
        None => DaemonAddress::from_env()?,
    };
    let mut worker = fleet_worker::Config::new("embedded".to_owned(), config.cache_dir.clone(), address);
    worker.nix.clone_from(&config.nix);
    worker.slots = config.slots.unwrap_or(worker.slots);
    worker.eval_slots = config.eval_slots.unwrap_or(worker.eval_slots);
    // There is no other worker that could have more room: it is tried.
    worker.min_free_bytes = 0;
    let worker = Worker::prepare(worker).await?;
    let mut embedded = start_coordinator(&config).await?;
    let (channel, stop) = (embedded.channel.clone(), embedded.stop.clone());
    // A run that came before its worker would find nobody to work for it.
    let session = worker.join(channel).await?;
    embedded.worker = Some(tokio::spawn(session.run(stop)));
    Ok(embedded)
}

/// Starts a coordinator alone: enough to look at what earlier runs left.
pub async fn start_coordinator(config: &EmbedConfig) -> Result<Embedded, EmbedError> {
    let mut coordinator = fleet_coordinator::Config::new(config.state_dir.clone());
    // No other worker can join: what this one cannot build is never built.
    coordinator.fleet = coordinator.fleet.embedded();
    let stop = CancellationToken::new();
    let channel = Coordinator::start(coordinator).await?.serve_in_memory(stop.clone());
    Ok(Embedded { channel, stop, worker: None })
}

impl Embedded {
    /// Ends both; builds still running are cancelled.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Some(worker) = self.worker
            && let Ok(Ok(Err(error))) = tokio::time::timeout(SHUTDOWN_WITHIN, worker).await
        {
            tracing::debug!(%error, "the embedded worker ended with an error");
        }
    }
}
