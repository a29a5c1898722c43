//! The proxy itself: its socket, its clients, and what it has seen. Dropping it ends them all.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::task::{AbortHandle, JoinSet};

use crate::StorePath;
use crate::daemon::DaemonAddress;

use super::roots::Roots;
use super::seen::{SeenDerivation, SeenDerivations};
use super::session::{self, Shared};
use super::upstream::Faults;
use super::{BuildImports, ProxyConfig, ProxyError};

/// Clients at a time; an evaluator needs one or two.
const CLIENTS: usize = 64;

/// How long after one that failed a client is accepted.
const RETRY: Duration = Duration::from_millis(100);

/// A running proxy.
pub struct StoreProxy {
    shared: Arc<Shared>,
    listening: AbortHandle,
}

impl StoreProxy {
    /// Reaches the daemon, makes the socket, and listens.
    pub async fn start(
        config: ProxyConfig,
        imports: Arc<dyn BuildImports>,
    ) -> Result<StoreProxy, ProxyError> {
        let roots = Roots::start(config.upstream.clone(), config.held_paths).await?;
        let listener = listen(&config.listen)?;
        let seen = SeenDerivations::new(config.seen_bytes);
        let shared = Arc::new(Shared { config, imports, roots, seen, faults: Faults::default() });
        let listening = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(StoreProxy { shared, listening })
    }

    /// What evaluators take as their store.
    pub fn store_uri(&self) -> String {
        let config = &self.shared.config;
        DaemonAddress { socket: config.listen.clone(), ..config.upstream.clone() }.store_uri()
    }

    /// How often a request failed because of the daemon or the connection to it, not because of what was asked.
    /// An evaluation during which it grows says nothing about the flake.
    pub fn faults(&self) -> u64 {
        self.shared.faults.count()
    }

    /// A derivation as an evaluator wrote it; nothing when none did, or it was forgotten.
    pub fn derivation(&self, path: &StorePath) -> Option<Arc<SeenDerivation>> {
        self.shared.seen.get(path)
    }
}

impl std::fmt::Debug for StoreProxy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StoreProxy").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl Drop for StoreProxy {
    fn drop(&mut self) {
        self.listening.abort();
        let _ = fs::remove_file(&self.shared.config.listen);
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    let mut clients = JoinSet::new();
    loop {
        // A client over the limit waits in the socket's backlog.
        tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS => match accepted {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    clients.spawn(async move { session::serve(&shared, stream).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "the store proxy cannot accept an evaluator");
                    // What is short now, such as file descriptors, is still short an instant later.
                    tokio::time::sleep(RETRY).await;
                }
            },
            Some(ended) = clients.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "closed an evaluator's store connection"),
                Err(error) => tracing::warn!(%error, "an evaluator's store connection failed"),
            },
        }
    }
}

fn listen(socket: &Path) -> Result<UnixListener, ProxyError> {
    let failed = |source: io::Error| ProxyError::Listen { socket: socket.to_owned(), source };
    let directory = socket.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let metadata = fs::metadata(directory).map_err(failed)?;
    if metadata.mode() & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(ProxyError::OpenDirectory { directory: directory.to_owned() });
    }
    // Whoever made it is gone: the directory is ours alone.
    if fs::symlink_metadata(socket).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        fs::remove_file(socket).map_err(failed)?;
    }
    UnixListener::bind(socket).map_err(|source| match source.kind() {
        // The one thing that is wrong with a path whose directory exists.
        io::ErrorKind::InvalidInput => ProxyError::LongPath { socket: socket.to_owned() },
        _ => failed(source),
    })
}
