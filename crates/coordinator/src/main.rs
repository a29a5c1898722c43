//! `fleet-coordinator`: arguments, a Unix socket and signals around the library.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use fleet_coordinator::{Config, Coordinator};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

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
    fleet_telemetry::log_to_stderr("info");
    fleet_telemetry::exit_code(run(Args::parse()))
}

#[tokio::main]
async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let coordinator = Coordinator::start(Config::new(args.state_dir)).await?;
    let listener = listen(&args.listen)?;
    tracing::info!(socket = %args.listen.display(), "listening");
    let stop = fleet_telemetry::stop_on_signal()?;
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
    // From its first moment on the socket is this user's alone.
    let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    rustix::process::umask(umask);
    listener
}
