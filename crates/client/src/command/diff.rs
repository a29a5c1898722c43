//! `fleetctl diff`: the same engine as `build`, with a base and every host unless some are named.

use super::build;
use crate::args::{DiffArgs, GlobalArgs};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::options::Unnamed;

/// Builds both sides and prints the report.
pub async fn execute(global: &GlobalArgs, args: &DiffArgs) -> Result<Exit, CliError> {
    build::execute_run(global, &args.run, Some(&args.base), Unnamed::TakeAll).await
}
