//! The worker's settings; every default stands here.

use std::path::PathBuf;
use std::time::Duration;

use fleet_nix::daemon::DaemonAddress;
use fleet_nix::proxy::ImportPolicy;

/// Settings of one worker.
#[derive(Clone, Debug)]
pub struct Config {
    /// For people.
    pub name: String,
    /// Kept between starts: the evaluators' fetcher cache.
    pub cache_dir: PathBuf,
    /// The Nix daemon.
    pub daemon: DaemonAddress,
    /// The `nix` command.
    pub nix: PathBuf,
    /// Leases at a time.
    pub slots: u32,
    /// Evaluators at a time; 0 for a worker that only builds.
    pub eval_slots: u32,
    /// What one host's evaluation may take.
    pub host_wall_limit: Duration,
    /// Whether evaluation may import from derivations.
    pub imports: ImportPolicy,
}

impl Config {
    /// The defaults: half the processors evaluate (at most four), all of them build.
    pub fn new(name: String, cache_dir: PathBuf, daemon: DaemonAddress) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let processors = u32::try_from(processors).unwrap_or(1);
        Self {
            name,
            cache_dir,
            daemon,
            nix: "nix".into(),
            slots: processors,
            eval_slots: (processors / 2).clamp(1, 4),
            host_wall_limit: Duration::from_mins(30),
            imports: ImportPolicy::Allow,
        }
    }
}
