//! The worker's session with its coordinator: hello, then one task for each job, until the stream or the program
//! ends. It never waits for a job or for room in a queue: a cancellation is always heard.

use std::sync::Arc;
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonError};
use fleet_nix::proxy::{LocalImports, ProxyConfig, ProxyError, StoreProxy};
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;
use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::capabilities::{self, Capabilities, CapabilitiesError};
use crate::config::Config;
use crate::context::{Context, Outbox};
use crate::jobs::Jobs;
use crate::lane::Lanes;
use crate::planner::Planner;
use crate::roots::Roots;

/// Messages waiting for the coordinator; then builds' logs are kept back and everything else waits.
const OUTBOX: usize = 1024;
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Why a worker cannot work.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The daemon cannot be used.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// What it can build for is not known.
    #[error(transparent)]
    Capabilities(#[from] CapabilitiesError),
    /// A directory cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store proxy cannot start.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The session with the coordinator broke.
    #[error("the session with the coordinator ended")]
    Session(#[source] Box<tonic::Status>),
    /// The coordinator closed the session without saying why.
    #[error("the coordinator closed the session")]
    Closed,
}

/// A worker that has found its daemon.
#[derive(Debug)]
pub struct Worker {
    config: Config,
    capabilities: Capabilities,
    nix_version: String,
    trusted: bool,
    proxy: StoreProxy,
    runtime_dir: tempfile::TempDir,
}

impl Worker {
    /// Finds the daemon and what it can do, and starts the store proxy.
    pub async fn prepare(mut config: Config) -> Result<Self, WorkerError> {
        let directory = |path: &std::path::Path| {
            let path = path.display().to_string();
            move |source| WorkerError::Directory { path, source }
        };
        tokio::fs::create_dir_all(&config.cache_dir).await.map_err(directory(&config.cache_dir))?;
        let daemon = Daemon::connect(&config.daemon).await?;
        config.nix = capabilities::locate(&config.nix)?;
        let capabilities = capabilities::ask(&config.nix).await?;
        let temporary = std::env::temp_dir();
        let runtime_dir =
            tempfile::Builder::new().prefix("fleet-").tempdir().map_err(directory(&temporary))?;
        let listen = runtime_dir.path().join("proxy").join("socket");
        let proxy_config = ProxyConfig::new(listen, config.daemon.clone(), config.imports);
        let imports = Arc::new(LocalImports::new(config.daemon.clone()));
        let proxy = StoreProxy::start(proxy_config, imports).await?;
        let trusted = daemon.trust() == fleet_nix::daemon::Trust::Trusted;
        let nix_version = daemon.nix_version().to_owned();
        Ok(Self { config, capabilities, nix_version, trusted, proxy, runtime_dir })
    }

    /// Works for the coordinator at `channel` until it says so, the session breaks, or `stop`.
    pub async fn run(self, channel: Channel, stop: CancellationToken) -> Result<(), WorkerError> {
        match stop.run_until_cancelled(self.join(channel)).await {
            Some(session) => session?.run(stop).await,
            None => Ok(()),
        }
    }

    /// Opens the session. When it is open, the coordinator counts on this worker.
    pub async fn join(self, channel: Channel) -> Result<Session, WorkerError> {
        let (sender, messages) = mpsc::channel(OUTBOX);
        let outbox = Outbox(sender);
        outbox.send(Message::Hello(self.hello())).await;
        let context = Arc::new(self.context(outbox, channel.clone()).await?);
        let mut client = v1::workers_client::WorkersClient::new(channel)
            .max_decoding_message_size(fleet_wire::MAX_MESSAGE);
        let opened = client.session(ReceiverStream::new(messages)).await;
        let inbound = opened.map_err(|status| WorkerError::Session(Box::new(status)))?.into_inner();
        Ok(Session { context, inbound })
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            name: self.config.name.clone(),
            systems: self.capabilities.systems.clone(),
            features: self.capabilities.features.clone(),
            slots: self.config.slots,
            eval_slots: self.config.eval_slots,
            nix_version: self.nix_version.clone(),
            trusted: self.trusted,
            fleet_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: format!("{}-{}", self.config.name, std::process::id()),
            ..v1::Hello::default()
        }
    }

    async fn context(self, outbox: Outbox, coordinator: Channel) -> Result<Context, WorkerError> {
        let address = self.config.daemon.clone();
        let daemon = Daemon::connect(&address).await?;
        let (trust, store_dir) = (daemon.trust(), daemon.store_dir().clone());
        let planner = Planner::new(address.clone(), daemon, store_dir.clone()).await?;
        Ok(Context {
            store_dir,
            trust,
            proxy: self.proxy,
            roots: Roots::connect(address.clone()).await?,
            lanes: Lanes::new(address),
            planner: Mutex::new(planner),
            infos: Mutex::default(),
            told: Mutex::default(),
            outbox,
            coordinator,
            config: self.config,
            runtime_dir: self.runtime_dir,
        })
    }
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    context: Arc<Context>,
    inbound: Streaming<v1::CoordinatorMessage>,
}

impl Session {
    /// Works until the coordinator says so, the session breaks, or `stop`. Jobs that run then are cancelled.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let Self { context, mut inbound } = self;
        let mut jobs = Jobs::default();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // What stands in a full queue is a sign of life as well.
                _ = heartbeat.tick() => drop(context.outbox.try_send(Message::Heartbeat(v1::Heartbeat::default()))),
                () = jobs.reap() => {}
                received = inbound.message() => match received {
                    Ok(Some(v1::CoordinatorMessage { message: Some(FromCoordinator::Shutdown(_)) })) => {
                        return Ok(());
                    }
                    Ok(Some(message)) => jobs.handle(&context, message),
                    // A coordinator in this process may stop a moment before we hear that we should.
                    _ if stop.is_cancelled() => return Ok(()),
                    Ok(None) => return Err(WorkerError::Closed),
                    Err(status) => return Err(WorkerError::Session(Box::new(status))),
                },
            }
        }
    }
}
