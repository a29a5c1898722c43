//! Where a proxy listens, what it stands in front of, and what it permits.

use std::path::PathBuf;

use crate::daemon::DaemonAddress;

/// How many bytes of derivations are remembered when nothing else is said.
const DEFAULT_SEEN_BYTES: usize = 64 * 1024 * 1024;
/// How many paths are held when nothing else is said: several updates of a large fleet.
const DEFAULT_HELD_PATHS: usize = 512 * 1024;

/// Whether evaluation may build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportPolicy {
    /// What evaluation needs is built.
    Allow,
    /// Such an evaluation fails.
    Forbid,
}

/// What a proxy is told at its start.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The socket to make. Its directory is made if it is missing, and may be entered by its owner only.
    pub listen: PathBuf,
    /// The daemon behind the proxy.
    pub upstream: DaemonAddress,
    /// Whether evaluation may build.
    pub imports: ImportPolicy,
    /// How many bytes of derivations are remembered; the oldest are forgotten first.
    pub seen_bytes: usize,
    /// How many paths are held against garbage collection; of more, the older are let go.
    pub held_paths: usize,
}

impl ProxyConfig {
    /// The defaults for a socket in front of a daemon.
    pub fn new(listen: PathBuf, upstream: DaemonAddress, imports: ImportPolicy) -> Self {
        ProxyConfig {
            listen,
            upstream,
            imports,
            seen_bytes: DEFAULT_SEEN_BYTES,
            held_paths: DEFAULT_HELD_PATHS,
        }
    }
}
