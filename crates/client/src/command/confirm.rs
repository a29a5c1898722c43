//! A question before something that cannot be undone.

use std::io::{self, IsTerminal, Write};

use crate::error::CliError;

/// Goes on only where the user says yes; without anybody to ask, `--yes` must have been said.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CliError::new(format!("{question} Nobody can be asked here")).next("Add --yes"));
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stdin().read_line(&mut answer));
    match (asked, answer.trim().to_lowercase().as_str()) {
        (Ok(_), "y" | "yes") => Ok(()),
        _ => Err(CliError::cancelled()),
    }
}
