//! `fleetctl build`: build hosts; with a base, print what changed.

use super::conclude::conclude;
use super::coordinator;
use super::session::{self, Flake};
use crate::args::{BuildArgs, GlobalArgs, RunArgs};
use crate::config::{Environment, branch};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::interruption::Manner;
use crate::options::{RunOptions, Unnamed};
use crate::output;
use crate::run::{self, There};
use crate::source;

/// Builds, prints, and says how it went.
pub async fn execute(global: &GlobalArgs, args: &BuildArgs) -> Result<Exit, CliError> {
    execute_run(global, &args.run, args.base.as_deref(), Unnamed::Refuse).await
}

/// The same for every command that builds.
pub async fn execute_run(
    global: &GlobalArgs,
    args: &RunArgs,
    base: Option<&str>,
    unnamed: Unnamed,
) -> Result<Exit, CliError> {
    let environment = Environment::of_process();
    let flake = Flake::find(&args.flake)?;
    let settings = session::settings(global, args, &environment, &flake.directory())?;
    coordinator::refuse_contradictions(args, &settings)?;
    let mut options = RunOptions::resolve(args, base, unnamed, flake.reference, &settings)?;
    if options.branch.is_empty() {
        options.branch = source::branch(&options.flake, &flake.location)
            .filter(|name| branch::is_name(name))
            .or_else(|| branch::of_ci(&environment))
            .unwrap_or_default();
    }
    for output in &options.report.outputs {
        output::check_writable(&output.file)?;
    }
    if args.detach && !options.report.outputs.is_empty() {
        return Err(CliError::new("--detach leaves before there is a report to write")
            .next("Give --output to `fleetctl attach` later, or leave --detach out"));
    }
    let connection = coordinator::connection(&settings)?;
    let mut signals = session::signals()?;
    let mut display = session::display(global, &settings, &environment);
    let embed = session::embed_config(&settings);
    let ended = match connection {
        None => run::run_here(&options, embed, &flake.location, &mut display, &mut signals).await,
        Some(connection) => {
            let ask = session::can_ask(&environment);
            let there = There {
                connection,
                reconnect_for: settings.remote.reconnect_for.value,
                manner: Manner::Own { ask, detach: args.follow.detach_on_interrupt },
                detach: args.detach,
            };
            let cache_dir = &embed.cache_dir;
            run::run_there(&options, &there, &flake.location, cache_dir, &mut display, &mut signals).await
        }
    };
    display.finish();
    conclude(&options.report, &options.selection, ended?)
}
