//! `fleet-worker`: arguments, signals and the service manager around the library.

mod settings;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fleet_identity::{Credentials, JoinToken, unix_now};
use fleet_telemetry::service;
use fleet_worker::{Link, Pings, Stop, Worker, enrol};
use settings::{Flags, Settings, SettingsError};
use tokio::signal::unix::{SignalKind, signal};

/// The settings or the arguments are wrong.
const USAGE: u8 = 2;

/// Evaluates and builds for a coordinator, with the Nix daemon of this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work until stopped; what is done when no command is given.
    ///
    /// SIGTERM lets what runs finish, within `drain_timeout_s`; a second one gives it back to the coordinator.
    Run,
    /// Trade a join token for this worker's certificate. Safe to repeat.
    #[command(visible_alias = "enrol")]
    Enroll(Token),
    /// Look at settings, certificate and daemon, and say what is wrong.
    Check,
}

/// As `fleetctl worker token` printed it.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Token {
    /// The token itself; others on this machine may see it in the list of processes.
    #[arg(long, env = "FLEET_JOIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that holds it.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let Arguments { flags, command } = Arguments::parse();
    fleet_telemetry::log_to_stderr("info");
    let settings = match Settings::read(&flags) {
        Ok(settings) => settings,
        Err(error) => return misused(&error),
    };
    fleet_telemetry::exit_code(match command {
        None | Some(Command::Run) => run(settings),
        Some(Command::Enroll(token)) => enroll(&settings, &token),
        Some(Command::Check) => check(settings),
    })
}

/// Exit code of a worker that was told three times.
const ABANDONED: i32 = 130;

fn misused(error: &SettingsError) -> ExitCode {
    tracing::error!("{}", fleet_telemetry::with_causes(error));
    ExitCode::from(USAGE)
}

#[tokio::main]
async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let stop = stop_on_signals()?;
    let credentials = settings.credentials();
    if let Some(file) = &credentials {
        // What is not there, or not readable, is better said now than at every try.
        let identity = Credentials::read(file)
            .map_err(|error| format!("{}; {ENROL}", fleet_telemetry::with_causes(&error)))?;
        tracing::info!(name = %identity.identity()?.name, "this worker");
    }
    let link = Link::open(&settings.endpoint, credentials, Pings::default());
    let worker = tokio::select! {
        worker = Worker::prepare(settings.config) => worker?,
        // A daemon that does not answer must not keep this process.
        () = stop.drain.cancelled() => return Ok(()),
    };
    tracing::info!(coordinator = %settings.endpoint, "working");
    service::ready(&format!("working for {}", settings.endpoint));
    tokio::spawn(service::watchdog(|| async { true }));
    worker.run(link, stop).await?;
    service::stopping("done");
    tracing::info!("stopped");
    Ok(())
}

const ENROL: &str =
    "enrol this worker first: make a token with `fleetctl worker token`, then run `fleet-worker enroll`";

/// The first SIGTERM or SIGINT drains, the second hands back, the third ends the process as it is.
fn stop_on_signals() -> std::io::Result<Stop> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = Stop::default();
    let [drain, hand_back] = [stop.drain.clone(), stop.hand_back.clone()];
    tokio::spawn(async move {
        for (token, what) in [(drain, "finishing what runs"), (hand_back, "giving back what runs")] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            service::stopping(what);
            token.cancel();
        }
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(ABANDONED);
    });
    Ok(stop)
}

#[tokio::main]
async fn enroll(settings: &Settings, token: &Token) -> Result<(), Box<dyn Error>> {
    let text = match token {
        Token { token: Some(text), .. } => text.clone(),
        Token { token_file: Some(file), .. } => {
            fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?
        }
        Token { .. } => unreachable!("the arguments require one of them"),
    };
    let token: JoinToken = text.trim().parse()?;
    let identity = enrol::enrol(&settings.endpoint, &token, &settings.state_dir).await?;
    let file = enrol::credentials_file(&settings.state_dir);
    let hours = identity.not_after.saturating_sub(unix_now()) / 3600;
    tracing::info!(name = %identity.name, file = %file.display(), "enrolled; the certificate is good for {hours} h and renews itself");
    Ok(())
}

#[tokio::main]
async fn check(settings: Settings) -> Result<(), Box<dyn Error>> {
    tracing::info!(coordinator = %settings.endpoint, state_dir = %settings.state_dir.display(), "settings are well-formed");
    if let Some(file) = settings.credentials() {
        let identity = Credentials::read(&file)?.identity()?;
        let left = identity.not_after.saturating_sub(unix_now());
        if left == 0 {
            return Err(format!("the certificate in {} has expired; {ENROL}", file.display()).into());
        }
        tracing::info!(name = %identity.name, hours_left = left / 3600, "the certificate is good");
    }
    let mut config = settings.config;
    // A running worker has it open.
    config.state_dir = None;
    let worker = Worker::prepare(config).await?;
    let offer = worker.offer();
    tracing::info!(nix = offer.nix_version, trusted = offer.trusted, systems = ?offer.systems, features = ?offer.features,
        emulated = ?offer.emulated_systems, slots = offer.slots, "the Nix daemon answers");
    Ok(())
}
