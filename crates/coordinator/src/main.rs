//! `fleet-coordinator`: arguments around the library.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use fleet_coordinator::config::{ConfigError, Layers};
use fleet_coordinator::{Program, ProgramError, maintenance};

/// The settings, the arguments or both together are wrong.
const USAGE: u8 = 2;

/// Coordinates evaluation and builds of a fleet.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(flatten)]
    settings: SettingsArguments,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where settings come from; each also has a variable, such as FLEET_WORKERS_AWAY for `workers.away`.
#[derive(Debug, Args)]
struct SettingsArguments {
    /// The configuration file (docs/coordinator.md lists what may stand in it).
    #[arg(long, global = true, env = "FLEET_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where chunks, logs and the journal live.
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<String>,
    /// The socket for this machine.
    #[arg(long, global = true, value_name = "SOCKET")]
    socket: Option<String>,
    /// The TCP address for other machines, as in `[::]:7143`.
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Any other setting, as in `workers.away=5m`.
    #[arg(long, global = true, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until stopped; what is done when no command is given.
    Serve,
    /// Look at the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check a configuration file; exit code 2 and the line when something is wrong.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Make a client certificate with role admin, for administration from elsewhere.
    AdminCert {
        /// The directory to put it in.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The administrator's name.
        #[arg(long, default_value = "admin")]
        name: String,
    },
    /// Print the certificates of the CAs that the port's certificate is of, for machines that use the cache.
    Ca,
    /// Put a new CA beside the coordinator's own one; both count until the next rotation.
    RotateCa,
    /// Mend a damaged journal: keeps what is sound, moves the rest aside, says what is lost.
    Repair,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Every setting, its value and its origin.
    Show,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    fleet_telemetry::log_to_stderr("info");
    let layers = match arguments.settings.layers() {
        Ok(layers) => layers,
        Err(text) => return usage(&text),
    };
    let done = match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(layers),
        Command::Config(ConfigCommand::Show) => maintenance::show(&layers),
        Command::CheckConfig { file } => maintenance::check(file),
        Command::AdminCert { out, name } => maintenance::admin_certificate(&layers, &out, &name),
        Command::Ca => maintenance::authorities(&layers),
        Command::RotateCa => maintenance::rotate_ca(&layers),
        Command::Repair => maintenance::repair(&layers),
    };
    match done {
        Err(error) if error.downcast_ref::<ConfigError>().is_some() => usage(&error.to_string()),
        Err(error) => match error.downcast_ref::<ProgramError>() {
            Some(ProgramError::Config(error)) => usage(&error.to_string()),
            _ => fleet_telemetry::exit_code(Err(error)),
        },
        Ok(()) => ExitCode::SUCCESS,
    }
}

#[tokio::main]
async fn serve(layers: Layers) -> maintenance::Outcome {
    let stop = fleet_telemetry::stop_on_signal()?;
    let program = Program::listen(layers).await?;
    program.serve(stop).await?;
    tracing::info!("stopped");
    Ok(())
}

fn usage(text: &str) -> ExitCode {
    tracing::error!("{text}");
    ExitCode::from(USAGE)
}

impl SettingsArguments {
    fn layers(self) -> Result<Layers, String> {
        let named = [("state_dir", "--state-dir", self.state_dir), ("socket", "--socket", self.socket)]
            .into_iter()
            .chain([("listen", "--listen", self.listen)]);
        let mut flags: Vec<_> =
            named.filter_map(|(key, flag, value)| Some((key.to_owned(), flag.to_owned(), value?))).collect();
        for text in self.set {
            let Some((key, value)) = text.split_once('=') else {
                return Err(format!("--set {text}: expected NAME=VALUE"));
            };
            flags.push((key.to_owned(), "--set".to_owned(), value.to_owned()));
        }
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Ok(Layers { file: self.config, environment: environment.collect(), flags })
    }
}
