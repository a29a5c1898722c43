//! `fleet-worker`: arguments, a Unix socket and signals around the library.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use fleet_nix::daemon::DaemonAddress;
use fleet_worker::{Config, Stop, Worker};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Evaluates and builds for a coordinator, with the Nix daemon of this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The coordinator's socket.
    #[arg(long, env = "FLEET_COORDINATOR_SOCKET", value_name = "SOCKET")]
    coordinator: PathBuf,
    /// Kept between starts: the evaluators' fetcher cache.
    #[arg(long, env = "FLEET_CACHE_DIR", value_name = "DIR")]
    cache_dir: PathBuf,
    /// What people call this worker.
    #[arg(long, env = "FLEET_WORKER_NAME", default_value = "worker")]
    name: String,
    /// The Nix daemon, as a store URI; else as Nix finds it.
    #[arg(long, env = "FLEET_STORE", value_name = "URI")]
    store: Option<String>,
    /// The nix command.
    #[arg(long, env = "FLEET_NIX", default_value = "nix", value_name = "PATH")]
    nix: PathBuf,
    /// Builds at a time [default: one a processor].
    #[arg(long, env = "FLEET_WORKER_SLOTS", value_name = "N")]
    slots: Option<u32>,
    /// Evaluators at a time; 0 to build only [default: half the processors, at most 4].
    #[arg(long, env = "FLEET_EVAL_SLOTS", value_name = "N")]
    eval_slots: Option<u32>,
}

fn main() -> ExitCode {
    fleet_telemetry::log_to_stderr("info");
    fleet_telemetry::exit_code(run(Args::parse()))
}

#[tokio::main]
async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let address = match &args.store {
        Some(uri) => DaemonAddress::from_store_uri(uri)?,
        None => DaemonAddress::from_env()?,
    };
    let mut config = Config::new(args.name, args.cache_dir, address);
    config.nix = args.nix;
    config.slots = args.slots.unwrap_or(config.slots);
    config.eval_slots = args.eval_slots.unwrap_or(config.eval_slots);
    let worker = Worker::prepare(config).await?;
    let stop = Stop { drain: fleet_telemetry::stop_on_signal()?, ..Stop::default() };
    let channel = connect(args.coordinator).await?;
    tracing::info!("working");
    worker.run(channel, stop).await?;
    Ok(())
}

async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is never looked at.
    Endpoint::from_static("http://coordinator").connect_with_connector(connector).await
}
