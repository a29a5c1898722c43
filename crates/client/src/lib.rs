//! fleetctl: arguments, progress, report files.
//!
//! Packs flakes ([`source`]), hands them to a coordinator elsewhere ([`remote`]) or in this process ([`embed`]), watches
//! the run ([`run`], [`watch`]) and prints its result ([`report`]). It decides nothing about what is built.

pub mod args;
pub mod backoff;
pub mod command;
pub mod config;
pub mod contact;
pub mod embed;
pub mod error;
pub mod exit_code;
pub mod failure;
pub mod follow;
pub mod idle;
pub mod interruption;
pub mod listing;
pub mod options;
pub mod output;
pub mod prepare;
pub mod progress;
pub mod remote;
pub mod report;
pub mod run;
pub mod signals;
pub mod source;
pub mod submit;
mod suggest;
pub mod tail;
pub mod upload;
pub mod watch;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use clap::Parser;

use args::{Cli, CliCommand};
use error::CliError;
use exit_code::Exit;

/// The whole program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return answer_parser(&error),
    };
    log_to_stderr();
    // Not awaited at the end: a thread that still packs, or an evaluator, must not hold up the exit.
    let exit = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let exit = runtime.block_on(execute(&cli));
            runtime.shutdown_background();
            exit
        }
        Err(error) => Err(CliError::new(format!("cannot start threads: {error}"))),
    };
    exit.unwrap_or_else(|error| complain(&error))
}

async fn execute(cli: &Cli) -> Result<Exit, CliError> {
    let global = &cli.global;
    match &cli.command {
        CliCommand::Build(args) => command::build::execute(global, args).await,
        CliCommand::Diff(args) => command::diff::execute(global, args).await,
        CliCommand::Logs(args) => command::logs::execute(global, args).await,
        CliCommand::Attach(args) => command::attach::execute(global, args).await,
        CliCommand::Runs(args) => command::runs::execute(global, args).await,
        CliCommand::Show(args) => command::show::execute(global, args).await,
        CliCommand::Cancel(args) => command::cancel::execute(global, args).await,
        CliCommand::Status(args) => command::status::execute(global, args).await,
        CliCommand::Why(args) => command::why::execute(global, args).await,
        CliCommand::Worker(args) => command::worker::execute(global, args).await,
        CliCommand::Client(args) => command::client::execute(global, args).await,
        CliCommand::Cache(args) => command::cache::execute(global, args).await,
        CliCommand::Pin(args) => command::pin::execute(global, args).await,
        CliCommand::Unpin(args) => command::pin::remove(global, args).await,
        CliCommand::Version(args) => command::version::execute(args),
        CliCommand::Config(args) => command::config::execute(global, args),
        CliCommand::Completions(args) => command::completions::execute(args),
    }
}

/// Help goes to standard output and is a success; a wrong option is an error like any other, never clap's 2.
fn answer_parser(error: &clap::Error) -> Exit {
    // Nobody to tell when even this cannot be written.
    let _ = error.print();
    if error.use_stderr() { Exit::Error } else { Exit::Success }
}

fn complain(error: &CliError) -> Exit {
    if !error.is_cancelled() || std::io::stderr().is_terminal() {
        let _ = writeln!(std::io::stderr(), "{}", error.paragraph());
    }
    error.exit()
}

/// For those who look for a fault in fleetctl itself: `FLEET_LOG=debug`.
fn log_to_stderr() {
    if std::env::var_os("FLEET_LOG").is_some() {
        fleet_telemetry::log_to_stderr("off");
    }
}
