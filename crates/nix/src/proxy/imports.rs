//! Import from derivation: what evaluation itself needs built, and who builds it.

use std::ops::ControlFlow;

use async_trait::async_trait;

use crate::DerivedPath;
use crate::daemon::{BuildResult, Daemon, DaemonAddress, DaemonError};

/// Builds what an evaluation waits for.
#[async_trait]
pub trait BuildImports: Send + Sync {
    /// Makes the paths valid in the store that evaluators read. A result for each; dropping the future stops
    /// the work.
    async fn build(&self, wanted: Vec<DerivedPath>) -> Result<Vec<(DerivedPath, BuildResult)>, ImportError>;
}

/// Why nothing can be said about what was wanted.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The daemon.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// Whoever else builds.
    #[error("{0}")]
    Other(String),
}

/// Builds on the daemon behind the proxy.
#[derive(Debug)]
pub struct LocalImports {
    daemon: DaemonAddress,
}

impl LocalImports {
    /// Connects for each import anew.
    pub fn new(daemon: DaemonAddress) -> Self {
        LocalImports { daemon }
    }
}

#[async_trait]
impl BuildImports for LocalImports {
    async fn build(&self, wanted: Vec<DerivedPath>) -> Result<Vec<(DerivedPath, BuildResult)>, ImportError> {
        let mut daemon = Daemon::connect(&self.daemon).await?;
        let results = daemon.build_paths_with_results(&wanted, &mut |_| ControlFlow::Continue(())).await?;
        Ok(results)
    }
}
