//! `fleetctl cancel`: end a run; what others wait for goes on.

use fleet_wire::v1;

use super::coordinator::Asking;
use crate::args::{CancelArgs, GlobalArgs, RunArgs};
use crate::error::CliError;
use crate::exit_code::Exit;

/// Tells the coordinator.
pub async fn execute(global: &GlobalArgs, args: &CancelArgs) -> Result<Exit, CliError> {
    let asking = Asking::begin(global, &RunArgs::default(), "cancel")?;
    let reply = asking.connection.runs().cancel(v1::CancelRequest { run: args.run.clone() }).await;
    reply.map_err(|status| CliError::of_run_request("the run is not cancelled", &args.run, &status))?;
    Ok(Exit::Success)
}
