//! A worker from its start to its end: it finds the daemon, then works for one coordinator, session after session.

use std::path::Path;
use std::sync::Arc;

use fleet_nix::daemon::{Daemon, DaemonError, Trust};
use fleet_nix::proxy::{LocalImports, ProxyConfig, ProxyError, StoreProxy};
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::agent::{Agent, Over, Sessions, Stop};
use crate::backoff::{self, Backoff};
use crate::capabilities::{self, Capabilities, CapabilitiesError};
use crate::clock::Moment;
use crate::config::Config;
use crate::context::Context;
use crate::disk;
use crate::gc_roots::GcRoots;
use crate::health::Health;
use crate::infos::Infos;
use crate::introduced::Introduced;
use crate::lane::Lanes;
use crate::link::Link;
use crate::machine;
use crate::peer::{Gone, Keys, PeerConfig, Server, ServerError};
use crate::planner::Planner;
use crate::presence::Presence;
use crate::refusal::{Pace, Refusal};
use crate::renewal;
use crate::roots::Roots;
use crate::session::{self, End, Stream};
use crate::spool::{Spool, SpoolError};
use crate::suspects::Suspects;
use crate::transfer::Transfer;

/// The protocol revision spoken here.
const PROTOCOL: u32 = 2;

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
    /// What an earlier start kept cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Other workers cannot be served.
    #[error(transparent)]
    Peers(#[from] ServerError),
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
    hello: v1::Hello,
    proxy: StoreProxy,
    runtime_dir: tempfile::TempDir,
    spool: Spool,
}

impl Worker {
    /// Finds the daemon and what it can do, and starts the store proxy.
    pub async fn prepare(mut config: Config) -> Result<Self, WorkerError> {
        let directory = |path: &Path| {
            let path = path.display().to_string();
            move |source| WorkerError::Directory { path, source }
        };
        tokio::fs::create_dir_all(&config.cache_dir).await.map_err(directory(&config.cache_dir))?;
        let boot_id = machine::boot_id();
        let spool = match &config.state_dir {
            Some(state) => Spool::open(&state.join("spool"), &boot_id, config.spool_bytes)?,
            None => Spool::until_sent(),
        };
        let daemon = Daemon::connect(&config.daemon).await?;
        config.nix = capabilities::locate(&config.nix)?;
        let capabilities = capabilities::ask(&config.nix).await?;
        let build_dir = || capabilities.build_dir(config.daemon.root.as_deref(), daemon.nix_version());
        let build_dir = config.build_dir.clone().unwrap_or_else(build_dir);
        config.build_dir = Some(build_dir);
        let temporary = std::env::temp_dir();
        let runtime_dir =
            tempfile::Builder::new().prefix("fleet-").tempdir().map_err(directory(&temporary))?;
        let listen = runtime_dir.path().join("proxy").join("socket");
        let proxy_config = ProxyConfig::new(listen, config.daemon.clone(), config.imports);
        let imports = Arc::new(LocalImports::new(config.daemon.clone()));
        let proxy = StoreProxy::start(proxy_config, imports).await?;
        let hello = hello(&config, &capabilities, &daemon, boot_id);
        Ok(Self { config, hello, proxy, runtime_dir, spool })
    }

    /// What it tells a coordinator of itself.
    pub fn offer(&self) -> &v1::Hello {
        &self.hello
    }

    /// Works for the coordinator at the end of `link` until `stop` or the coordinator ends it. Whatever else ends a
    /// session, another is opened.
    pub async fn run(self, link: impl Into<Link>, stop: Stop) -> Result<(), WorkerError> {
        let link = link.into();
        let mut hello = self.hello.clone();
        let context = Arc::new(self.context(link.channel.clone(), link.credentials()).await?);
        let mut agent = Agent::new(context, Sessions::Many, stop);
        // Dropped with the worker.
        let mut beside = JoinSet::new();
        beside.spawn(disk::keep_room(agent.context.clone()));
        if let Some(file) = link.credentials().map(Path::to_owned) {
            let channel = link.channel.clone();
            beside.spawn(async move { renewal::keep_fresh(channel, &file).await });
        }
        let mut backoff = Backoff::default();
        let context = agent.context.clone();
        let peers = serve_peers(&context, link.credentials()).await?;
        let port = peers.as_ref().map(|server| server.address().port());
        hello.peer_addresses = peer_addresses(&context.config, port);
        loop {
            let hello = v1::Hello { holds: agent.holds(), ..hello.clone() };
            let opened = Moment::now();
            let end = match agent.meanwhile(session::open(&context, hello)).await {
                Err(Over) => return Ok(()),
                Ok(Ok(stream)) => {
                    tracing::info!("the session is open");
                    stream.serve(&mut agent).await
                }
                Ok(Err(status)) => {
                    agent.left();
                    End::Broken(status)
                }
            };
            let wait = match end {
                End::Over => return Ok(()),
                End::Shutdown => {
                    agent.abandon();
                    return Ok(());
                }
                End::Paused => {
                    tracing::warn!("this worker stood still: asking the coordinator what is still ours");
                    continue;
                }
                End::Closed => {
                    tracing::warn!("the coordinator closed the session");
                    backoff.ended_after(opened.elapsed());
                    backoff.wait(backoff::random())
                }
                End::Broken(status) => {
                    let refusal = Refusal::of(&status, link.identity().as_ref());
                    refusal.tell();
                    backoff.ended_after(opened.elapsed());
                    match refusal.pace {
                        Pace::Soon => backoff.wait(backoff::random()),
                        Pace::Slowly => backoff::slowly(backoff::random()),
                    }
                }
            };
            tracing::debug!(wait_ms = wait.as_millis(), "waiting before the next session");
            if agent.meanwhile(tokio::time::sleep(wait)).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Opens a session that has no successor. When it is open, the coordinator counts on this worker.
    pub async fn join(self, channel: Channel) -> Result<Session, WorkerError> {
        let hello = self.hello.clone();
        let context = Arc::new(self.context(channel, None).await?);
        let stream = session::open(&context, hello).await.map_err(WorkerError::Session)?;
        Ok(Session { context, stream })
    }

    async fn context(self, coordinator: Channel, credentials: Option<&Path>) -> Result<Context, WorkerError> {
        let presence = Arc::new(Presence::new());
        let keys = internal_keys(presence.clone());
        let transfer =
            Transfer::new(&self.config, coordinator.clone(), credentials.map(Path::to_owned), keys).await;
        let address = self.config.daemon.clone();
        let daemon = Daemon::connect(&address).await?;
        let (trust, store_dir) = (daemon.trust(), daemon.store_dir().clone());
        let planner = Planner::new(address.clone(), daemon, store_dir.clone()).await?;
        let state_dir = self.config.state_dir.as_deref();
        let gc_roots = GcRoots::open(state_dir).map_err(|source| WorkerError::Directory {
            path: state_dir.unwrap_or(Path::new("")).join("gcroots").display().to_string(),
            source,
        })?;
        Ok(Context {
            health: Health::watch(&self.config, &store_dir),
            store_dir,
            trust,
            proxy: self.proxy,
            roots: Roots::connect(address.clone(), self.config.daemon_patience).await?,
            lanes: Lanes::new(address, self.config.daemon_patience),
            planner: Mutex::new(planner),
            gc_roots,
            infos: Infos::default(),
            told: Mutex::default(),
            spool: self.spool,
            presence,
            suspects: Suspects::default(),
            introduced: Introduced::default(),
            transfer,
            coordinator,
            config: self.config,
            runtime_dir: self.runtime_dir,
        })
    }
}

fn hello(config: &Config, capabilities: &Capabilities, daemon: &Daemon, boot_id: String) -> v1::Hello {
    v1::Hello {
        name: config.name.clone(),
        systems: capabilities.systems.clone(),
        features: capabilities.features.clone(),
        slots: config.slots,
        eval_slots: config.eval_slots,
        nix_version: daemon.nix_version().to_owned(),
        trusted: daemon.trust() == Trust::Trusted,
        fleet_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id,
        instance_id: format!("{:016x}{:016x}", backoff::random(), backoff::random()),
        holds: Vec::new(),
        mandatory_features: config.mandatory_features.clone(),
        speed: config.speed,
        nix_lane: capabilities::lane(daemon.nix_version()).to_owned(),
        protocol: PROTOCOL,
        emulated_systems: match &config.emulated_systems {
            Some(systems) => systems.clone(),
            None => capabilities.emulated(),
        },
        peer_addresses: Vec::new(),
    }
}

/// What the coordinator signs with, as it said last.
fn internal_keys(presence: Arc<Presence>) -> Keys {
    Keys::new(move || presence.welcome().internal_keys.iter().filter_map(|key| key.parse().ok()).collect())
}

/// Has other workers fetch from here, if they may.
async fn serve_peers(context: &Context, credentials: Option<&Path>) -> Result<Option<Server>, WorkerError> {
    let Some(listen) = context.config.peer_listen else { return Ok(None) };
    let Some(credentials) = credentials else {
        tracing::warn!(
            "peer_listen is of no use here: without a certificate other workers do not trust this one"
        );
        return Ok(None);
    };
    let keys = internal_keys(context.presence.clone());
    let presence = context.presence.clone();
    let gone = Gone::new(move |path| {
        let paths = vec![path.to_string()];
        presence.mention(Message::PathsLost(v1::PathsLost { paths }));
    });
    let server = Server::start(PeerConfig {
        gone,
        daemon_patience: context.config.daemon_patience,
        manifests: context.transfer.manifests(),
        ..PeerConfig::new(listen, credentials.to_owned(), keys, context.config.daemon.clone())
    });
    let server = server.await?;
    tracing::info!(address = %server.address(), "other workers may fetch from here");
    Ok(Some(server))
}

/// Where other workers find this one, if it serves them at a port.
fn peer_addresses(config: &Config, port: Option<u16>) -> Vec<String> {
    match port {
        Some(port) if config.peer_addresses.is_empty() => vec![format!("{}:{port}", config.name)],
        Some(_) => config.peer_addresses.clone(),
        None => Vec::new(),
    }
}

/// An open session of a worker that ends with it.
#[derive(Debug)]
pub struct Session {
    context: Arc<Context>,
    stream: Stream,
}

impl Session {
    /// Works until the coordinator says so, the session breaks, or `stop`. Jobs that run then are cancelled.
    pub async fn run(self, stop: CancellationToken) -> Result<(), WorkerError> {
        let stopping = Stop { at_once: stop.clone(), ..Stop::default() };
        let mut agent = Agent::new(self.context, Sessions::One, stopping);
        match self.stream.serve(&mut agent).await {
            End::Over | End::Shutdown => Ok(()),
            // A coordinator in this process may stop a moment before we hear that we should.
            _ if stop.is_cancelled() => Ok(()),
            End::Closed | End::Paused => Err(WorkerError::Closed),
            End::Broken(status) => Err(WorkerError::Session(status)),
        }
    }
}
