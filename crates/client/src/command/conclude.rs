//! The end of every command that submits or watches a run: the result, or how to come back to it.

use std::io::Write;

use fleet_diff::{Format, Report};
use fleet_wire::v1;

use crate::args::ReportFormat;
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing;
use crate::options::ReportOptions;
use crate::output;
use crate::progress::visible;
use crate::report;
use crate::run::{Ended, Finished};

/// Prints what there is to print, and says how it went.
pub fn conclude(options: &ReportOptions, selection: &v1::Selection, ended: Ended) -> Result<Exit, CliError> {
    match ended {
        Ended::Finished(finished) => finish(options, selection, *finished),
        Ended::Submitted(run) => {
            output::print(&submitted(options.format, &run))?;
            Ok(Exit::Success)
        }
        Ended::Detached(run) => {
            // Nobody to tell when even this cannot be written.
            let _ = writeln!(
                std::io::stderr(),
                "detached: run {run} goes on; `fleetctl attach {run}` comes back to it, `fleetctl cancel {run}` ends it",
                run = visible(&run)
            );
            Ok(Exit::Detached)
        }
    }
}

fn submitted(format: ReportFormat, run: &str) -> String {
    match format {
        ReportFormat::Json => listing::document(serde_json::json!({ "run": run })),
        ReportFormat::Markdown | ReportFormat::Nvd => visible(run) + "\n",
    }
}

/// Prints the result; a run without one becomes an error.
fn finish(options: &ReportOptions, selection: &v1::Selection, finished: Finished) -> Result<Exit, CliError> {
    let Finished { run, record, sides, stopped } = finished;
    let ended = record.finished().cloned().unwrap_or_default();
    if ended.outcome() == v1::RunOutcome::Failed {
        let failure = ended.failure.unwrap_or_default();
        return Err(CliError::of_run(&failure, selection, record.host_names()));
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
fn result(options: &ReportOptions, report: &Report) -> String {
    match options.format {
        ReportFormat::Json => fleet_diff::render(report, Format::Json),
        // Neither of the others has anything to compare.
        _ if !options.compared => report::plain_lines(report),
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
