//! Puts the parts together and serves them over whatever connections it is given.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use fleet_core::Fleet;
use fleet_store::{ChunkStore, StoreError};
use fleet_wire::{MAX_MESSAGE, v1};
use futures::Stream;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};

use crate::config::Config;
use crate::journal::{FileJournal, JournalError};
use crate::logs::LogWriter;
use crate::rpc::{ChunksService, RunsService, WorkersService};
use crate::shell::{Feeds, Input, Shell};

/// Bytes under way in one direction of an in-memory connection.
const IN_MEMORY_BUFFER: usize = 1 << 20;

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
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The chunk store cannot be opened.
    #[error(transparent)]
    Chunks(#[from] StoreError),
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
    shell: mpsc::Sender<Input>,
    feeds: Feeds,
    chunks: ChunkStore,
    logs: LogWriter,
    config: Config,
}

impl Coordinator {
    /// Opens the state directory and starts the shell; must be called in a runtime.
    #[allow(clippy::unused_async, reason = "opening the journal waits")]
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let state = &config.state_dir;
        create_private(state)?;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let journal =
            FileJournal::open(&state.join("journal"), &format!("{started:015}-{}", std::process::id()))?;
        let logs_dir = state.join("logs");
        let logs = LogWriter::open(logs_dir.clone())
            .map_err(|source| StartError::Directory { path: logs_dir.display().to_string(), source })?;
        let chunks = ChunkStore::open(&state.join("objects"))?;
        let fleet = Fleet::new(config.fleet.clone());
        let max_workers = config.fleet.max_workers;
        let (shell, feeds) =
            Shell::new(fleet, max_workers, Box::new(journal), logs.clone(), config.limits).spawn();
        Ok(Self { shell, feeds, chunks, logs, config })
    }

    /// Serves connections until `stop`; then open streams are cut. A coordinator that cannot go on ends its
    /// streams by itself.
    pub async fn serve<I, IO, E>(&self, incoming: I, stop: CancellationToken) -> Result<(), ServeError>
    where
        I: Stream<Item = Result<IO, E>>,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IO::ConnectInfo: Clone + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let runs = RunsService {
            shell: self.shell.clone(),
            feeds: self.feeds.clone(),
            logs: self.logs.clone(),
            journal_dir: self.config.state_dir.join("journal"),
        };
        let workers = WorkersService { shell: self.shell.clone() };
        let chunks = ChunksService { store: self.chunks.clone() };
        let server = Server::builder()
            .add_service(v1::runs_server::RunsServer::new(runs).max_decoding_message_size(MAX_MESSAGE))
            .add_service(
                v1::workers_server::WorkersServer::new(workers).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(v1::chunks_server::ChunksServer::new(chunks).max_decoding_message_size(MAX_MESSAGE))
            .serve_with_incoming_shutdown(incoming, self.shell.closed());
        tokio::select! {
            ended = server => {
                ended?;
                if self.shell.is_closed() { Err(ServeError::Stopped) } else { Ok(()) }
            }
            () = stop.cancelled() => Ok(()),
        }
    }

    /// Serves this process alone, over in-memory connections, and answers a channel to it.
    pub fn serve_in_memory(&self, stop: CancellationToken) -> Channel {
        let (connections, incoming) = mpsc::channel::<DuplexStream>(4);
        let coordinator = self.clone();
        tokio::spawn(async move {
            use futures::StreamExt;
            let incoming = ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
            if let Err(error) = coordinator.serve(incoming, stop).await {
                tracing::error!(%error, "the in-memory server ended");
            }
        });
        let connector = tower::service_fn(move |_| {
            let connections = connections.clone();
            async move {
                let (near, far) = tokio::io::duplex(IN_MEMORY_BUFFER);
                connections
                    .send(far)
                    .await
                    .map_err(|_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused))?;
                Ok::<_, std::io::Error>(TokioIo::new(near))
            }
        });
        // The address is never looked at.
        Endpoint::from_static("http://in-memory").connect_with_connector_lazy(connector)
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
