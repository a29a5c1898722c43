//! `fleet-coordinator`: arguments, a Unix socket and signals around the library.

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use fleet_coordinator::{Config, Coordinator};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

/// Coordinates evaluation and builds of a fleet.
///
/// Serves clients and workers of this machine over a Unix socket that only this user can open.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where chunks, logs and the journal live.
    #[arg(long, env = "FLEET_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// The socket to listen on; a stale one is replaced.
    #[arg(long, env = "FLEET_LISTEN", value_name = "SOCKET")]
    listen: PathBuf,
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("FLEET_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            tracing::error!("{text}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let coordinator = Coordinator::start(Config::new(args.state_dir))?;
    let listener = listen(&args.listen)?;
    tracing::info!(socket = %args.listen.display(), "listening");
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    coordinator.serve(UnixListenerStream::new(listener), stop).await?;
    std::fs::remove_file(&args.listen)?;
    tracing::info!("stopped");
    Ok(())
}

fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        let text = format!("another coordinator listens on {}", socket.display());
        return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, text));
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
}
