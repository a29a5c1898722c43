//! The worker's session with its coordinator: hello, then one task for each job, until the stream or the program
//! ends. Cancelling a job drops its task's future, which closes its connections and processes.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonError};
use fleet_nix::proxy::{LocalImports, ProxyConfig, ProxyError, StoreProxy};
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::capabilities::{self, Capabilities, CapabilitiesError};
use crate::config::Config;
use crate::context::{Context, Outbox};
use crate::lane::Lanes;
use crate::planner::Planner;
use crate::roots::Roots;
use crate::{eval_job, lease, realise};

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
        let (sender, messages) = mpsc::channel(OUTBOX);
        let outbox = Outbox(sender);
        outbox.send(Message::Hello(self.hello())).await;
        let mut client = v1::workers_client::WorkersClient::new(channel.clone())
            .max_decoding_message_size(fleet_wire::MAX_MESSAGE);
        let session = client.session(ReceiverStream::new(messages));
        let mut inbound =
            session.await.map_err(|status| WorkerError::Session(Box::new(status)))?.into_inner();
        let context = Arc::new(self.context(outbox, channel).await?);
        let mut jobs = Jobs::default();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = heartbeat.tick() => context.outbox.send(Message::Heartbeat(v1::Heartbeat {})).await,
                () = jobs.reap() => {}
                received = inbound.message() => match received {
                    Ok(Some(message)) => {
                        if jobs.handle(&context, message).is_break() {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(status) => return Err(WorkerError::Session(Box::new(status))),
                },
            }
        }
        Ok(())
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
        }
    }

    async fn context(self, outbox: Outbox, coordinator: Channel) -> Result<Context, WorkerError> {
        let address = self.config.daemon.clone();
        let daemon = Daemon::connect(&address).await?;
        let (trust, store_dir) = (daemon.trust(), daemon.store_dir().clone());
        let planner = Planner::new(daemon, store_dir.clone()).await?;
        Ok(Context {
            store_dir,
            trust,
            proxy: self.proxy,
            roots: Roots::new(Daemon::connect(&address).await?),
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

/// The jobs under way and how to stop them. The coordinator bounds them by the slots of the hello.
#[derive(Debug, Default)]
struct Jobs {
    tasks: JoinSet<JobId>,
    tokens: HashMap<JobId, CancellationToken>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum JobId {
    Eval(u64),
    Lease(u64),
    Realise(u64),
}

impl Jobs {
    fn handle(
        &mut self,
        context: &Arc<Context>,
        message: v1::CoordinatorMessage,
    ) -> std::ops::ControlFlow<()> {
        let context = context.clone();
        match message.message {
            Some(FromCoordinator::EvalJob(job)) => {
                self.start(JobId::Eval(job.job), eval_job::run(context, job));
            }
            Some(FromCoordinator::Lease(lease)) => {
                self.start(JobId::Lease(lease.lease), lease::run(context, lease));
            }
            Some(FromCoordinator::Realise(job)) => {
                self.start(JobId::Realise(job.job), realise::run(context, job));
            }
            Some(FromCoordinator::CancelEval(job)) => self.cancel(JobId::Eval(job.job)),
            Some(FromCoordinator::CancelLease(lease)) => self.cancel(JobId::Lease(lease.lease)),
            Some(FromCoordinator::Shutdown(_)) => return std::ops::ControlFlow::Break(()),
            Some(FromCoordinator::Welcome(_)) | None => {}
        }
        std::ops::ControlFlow::Continue(())
    }

    fn start(&mut self, id: JobId, work: impl Future<Output = ()> + Send + 'static) {
        let token = CancellationToken::new();
        self.tokens.insert(id, token.clone());
        self.tasks.spawn(async move {
            token.run_until_cancelled(work).await;
            id
        });
    }

    fn cancel(&mut self, id: JobId) {
        if let Some(token) = self.tokens.remove(&id) {
            token.cancel();
        }
    }

    /// Waits for one job's end; forever when there is none.
    async fn reap(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(id)) => drop(self.tokens.remove(&id)),
            Some(Err(error)) => tracing::error!(%error, "a job ended abnormally"),
            None => std::future::pending().await,
        }
    }
}
