//! `fleetctl runs`: the runs that the coordinator remembers.

use fleet_wire::v1;
use serde::Serialize;

use super::coordinator::Asking;
use crate::args::{GlobalArgs, RunArgs, RunsArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing::{self, RunJson};
use crate::output;

#[derive(Serialize)]
struct RunsJson<'a> {
    runs: Vec<RunJson<'a>>,
}

/// Prints them, the newest first.
pub async fn execute(global: &GlobalArgs, args: &RunsArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "runs")?;
    let reply = asking.connection.runs().list(v1::ListRunsRequest { limit: args.limit }).await;
    let runs =
        reply.map_err(|status| CliError::of_status("the runs are not listed", &status))?.into_inner().runs;
    if args.json {
        output::print(&listing::document(RunsJson { runs: runs.iter().map(RunJson::of).collect() }))?;
        return Ok(Exit::Success);
    }
    let screen = asking.screen();
    if !runs.is_empty() {
        screen.print(&listing::run_table(&runs, listing::unix_ms()).lines(screen.columns))?;
    }
    Ok(Exit::Success)
}
