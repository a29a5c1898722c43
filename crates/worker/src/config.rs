//! The worker's settings; every default stands here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use fleet_nix::daemon::DaemonAddress;
use fleet_nix::proxy::ImportPolicy;

/// Settings of one worker.
#[derive(Clone, Debug)]
pub struct Config {
    /// For people; over TLS the certificate's name counts.
    pub name: String,
    /// Kept between starts: the evaluators' fetcher cache.
    pub cache_dir: PathBuf,
    /// Kept between starts: results and logs that have not arrived, in `spool`. None keeps them in memory until they are
    /// sent: for a worker that ends with its session.
    pub state_dir: Option<PathBuf>,
    /// What the spool may hold, bytes. Results are kept beyond it, logs are not.
    pub spool_bytes: u64,
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
    /// Features that a step must require to be built here.
    pub mandatory_features: Vec<String>,
    /// Relative to a common machine.
    pub speed: f64,
    /// Systems that are emulated; none takes those of `extra-platforms` that are of another processor.
    pub emulated_systems: Option<Vec<String>>,
    /// Where the daemon's builds write; none takes it from Nix's settings.
    pub build_dir: Option<PathBuf>,
    /// With less room than this on either disk the worker asks for nothing new; 0 for never.
    pub min_free_bytes: u64,
    /// With less room than this while a step was built its outputs are not trusted.
    pub suspicious_free_bytes: u64,
    /// How often the daemon is asked whether it works.
    pub probe_interval: Duration,
    /// How long it may take to say so.
    pub probe_deadline: Duration,
    /// How long a daemon that cannot be reached is waited for, before a step.
    pub daemon_patience: Duration,
    /// How long a build may wait before its builder starts: another process may hold its lock.
    pub start_within: Duration,
    /// How long what runs may take when the worker is told to end.
    pub drain_timeout: Duration,
    /// Where other workers may fetch what this one has, ADDRESS:PORT; none serves nobody.
    pub peer_listen: Option<SocketAddr>,
    /// Where they are told to find it, HOST:PORT; when empty, at its name and the port it listens on.
    pub peer_addresses: Vec<String>,
    /// With less room than this for the store garbage is collected; 0 for never.
    pub collect_below_bytes: u64,
    /// Until there is this much room.
    pub collect_to_bytes: u64,
    /// How long outputs are kept from the collector that nobody has fetched or published; needs a `state_dir`.
    pub keep_outputs: Duration,
}

impl Config {
    /// The defaults: half the processors evaluate (at most four), all of them build.
    pub fn new(name: String, cache_dir: PathBuf, daemon: DaemonAddress) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let processors = u32::try_from(processors).unwrap_or(1);
        Self {
            name,
            cache_dir,
            state_dir: None,
            spool_bytes: 256 << 20,
            daemon,
            nix: "nix".into(),
            slots: processors,
            eval_slots: (processors / 2).clamp(1, 4),
            host_wall_limit: Duration::from_mins(30),
            imports: ImportPolicy::Allow,
            mandatory_features: Vec::new(),
            speed: 1.0,
            emulated_systems: None,
            build_dir: None,
            min_free_bytes: 1 << 30,
            suspicious_free_bytes: 32 << 20,
            probe_interval: Duration::from_secs(10),
            probe_deadline: Duration::from_secs(10),
            daemon_patience: Duration::from_secs(30),
            start_within: Duration::from_mins(10),
            drain_timeout: Duration::from_mins(10),
            peer_listen: None,
            peer_addresses: Vec::new(),
            collect_below_bytes: 4 << 30,
            collect_to_bytes: 16 << 30,
            keep_outputs: Duration::from_hours(24),
        }
    }
}
