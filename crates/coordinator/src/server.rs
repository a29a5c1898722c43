//! Puts the parts together and serves them over whatever connections it is given.

mod admission;
mod connection;
mod frames;
mod front;
mod gate;
mod http;
mod listener;
pub(crate) mod material;
mod program;
mod streams;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use fleet_identity::oidc::Verifier;
use fleet_journal::Standby;
use fleet_nix::StorePath;
use fleet_store::{Objects, StoreError};
use fleet_wire::{DESCRIPTORS, MAX_MESSAGE, v1};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::access::{Access, Directory, Failures, Gatekeeper};
use crate::cache::{Pages, Shelf, Signer};
use crate::collect::{Collection, Saved};
use crate::config::Config;
use crate::internal_key::{InternalKeyError, InternalKeys};
use crate::log_index::{IndexError, LogIndex};
use crate::logs::LogWriter;
use crate::paths::{PathTable, Usage};
use crate::rpc::{
    AdminService, CacheService, ChunksService, EnrolmentService, MAX_ADMIN, MAX_CACHE, MAX_ENROLMENT,
    PathsService, RunsService, WorkersService,
};
use crate::shell::{Handle, Input, RestoreFailed, Settings, Shell};
use http::Audience;

pub(crate) use admission::network;
pub(crate) use connection::{Connection, Peer, PeerOrigin};
pub use listener::ListenError;
pub(crate) use material::Material;
pub use material::MaterialError;
pub use program::{Program, ProgramError};
pub(crate) use streams::{Direction, Endable, OpenStream, OpenStreams, TooMany};

/// Bytes under way in one direction of an in-memory connection.
const IN_MEMORY_BUFFER: usize = 1 << 20;
/// Connections that wait to be served.
const ACCEPTED: usize = 64;
/// The largest message of the chunk service: 65,536 digests, or a chunk of 1 MiB that does not compress.
const MAX_CHUNKS_MESSAGE: usize = 4 << 20;
/// Paths that were forgotten, and the shell was not told.
const FORGOTTEN: usize = 64;
/// How long an upload may take from the question what is missing to the last answer, if the grace is not shorter.
const IN_FLIGHT_S: u32 = 3_600;
/// The largest message of services that are asked short questions.
const MAX_QUESTION: usize = 16 << 10;

/// Why a coordinator cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A directory of the state cannot be made.
    #[error("cannot create {path}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The journal cannot be gone on with.
    #[error(transparent)]
    Journal(#[from] RestoreFailed),
    /// The internal keys cannot be read or made.
    #[error(transparent)]
    InternalKey(#[from] InternalKeyError),
    /// The index of logs cannot be opened.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The object store cannot be opened.
    #[error(transparent)]
    Objects(#[from] StoreError),
}

/// Why a coordinator serves no more.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The connections failed as a whole.
    #[error("cannot serve")]
    Transport(#[from] tonic::transport::Error),
    /// It cannot go on, and has said why to its log and to those who watch its runs.
    #[error("the coordinator stopped, because it could not go on")]
    Stopped,
}

/// A running coordinator. Dropping it, and all channels to it, ends it.
#[derive(Clone, Debug)]
pub struct Coordinator {
    shell: Handle,
    directory: Directory,
    objects: Objects,
    paths: PathTable,
    collection: Collection,
    keys: InternalKeys,
    logs: LogWriter,
    config: Config,
}

/// What only a coordinator with a port of its own has.
#[derive(Clone, Debug)]
struct Enrolling {
    material: Arc<ArcSwap<Material>>,
    failures: Arc<Failures>,
    signer: Arc<Signer>,
    health: HealthReporter,
}

impl Coordinator {
    /// Opens the state directory and starts the shell; must be called in a runtime.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        // What it waits for is large; whoever waits for it should not be.
        Box::pin(Self::open(config)).await
    }

    async fn open(config: Config) -> Result<Self, StartError> {
        let state = &config.state_dir;
        create_private(state)?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let index = LogIndex::open(&state.join("journal"), &format!("{started:015}-{}", std::process::id()))?;
        let logs_dir = state.join("logs");
        let logs = LogWriter::open(logs_dir.clone())
            .map_err(|source| StartError::Directory { path: logs_dir.display().to_string(), source })?;
        let objects = Objects::open(&config.objects())?;
        objects.probe().await?;
        let standby = if config.standby { Standby::Wait } else { Standby::Refuse };
        let journal = fleet_journal::open(&config.location(), standby).await.map_err(RestoreFailed::from)?;
        // Whoever had the journal before may have changed what is kept until now.
        let (forgotten, damaged) = mpsc::channel(FORGOTTEN);
        let saved = Saved::new(state);
        let usage = Usage::new(config.retention.grace_s.min(IN_FLIGHT_S), saved.read());
        let paths = PathTable::open(&objects, usage, forgotten).await?;
        let keys = InternalKeys::load(&internal_key_files(&config), state)?;
        let mut shell = Shell::open(settings(&config, &keys), journal, index, logs.clone()).await?;
        let kept: Vec<StorePath> = paths.kept().into_iter().map(|(path, _)| path).collect();
        shell.take_stock(&kept).await?;
        let shell = shell.spawn(Some(paths.clone()));
        tokio::spawn(tell_forgotten(damaged, shell.inputs.downgrade()));
        let weak = shell.inputs.downgrade();
        let collection = Collection::new(&objects, paths.clone(), weak, config.retention, state);
        tokio::spawn(collection.clone().run());
        let directory = shell.registry.clone();
        Ok(Self { shell, directory, objects, paths, collection, keys, logs, config })
    }

    /// Ends the shell between two words, as a crash would. What was answered is durable.
    pub fn halt(&self) {
        self.shell.halt.cancel();
    }

    /// The services for runs and workers; with `enrolling` also those for administrators and newcomers.
    fn services(&self, enrolling: Option<Enrolling>) -> Routes {
        let runs = RunsService {
            shell: self.shell.inputs.clone(),
            feeds: self.shell.feeds.clone(),
            read_only: self.shell.read_only.clone(),
            logs: self.logs.clone(),
            index_dir: self.config.state_dir.join("journal"),
            usage: self.paths.usage().clone(),
        };
        let workers = WorkersService { shell: self.shell.inputs.clone() };
        let chunks = ChunksService {
            store: self.objects.chunks(),
            table: self.paths.clone(),
            shell: self.shell.inputs.clone(),
        };
        let runs = v1::runs_server::RunsServer::new(runs).max_decoding_message_size(MAX_MESSAGE);
        let workers = v1::workers_server::WorkersServer::new(workers).max_decoding_message_size(MAX_MESSAGE);
        let chunks =
            v1::chunks_server::ChunksServer::new(chunks).max_decoding_message_size(MAX_CHUNKS_MESSAGE);
        let paths = PathsService {
            table: self.paths.clone(),
            keys: self.keys.clone(),
            shell: self.shell.inputs.clone(),
        };
        let paths = v1::paths_server::PathsServer::new(paths).max_decoding_message_size(MAX_MESSAGE);
        let routes = Routes::new(runs).add_service(workers).add_service(chunks).add_service(paths);
        match enrolling {
            Some(enrolling) => self.with_enrolment(routes, enrolling),
            None => routes,
        }
    }

    fn with_enrolment(&self, routes: Routes, enrolling: Enrolling) -> Routes {
        let Enrolling { material, failures, signer, health } = enrolling;
        let cache = CacheService {
            collection: self.collection.clone(),
            table: self.paths.clone(),
            objects: self.objects.clone(),
            signer,
            shell: self.shell.inputs.clone(),
        };
        let admin = AdminService {
            shell: self.shell.inputs.clone(),
            directory: self.directory.clone(),
            material: material.clone(),
        };
        let enrolment = EnrolmentService {
            shell: self.shell.inputs.clone(),
            directory: self.directory.clone(),
            material,
            failures,
        };
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("the descriptors were made by the build");
        routes
            .add_service(v1::admin_server::AdminServer::new(admin).max_decoding_message_size(MAX_ADMIN))
            .add_service(v1::cache_server::CacheServer::new(cache).max_decoding_message_size(MAX_CACHE))
            .add_service(
                v1::enrolment_server::EnrolmentServer::new(enrolment)
                    .max_decoding_message_size(MAX_ENROLMENT),
            )
            .add_service(
                HealthServer::new(HealthService::from_health_reporter(health))
                    .max_decoding_message_size(MAX_QUESTION),
            )
            .add_service(reflection.max_decoding_message_size(MAX_QUESTION))
    }

    /// What is served to plain HTTP clients.
    fn pages(&self, gatekeeper: Gatekeeper, enrolling: &Enrolling) -> Pages {
        let signer = enrolling.signer.clone();
        let published = Shelf::new(self.paths.clone(), self.objects.chunks());
        Pages::new(gatekeeper, self.config.cache.clone(), signer, published, self.logs.clone())
    }

    /// Whether the shell answers: it does all that is done here.
    pub async fn lives(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        let mut read_only = self.shell.read_only.clone();
        tokio::select! {
            // It waits for room on its disk, and for nothing else.
            full = read_only.wait_for(|why| !why.is_empty()) => full.is_ok(),
            lives = async { self.shell.inputs.send(Input::Workers(reply)).await.is_ok() && answer.await.is_ok() } => lives,
        }
    }

    /// Ends when the shell has: the coordinator cannot go on.
    async fn stopped(&self) {
        self.shell.inputs.closed().await;
    }

    /// Serves this process alone, over in-memory connections, and answers a channel to it.
    pub fn serve_in_memory(&self, stop: CancellationToken) -> Channel {
        let (connections, accepted) = mpsc::channel::<Connection>(ACCEPTED);
        let coordinator = self.clone();
        tokio::spawn(async move {
            let failures = Arc::new(Failures::new(u32::MAX));
            let directory = coordinator.directory.clone();
            let gatekeeper = Gatekeeper::new(directory, Verifier::default(), usize::MAX, failures);
            let services = Access::new(coordinator.services(None), gatekeeper);
            let streams = coordinator.config.server.max_streams;
            let stopped = coordinator.stopped();
            let server = http::serve(services, accepted, Audience::ThisProcess, streams, stopped);
            tokio::select! {
                ended = server => {
                    let error = ended.err().map_or(ServeError::Stopped, ServeError::Transport);
                    tracing::error!("the in-memory server ended: {}", fleet_telemetry::with_causes(&error));
                }
                () = stop.cancelled() => {}
            }
        });
        let connector = tower::service_fn(move |_| {
            let connections = connections.clone();
            async move {
                let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(IN_MEMORY_BUFFER);
                connections
                    .send(Connection::in_memory(far))
                    .await
                    .map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        // The address is never looked at.
        Endpoint::from_static("http://in-memory").connect_with_connector_lazy(connector)
    }
}

fn settings(config: &Config, keys: &InternalKeys) -> Settings {
    let Config { fleet, heartbeat_ms, upload_outputs, cache, .. } = config.clone();
    let (internal_keys, upstream_keys) = (keys.public(), cache.upstream_keys);
    Settings { fleet, heartbeat_ms, upload_outputs, internal_keys, upstream_keys }
}

/// Files that are named in place of the key in the state directory.
fn internal_key_files(config: &Config) -> Vec<PathBuf> {
    config.internal_keys.iter().map(|file| config.secret_file(file)).collect()
}

/// Tells the shell which paths are here no more.
async fn tell_forgotten(mut forgotten: mpsc::Receiver<StorePath>, shell: mpsc::WeakSender<Input>) {
    while let Some(path) = forgotten.recv().await {
        let Some(shell) = shell.upgrade() else { return };
        let (reply, told) = oneshot::channel();
        if shell.send(Input::Kept(path, false, reply)).await.is_err() || told.await.is_err() {
            return;
        }
    }
}

fn create_private(directory: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| StartError::Directory { path: directory.display().to_string(), source })
}
