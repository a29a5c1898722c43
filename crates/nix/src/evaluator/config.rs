//! What an evaluator needs to know about the machine it runs on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::StoreDir;

/// How long one question may take when nothing else is said.
const DEFAULT_WALL_LIMIT: Duration = Duration::from_mins(30);

/// Where to evaluate, with what, and within which limits.
///
/// The machine's and the user's nix.conf are not read: the same flake gives the same result on every machine.
/// What concerns substituters and builds stands with the daemon.
#[derive(Clone, Debug)]
pub struct EvaluatorConfig {
    /// The `nix` program.
    pub nix: PathBuf,
    /// The store that evaluators talk to: a proxy's URI.
    pub store_uri: String,
    /// The logical store directory.
    pub store_dir: StoreDir,
    /// Each process gets a fresh home directory inside this one.
    pub home: PathBuf,
    /// The fetchers' cache, kept between processes.
    pub cache: PathBuf,
    /// Where programs are that Nix starts, which is git.
    pub search_path: OsString,
    /// Environment variables that are handed over beside the fixed ones, such as `NIX_SSL_CERT_FILE`.
    pub environment: Vec<(OsString, OsString)>,
    /// Experimental features that flakes may use beside the two that flakes need.
    pub features: Vec<String>,
    /// How long one question, a host or a discovery, may take.
    pub host_wall_limit: Duration,
}

impl EvaluatorConfig {
    /// The defaults for a Nix, a store, and two directories of ours.
    pub fn new(nix: PathBuf, store_uri: String, home: PathBuf, cache: PathBuf) -> Self {
        EvaluatorConfig {
            nix,
            store_uri,
            store_dir: StoreDir::default(),
            home,
            cache,
            search_path: directory_of("git").map(PathBuf::into_os_string).unwrap_or_default(),
            environment: Vec::new(),
            features: Vec::new(),
            host_wall_limit: DEFAULT_WALL_LIMIT,
        }
    }
}

/// The directory on our own search path that holds a program.
fn directory_of(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .find(|directory| directory.is_absolute() && is_file(&directory.join(program)))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}
