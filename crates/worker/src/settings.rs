//! The program's settings: defaults, then worker.toml, then `FLEET_*`, then flags, each over the one before. Reads the
//! file and the environment; the defaults stand in the library's `Config`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use fleet_identity::Credentials;
use fleet_nix::daemon::{AddressError, DaemonAddress};
use fleet_nix::proxy::ImportPolicy;
use fleet_worker::link::EndpointError;
use fleet_worker::{Config, Endpoint, enrol};
use serde::Deserialize;
use thiserror::Error;

/// Read when no other file is named, if it is there.
const USUAL_FILE: &str = "/etc/fleet/worker.toml";
/// A settings file is far smaller.
const MAX_FILE: u64 = 1 << 20;

/// Flags, and the variables that stand for them. Each is also a key of worker.toml, with `_` for `-`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Flags {
    /// Settings of this worker [default: /etc/fleet/worker.toml, if it is there].
    #[arg(long, env = "FLEET_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The coordinator: https://HOST, https://HOST:PORT or unix:///PATH.
    #[arg(long, env = "FLEET_COORDINATOR", value_name = "URL", global = true)]
    coordinator: Option<String>,
    /// Kept between starts: the certificate, results that have not arrived.
    #[arg(long, env = "FLEET_STATE_DIR", value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// Kept between starts: the evaluators' fetcher cache [default: `cache` in the state directory].
    #[arg(long, env = "FLEET_CACHE_DIR", value_name = "DIR", global = true)]
    cache_dir: Option<PathBuf>,
    /// What people call this worker; with a certificate its name counts [default: the machine's name].
    #[arg(long, env = "FLEET_WORKER_NAME", value_name = "NAME", global = true)]
    name: Option<String>,
    /// The Nix daemon, as a store URI; else as Nix finds it.
    #[arg(long, env = "FLEET_STORE", value_name = "URI", global = true)]
    store: Option<String>,
    /// The nix command.
    #[arg(long, env = "FLEET_NIX", value_name = "PATH", global = true)]
    nix: Option<PathBuf>,
    /// Builds at a time [default: one a processor].
    #[arg(long, env = "FLEET_WORKER_SLOTS", value_name = "N", global = true)]
    slots: Option<u32>,
    /// Evaluators at a time; 0 to build only [default: half the processors, at most 4].
    #[arg(long, env = "FLEET_EVAL_SLOTS", value_name = "N", global = true)]
    eval_slots: Option<u32>,
    /// Where other workers may fetch what this one has, such as [::]:7144; else they have it from the coordinator.
    #[arg(long, env = "FLEET_PEER_LISTEN", value_name = "ADDRESS:PORT", global = true)]
    peer_listen: Option<SocketAddr>,
}

/// What a worker.toml may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    coordinator: Option<String>,
    state_dir: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
    name: Option<String>,
    store: Option<String>,
    nix: Option<PathBuf>,
    slots: Option<u32>,
    eval_slots: Option<u32>,
    mandatory_features: Option<Vec<String>>,
    speed: Option<f64>,
    emulated_systems: Option<Vec<String>>,
    imports: Option<bool>,
    build_dir: Option<PathBuf>,
    spool_bytes: Option<u64>,
    min_free_bytes: Option<u64>,
    suspicious_free_bytes: Option<u64>,
    host_wall_limit_s: Option<u64>,
    probe_interval_s: Option<u64>,
    probe_deadline_s: Option<u64>,
    daemon_patience_s: Option<u64>,
    start_within_s: Option<u64>,
    drain_timeout_s: Option<u64>,
    peer_listen: Option<SocketAddr>,
    peer_addresses: Option<Vec<String>>,
    collect_below_bytes: Option<u64>,
    collect_to_bytes: Option<u64>,
    keep_outputs_s: Option<u64>,
}

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub(crate) enum SettingsError {
    #[error("{}: cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {text}", path.display())]
    Parse { path: PathBuf, text: String },
    #[error(
        "no coordinator is named: give --coordinator URL, set FLEET_COORDINATOR, or write `coordinator` into {USUAL_FILE}"
    )]
    NoCoordinator,
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error(transparent)]
    Store(#[from] AddressError),
    #[error("{what} must be {rule}")]
    Value { what: &'static str, rule: &'static str },
    #[error("no state directory is named, and there is no home to put one in: give --state-dir DIR")]
    NoStateDir,
}

/// Everything decided.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) endpoint: Endpoint,
    pub(crate) config: Config,
    pub(crate) state_dir: PathBuf,
}

impl Settings {
    pub(crate) fn read(flags: &Flags) -> Result<Self, SettingsError> {
        let file = file(flags.config.as_deref())?;
        let coordinator = flags.coordinator.as_ref().or(file.coordinator.as_ref());
        let endpoint = coordinator.ok_or(SettingsError::NoCoordinator)?.parse()?;
        let state_dir = flags.state_dir.clone().or(file.state_dir.clone()).or_else(usual_state_dir);
        let state_dir = state_dir.ok_or(SettingsError::NoStateDir)?;
        let address = match flags.store.as_ref().or(file.store.as_ref()) {
            Some(uri) => DaemonAddress::from_store_uri(uri)?,
            None => DaemonAddress::from_env()?,
        };
        let cache_dir = flags.cache_dir.clone().or(file.cache_dir.clone());
        let cache_dir = cache_dir.unwrap_or_else(|| state_dir.join("cache"));
        let name = certified_name(&state_dir).or(flags.name.clone()).or(file.name.clone());
        let mut config = Config::new(name.unwrap_or_else(machines_name), cache_dir, address);
        config.state_dir = Some(state_dir.clone());
        apply(&mut config, flags, file);
        check(&config)?;
        Ok(Self { endpoint, config, state_dir })
    }

    /// Where this worker's certificate is, where one is needed.
    pub(crate) fn credentials(&self) -> Option<PathBuf> {
        match self.endpoint {
            Endpoint::Https { .. } => Some(enrol::credentials_file(&self.state_dir)),
            Endpoint::Unix(_) => None,
        }
    }
}

fn apply(config: &mut Config, flags: &Flags, file: File) {
    fn set<T>(place: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *place = value;
        }
    }
    let seconds = |value: Option<u64>| value.map(Duration::from_secs);
    set(&mut config.nix, flags.nix.clone().or(file.nix));
    set(&mut config.slots, flags.slots.or(file.slots));
    set(&mut config.eval_slots, flags.eval_slots.or(file.eval_slots));
    set(&mut config.mandatory_features, file.mandatory_features);
    set(&mut config.speed, file.speed);
    let imports =
        file.imports.map(|allowed| if allowed { ImportPolicy::Allow } else { ImportPolicy::Forbid });
    set(&mut config.imports, imports);
    set(&mut config.spool_bytes, file.spool_bytes);
    set(&mut config.min_free_bytes, file.min_free_bytes);
    set(&mut config.suspicious_free_bytes, file.suspicious_free_bytes);
    set(&mut config.host_wall_limit, seconds(file.host_wall_limit_s));
    set(&mut config.probe_interval, seconds(file.probe_interval_s));
    set(&mut config.probe_deadline, seconds(file.probe_deadline_s));
    set(&mut config.daemon_patience, seconds(file.daemon_patience_s));
    set(&mut config.start_within, seconds(file.start_within_s));
    set(&mut config.drain_timeout, seconds(file.drain_timeout_s));
    set(&mut config.peer_addresses, file.peer_addresses);
    set(&mut config.collect_below_bytes, file.collect_below_bytes);
    set(&mut config.collect_to_bytes, file.collect_to_bytes);
    set(&mut config.keep_outputs, seconds(file.keep_outputs_s));
    config.peer_listen = flags.peer_listen.or(file.peer_listen);
    config.emulated_systems = file.emulated_systems;
    config.build_dir = file.build_dir;
}

fn check(config: &Config) -> Result<(), SettingsError> {
    let rules = [
        ("slots", "at least 1", config.slots > 0),
        ("speed", "more than 0 and at most 1000", config.speed > 0.0 && config.speed <= 1000.0),
        ("probe_interval_s", "at least 1", !config.probe_interval.is_zero()),
        ("probe_deadline_s", "at least 1", !config.probe_deadline.is_zero()),
        ("start_within_s", "at least 1", !config.start_within.is_zero()),
        (
            "peer_addresses",
            "a list of HOST:PORT, and go with peer_listen",
            config.peer_addresses.iter().all(|address| has_port(address))
                && (config.peer_addresses.is_empty() || config.peer_listen.is_some()),
        ),
        (
            "collect_to_bytes",
            "at least collect_below_bytes",
            config.collect_below_bytes <= config.collect_to_bytes,
        ),
    ];
    match rules.into_iter().find(|(_, _, holds)| !holds) {
        Some((what, rule, _)) => Err(SettingsError::Value { what, rule }),
        None => Ok(()),
    }
}

fn has_port(address: &str) -> bool {
    let split = address.rsplit_once(':');
    split.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
}

fn file(named: Option<&Path>) -> Result<File, SettingsError> {
    let path = named.unwrap_or(Path::new(USUAL_FILE));
    let failed = |source| SettingsError::Read { path: path.to_owned(), source };
    let misshapen = |text: String| SettingsError::Parse { path: path.to_owned(), text };
    let metadata = match std::fs::metadata(path) {
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
            return Ok(File::default());
        }
        other => other.map_err(failed)?,
    };
    if metadata.len() > MAX_FILE {
        return Err(misshapen(format!("is larger than {} KiB: is it a settings file?", MAX_FILE >> 10)));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    toml::from_str(&text).map_err(|error| misshapen(error.to_string().trim_end().to_owned()))
}

/// What the service manager gives, else where users keep state.
fn usual_state_dir() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of_user = || variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    variable("STATE_DIRECTORY").or_else(|| Some(of_user()?.join("fleet-worker")))
}

fn certified_name(state_dir: &Path) -> Option<String> {
    let credentials = Credentials::read(&enrol::credentials_file(state_dir)).ok()?;
    Some(credentials.identity().ok()?.name.to_string())
}

fn machines_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str, flags: Flags) -> Result<Settings, SettingsError> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("worker.toml");
        std::fs::write(&path, toml).expect("writes");
        let state_dir = Some(directory.path().to_owned());
        Settings::read(&Flags { config: Some(path), state_dir, ..flags })
    }

    #[test]
    fn flags_stand_over_the_file_and_the_file_over_defaults() {
        let toml = "coordinator = 'https://c'\nslots = 7\neval_slots = 2\ndrain_timeout_s = 3\nspeed = 2.5\nimports = false";
        let settings = read(toml, Flags { slots: Some(9), ..Flags::default() }).expect("settings");
        assert_eq!(settings.endpoint.to_string(), "https://c:7143");
        let config = settings.config;
        assert_eq!((config.slots, config.eval_slots, config.drain_timeout), (9, 2, Duration::from_secs(3)));
        assert_eq!(config.imports, ImportPolicy::Forbid);
        assert_eq!(config.spool_bytes, 256 << 20);
        assert_eq!(config.peer_listen, None);
        let toml = "coordinator = 'https://c'\npeer_listen = '[::]:7144'\npeer_addresses = ['w.example:7144', '[fd00::1]:7144']";
        let peer_listen = Some("127.0.0.1:7145".parse().expect("an address"));
        let config = read(toml, Flags { peer_listen, ..Flags::default() }).expect("settings").config;
        assert_eq!((config.peer_listen, config.peer_addresses.len()), (peer_listen, 2));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let refused = |toml: &str| read(toml, Flags::default()).expect_err(toml).to_string();
        let unknown = refused("coordinator = 'https://c'\nslotz = 7");
        assert!(
            unknown.contains("slotz") && unknown.contains("line 2") && unknown.contains("worker.toml"),
            "{unknown}"
        );
        assert!(refused("slots = 'many'\n").contains("line 1"));
        assert!(refused("coordinator = 'https://c'\nslots = 0").contains("slots must be at least 1"));
        assert!(refused("coordinator = 'https://c'\nspeed = -1.0").contains("speed"));
        for wrong in ["['w']", "['w:0']", "[':7144']", "['w:7144', 'w:99999']"] {
            let toml =
                format!("coordinator = 'https://c'\npeer_listen = '[::]:7144'\npeer_addresses = {wrong}");
            assert!(refused(&toml).contains("peer_addresses must be"), "{wrong}");
        }
        assert!(refused("coordinator = 'https://c'\npeer_addresses = ['w:7144']").contains("peer_listen"));
        let inverted = "coordinator = 'https://c'\ncollect_below_bytes = 9\ncollect_to_bytes = 8";
        assert!(refused(inverted).contains("collect_to_bytes must be at least"));
        assert!(refused("coordinator = 'https://c'\nspeed = nan").contains("speed"));
        assert!(refused("coordinator = 'http://c'").contains("https://HOST"));
        assert!(refused("").contains("--coordinator URL"));
        let absent = Flags { config: Some("/nonexistent/worker.toml".into()), ..Flags::default() };
        assert!(
            Settings::read(&absent).expect_err("no file").to_string().contains("/nonexistent/worker.toml")
        );
    }
}
