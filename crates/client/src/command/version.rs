//! `fleetctl version`.

use crate::args::VersionArgs;
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::output;

/// Prints the version.
pub fn execute(args: &VersionArgs) -> Result<Exit, CliError> {
    let version = env!("CARGO_PKG_VERSION");
    let text = if args.json {
        format!("{}\n", serde_json::json!({ "schema": 1, "version": version }))
    } else {
        format!("fleetctl {version}\n")
    };
    output::print(&text)?;
    Ok(Exit::Success)
}
