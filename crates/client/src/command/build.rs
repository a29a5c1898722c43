//! `fleetctl build`: build hosts; with a base, print what changed.

use fleet_diff::{Format, Report};
use fleet_wire::v1;

use super::session::{self, Flake};
use crate::args::{BuildArgs, GlobalArgs, ReportFormat, RunArgs};
use crate::config::Environment;
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::options::{RunOptions, Unnamed};
use crate::output;
use crate::report;
use crate::run::{self, Finished};
use crate::signals::Signals;

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
    let options = RunOptions::resolve(args, base, unnamed, flake.reference, &settings)?;
    for output in &options.outputs {
        output::check_writable(&output.file)?;
    }
    let mut signals =
        Signals::listen().map_err(|error| CliError::new(format!("cannot listen for signals: {error}")))?;
    let mut display = session::display(global, &settings, &environment);
    let embed = session::embed_config(&settings);
    let finished = run::run(&options, embed, &flake.location, &mut display, &mut signals).await;
    display.finish();
    conclude(&options, finished?)
}

/// Prints the result; a run without one becomes an error.
fn conclude(options: &RunOptions, finished: Finished) -> Result<Exit, CliError> {
    let Finished { run, record, sides, stopped } = finished;
    let ended = record.finished().cloned().unwrap_or_default();
    if ended.outcome() == v1::RunOutcome::Failed {
        let failure = ended.failure.unwrap_or_default();
        return Err(CliError::of_run(&failure, &options.selection, record.host_names()));
    }
    let report = record.into_report(&run, sides);
    let exit = report::exit(&report, ended.outcome(), stopped);
    if exit == Exit::Cancelled {
        return Ok(exit);
    }
    for output in &options.outputs {
        output::write_file(&output.file, &fleet_diff::render(&report, format(output.format)))?;
    }
    output::print(&result(options, &report))?;
    Ok(exit)
}

/// What standard output gets.
fn result(options: &RunOptions, report: &Report) -> String {
    match options.format {
        ReportFormat::Json => fleet_diff::render(report, Format::Json),
        // Neither of the others has anything to compare.
        _ if options.base.is_none() => report::plain_lines(report),
        chosen => fleet_diff::render(report, format(chosen)),
    }
}

fn format(format: ReportFormat) -> Format {
    match format {
        ReportFormat::Markdown => Format::Markdown,
        ReportFormat::Nvd => Format::Nvd,
        ReportFormat::Json => Format::Json,
    }
}
