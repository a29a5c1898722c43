//! The coordinator's settings; every default stands here. `table` gives each its name, `file` reads them, `layers`
//! puts file, environment and flags over one another, `check` holds what must hold between them.

mod check;
mod file;
mod layers;
mod table;
mod value;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fleet_core::FleetConfig;
use fleet_identity::oidc::IssuerConfig;
use fleet_journal::Location;
use fleet_nix::PublicKey;
use fleet_store::Place;

pub use layers::{ConfigError, Layers, Origin, Settings};
pub use table::reference;

/// Settings of one coordinator.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where logs, the journal, the coordinator's own CA and by default chunks live; created when absent.
    pub state_dir: PathBuf,
    /// Where chunks and manifests are kept, if not in the state directory.
    pub objects: Option<Place>,
    /// Where what must survive a restart is kept.
    pub journal: JournalChoice,
    /// What to do when another coordinator has the journal: wait for its end instead of giving up.
    pub standby: bool,
    /// How the core decides.
    pub fleet: FleetConfig,
    /// How often workers say how they are.
    pub heartbeat_ms: u32,
    /// Whether workers upload outputs: others need them from here.
    pub upload_outputs: bool,
    /// Who may connect where.
    pub server: ServerConfig,
    /// Files of the keys by which workers know the coordinator's word, at most two; one that is made when none are given.
    pub internal_keys: Vec<PathBuf>,
    /// Issuers of CI tokens.
    pub oidc: Vec<IssuerConfig>,
    /// What is served to Nix.
    pub cache: CacheConfig,
    /// How long what is kept is kept.
    pub retention: RetentionConfig,
    /// Where the service manager puts secret files, if it does.
    pub credentials: Option<PathBuf>,
}

impl Config {
    /// For a coordinator within another program, with nothing to remember but logs: state in `state_dir`.
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            objects: None,
            journal: JournalChoice::Memory,
            standby: false,
            fleet: FleetConfig::default().embedded(),
            heartbeat_ms: 10_000,
            upload_outputs: false,
            server: ServerConfig::default(),
            internal_keys: Vec::new(),
            oidc: Vec::new(),
            cache: CacheConfig::default(),
            retention: RetentionConfig::default(),
            credentials: None,
        }
    }

    /// For the program, before anything is configured.
    pub fn of_program() -> Self {
        Self {
            journal: JournalChoice::Sqlite,
            fleet: FleetConfig::default(),
            upload_outputs: true,
            ..Self::new(PathBuf::from("/var/lib/fleet-coordinator"))
        }
    }

    /// Where the journal is.
    pub fn location(&self) -> Location {
        match &self.journal {
            JournalChoice::Memory => Location::Memory,
            JournalChoice::Sqlite => Location::Sqlite(self.state_dir.join("coordinator.sqlite")),
            JournalChoice::Postgres(database) => Location::Postgres(database.clone()),
        }
    }

    /// The place of a secret file: a plain name is one of the service manager's credentials.
    pub(crate) fn secret_file(&self, named: &Path) -> PathBuf {
        match &self.credentials {
            Some(credentials) => credentials.join(named),
            None => named.to_owned(),
        }
    }

    /// Where chunks and manifests are kept.
    pub fn objects(&self) -> Place {
        self.objects.clone().unwrap_or_else(|| Place::Directory(self.state_dir.join("objects")))
    }

    /// The socket for clients and workers of this machine.
    pub fn socket(&self) -> PathBuf {
        self.server.socket.clone().unwrap_or_else(|| self.state_dir.join("coordinator.sock"))
    }
}

/// Where what must survive a restart is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalChoice {
    /// Nowhere: a run lives as long as its process.
    Memory,
    /// In the state directory.
    Sqlite,
    /// In this PostgreSQL database, which several coordinators may share.
    Postgres(String),
}

/// Who may connect where, and how much of the server they get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The TCP address for other machines; none unless configured.
    pub listen: Option<SocketAddr>,
    /// The Unix socket; by default in the state directory.
    pub socket: Option<PathBuf>,
    /// What the server's own certificate is for, besides this machine's names.
    pub names: Vec<String>,
    /// Certificates and keys that are given, instead of those that the coordinator makes.
    pub tls: TlsFiles,
    /// Connections at a time.
    pub max_connections: usize,
    /// Of these, from one address without a client certificate.
    pub max_anonymous: usize,
    /// TLS handshakes at a time.
    pub max_handshakes: usize,
    /// How long a connection may take for its TLS handshake, and then to begin HTTP/2.
    pub handshake_within_ms: u64,
    /// How often a silent peer is asked whether it lives, and how long it may take to answer.
    pub keepalive_ms: u64,
    /// Requests at a time on one connection.
    pub max_streams: u32,
    /// Requests at a time of one caller over all its connections.
    pub max_requests: usize,
    /// Failed enrolments that one address may have a minute.
    pub max_failed_enrolments: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: None,
            socket: None,
            names: Vec::new(),
            tls: TlsFiles::default(),
            max_connections: 8_192,
            max_anonymous: 64,
            max_handshakes: 64,
            handshake_within_ms: 10_000,
            keepalive_ms: 10_000,
            max_streams: 256,
            max_requests: 1_024,
            max_failed_enrolments: 30,
        }
    }
}

/// What is served to Nix, and whom Nix believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheConfig {
    /// Files of the keys that sign, at most two; one that is made when none are given.
    pub keys: Vec<PathBuf>,
    /// Whether strangers may read.
    pub public: bool,
    /// How Nix ranks it among its caches: the lower, the sooner.
    pub priority: u32,
    /// Keys of caches that everybody has: what they signed is not kept here.
    pub upstream_keys: Vec<PublicKey>,
}

/// The key of cache.nixos.org.
const NIXOS_ORG: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

impl Default for CacheConfig {
    fn default() -> Self {
        let upstream = NIXOS_ORG.parse().expect("it is a key");
        Self { keys: Vec::new(), public: false, priority: 30, upstream_keys: vec![upstream] }
    }
}

/// PEM files that are used instead of what the coordinator makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// CA certificates that clients and workers are trusted by, the newest first.
    pub authorities: Vec<PathBuf>,
    /// Their keys, in the same order; at least of the first.
    pub authority_keys: Vec<PathBuf>,
    /// The server's certificate and those between it and a root.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// How long what is kept is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionConfig {
    /// The last runs of each branch keep their targets.
    pub runs: usize,
    /// Younger runs too.
    pub age_s: u32,
    /// What nothing needs stays for so long.
    pub grace_s: u32,
    /// How often that is looked for.
    pub every_s: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { runs: 5, age_s: 30 * 86_400, grace_s: 86_400, every_s: 3_600 }
    }
}
