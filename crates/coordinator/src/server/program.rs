//! The coordinator as a program: sockets, signals, the service manager and the settings around the services.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fleet_identity::oidc::{SourceError, Verifier};
use fleet_identity::tls::{ServerTls, TlsError};
use fleet_telemetry::{service, with_causes};
use thiserror::Error;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::admission::Admission;
use super::front::Front;
use super::gate::Gate;
use super::http::{self, Audience};
use super::listener::{self, ListenError};
use super::{
    ACCEPTED, Coordinator, Enrolling, Material, MaterialError, ServeError, StartError, create_private,
};
use crate::access::{Access, Failures, Gatekeeper};
use crate::cache::{self, KeyError, Pages, Signer};
use crate::config::{Config, ConfigError, Layers, Settings};
use crate::rpc::status;

/// How long open requests have to end when the coordinator stops.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The server's certificate is made again so often, long before it expires.
const RENEW_AFTER: Duration = Duration::from_hours(24);

/// Why the program ends with an error.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Keys and certificates.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// They do not make a TLS server.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The keys of the cache.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The issuers of CI tokens.
    #[error(transparent)]
    Issuers(#[from] SourceError),
    /// The sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The state.
    #[error(transparent)]
    Start(#[from] StartError),
    /// While it served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The system does not let us listen for signals.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

/// A coordinator that listens.
#[derive(Debug)]
pub struct Program {
    reloading: Reloading,
    gate: Gate<Front>,
    health: HealthReporter,
    socket: PathBuf,
    address: Option<SocketAddr>,
    accepting: Vec<AbortOnDropHandle<()>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    stop_server: CancellationToken,
}

/// The settings that count, and what a reload of them exchanges.
#[derive(Debug)]
struct Reloading {
    layers: Layers,
    settings: Settings,
    material: Arc<ArcSwap<Material>>,
    tls: Arc<ServerTls>,
    admission: Admission,
    failures: Arc<Failures>,
    signer: Arc<Signer>,
    gatekeeper: Option<Gatekeeper>,
    pages: Option<Pages>,
    /// SIGHUPs since the program listens: one that comes before it serves is heard when it does.
    signals: Signal,
}

impl Program {
    /// Reads the settings and listens; whoever comes is told that nothing is served yet.
    pub async fn listen(layers: Layers) -> Result<Self, ProgramError> {
        let signals = service::reload_signals().map_err(ProgramError::Signals)?;
        let settings = layers.resolve()?;
        let config = &settings.config;
        create_private(&config.state_dir)?;
        let material = Material::load(config)?;
        let signer = Arc::new(Signer::open(config)?);
        let tls = Arc::new(ServerTls::new(&material.server)?);
        let admission = Admission::new(&config.server);
        let (accepted, connections) = mpsc::channel(ACCEPTED);
        let socket = config.socket();
        let unix = listener::unix(&socket)?;
        let mut accepting = Vec::new();
        let mut address = None;
        if let Some(wanted) = config.server.listen {
            let tcp = listener::tcp(wanted).await?;
            address = tcp.local_addr().ok();
            let accept = listener::accept_tls(tcp, tls.clone(), admission.clone(), accepted.clone());
            accepting.push(AbortOnDropHandle::new(tokio::spawn(accept)));
        }
        let accept = listener::accept_unix(unix, admission.clone(), accepted);
        accepting.push(AbortOnDropHandle::new(tokio::spawn(accept)));

        let health = HealthReporter::new();
        health.set_service_status("", ServingStatus::NotServing).await;
        let closed =
            if config.standby { "the coordinator stands by for another" } else { "the coordinator starts" };
        let gate = Gate::new(&health, closed);
        let stop_server = CancellationToken::new();
        let stop = stop_server.clone().cancelled_owned();
        let streams = config.server.max_streams;
        let audience = Audience::Others(Duration::from_millis(config.server.keepalive_ms));
        let server = tokio::spawn(http::serve(gate.clone(), connections, audience, streams, stop));
        let failures = Arc::new(Failures::new(config.server.max_failed_enrolments));
        let material = Arc::new(ArcSwap::from_pointee(material));
        let reloading = Reloading {
            layers,
            settings,
            material,
            tls,
            admission,
            failures,
            signer,
            gatekeeper: None,
            pages: None,
            signals,
        };
        Ok(Self { reloading, gate, health, socket, address, accepting, server, stop_server })
    }

    /// Opens the state, serves until `stop`, and ends what is open then.
    pub async fn serve(mut self, stop: CancellationToken) -> Result<(), ProgramError> {
        let config = self.reloading.settings.config.clone();
        if config.standby {
            let address = self.address.map_or_else(String::new, |address| address.to_string());
            tracing::info!(socket = %self.socket.display(), %address, "standing by");
            service::ready("stands by for another coordinator");
        }
        let coordinator = tokio::select! {
            started = Coordinator::start(config.clone()) => started?,
            () = stop.cancelled() => return Ok(()),
        };
        let gatekeeper = self.open(&coordinator, &config).await?;
        let looking_after = AbortOnDropHandle::new(tokio::spawn(gatekeeper.clone().look_after()));
        let watched = coordinator.clone();
        let watchdog = service::watchdog(move || {
            let watched = watched.clone();
            async move { watched.lives().await }
        });
        let watchdog = AbortOnDropHandle::new(tokio::spawn(watchdog));
        self.say_where();
        let result = tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = coordinator.stopped() => Err(ServeError::Stopped.into()),
            // It ends only when it is told to, or fails.
            _ = &mut self.server => Err(ServeError::Stopped.into()),
            never = self.reloading.when_told() => match never {},
        };
        drop((looking_after, watchdog));
        self.end(&gatekeeper).await;
        result
    }

    async fn open(&mut self, coordinator: &Coordinator, config: &Config) -> Result<Gatekeeper, ProgramError> {
        let issuers = Verifier::new(config.oidc.clone())?;
        let max_requests = config.server.max_requests;
        let failures = self.reloading.failures.clone();
        let gatekeeper = Gatekeeper::new(coordinator.directory.clone(), issuers, max_requests, failures);
        self.reloading.gatekeeper = Some(gatekeeper.clone());
        let enrolling = Enrolling {
            material: self.reloading.material.clone(),
            failures: self.reloading.failures.clone(),
            signer: self.reloading.signer.clone(),
            health: self.health.clone(),
        };
        let pages = coordinator.pages(gatekeeper.clone(), &enrolling);
        let procedures = Access::new(coordinator.services(Some(enrolling)), gatekeeper.clone());
        self.reloading.pages = Some(pages.clone());
        self.gate.open(Front::new(procedures, pages));
        self.health.set_service_status("", ServingStatus::Serving).await;
        Ok(gatekeeper)
    }

    fn say_where(&self) {
        let socket = self.socket.display();
        let Some(address) = self.address else {
            tracing::info!(%socket, "listening");
            service::ready(&format!("listens on {socket}"));
            return;
        };
        tracing::info!(%socket, %address, "listening");
        service::ready(&format!("listens on {address} and {socket}"));
        let nobody = self.reloading.gatekeeper.as_ref().is_none_or(Gatekeeper::knows_no_worker);
        if nobody {
            let port = address.port();
            tracing::info!("no worker is enrolled yet. Make a token here:");
            tracing::info!("  fleetctl --coordinator unix://{socket} worker token --name NAME");
            tracing::info!("and use it on the worker's machine:");
            tracing::info!("  fleet-worker enroll --coordinator https://HOST:{port} --token-file FILE");
        }
    }

    /// Ends what is open, and tells it why.
    async fn end(self, gatekeeper: &Gatekeeper) {
        tracing::info!(open = gatekeeper.open(), "stopping");
        service::stopping("ends what is open");
        self.health.set_service_status("", ServingStatus::NotServing).await;
        drop(self.accepting);
        gatekeeper.end_all(&status::restarting());
        self.stop_server.cancel();
        let mut server = self.server;
        let ends = async {
            while !server.is_finished() {
                tokio::select! {
                    _ = &mut server => return,
                    // What came in the meantime ends as well.
                    () = tokio::time::sleep(Duration::from_millis(50)) => gatekeeper.end_all(&status::restarting()),
                }
            }
        };
        if tokio::time::timeout(STOP_WITHIN, ends).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}

impl Reloading {
    /// Exchanges what can be exchanged, at each SIGHUP, and makes the server's certificate again in time.
    async fn when_told(&mut self) -> Infallible {
        loop {
            let told = tokio::select! {
                told = self.signals.recv() => told,
                () = tokio::time::sleep(RENEW_AFTER) => None,
            };
            if told.is_none() {
                if let Err(error) = self.renew(&self.settings.config) {
                    tracing::error!("the server's certificate cannot be made again: {}", with_causes(&error));
                }
                continue;
            }
            service::reloading();
            match self.reload() {
                Ok(()) => {
                    tracing::info!("settings read again");
                    service::ready("settings read again");
                }
                Err(error) => {
                    let why = with_causes(&error);
                    tracing::error!("the new settings are refused, the old ones stay: {why}");
                    service::ready(&format!("new settings refused: {why}"));
                }
            }
        }
    }

    fn reload(&mut self) -> Result<(), ProgramError> {
        let newer = self.layers.resolve()?;
        self.exchange(&newer.config)?;
        for key in self.settings.waiting_for_a_start(&newer) {
            tracing::warn!("{key} has changed, which counts from the next start on");
        }
        // What counts from the next start only is compared with what counts now.
        self.settings.adopt(newer);
        Ok(())
    }

    /// All or nothing.
    fn exchange(&self, config: &Config) -> Result<(), ProgramError> {
        let issuers = Verifier::new(config.oidc.clone())?;
        cache::keys::given(config)?;
        self.renew(config)?;
        self.signer.reload(config)?;
        if let Some(gatekeeper) = &self.gatekeeper {
            gatekeeper.set_issuers(issuers);
            gatekeeper.set_limit(config.server.max_requests);
        }
        if let Some(pages) = &self.pages {
            pages.set(config.cache.clone());
        }
        self.admission.set_limits(&config.server);
        self.failures.set_limit(config.server.max_failed_enrolments);
        Ok(())
    }

    fn renew(&self, config: &Config) -> Result<(), ProgramError> {
        let material = Material::load(config)?;
        self.tls.reload(&material.server)?;
        self.material.store(Arc::new(material));
        Ok(())
    }
}
