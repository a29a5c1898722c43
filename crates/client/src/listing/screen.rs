//! Standard output as a place for tables: how wide it is, and whether it takes colours.

use std::io::{self, IsTerminal};

use crate::args::ColorChoice;
use crate::config::Environment;
use crate::error::CliError;
use crate::output;
use crate::progress::{Line, colored};

/// Where a table goes.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Characters a line, if it is a terminal.
    pub columns: Option<usize>,
    /// Whether to colour.
    pub color: bool,
}

impl Screen {
    /// Standard output.
    pub fn of_stdout(color: ColorChoice, environment: &Environment) -> Self {
        let is_terminal = io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0);
        let columns = is_terminal.then(|| size.map_or(80, |size| usize::from(size.ws_col)));
        Self { columns, color: colored(color, is_terminal, environment) }
    }

    /// Prints lines; they are cut already.
    pub fn print(self, lines: &[Line]) -> Result<(), CliError> {
        output::print(&self.text(lines))
    }

    /// The lines as they are printed.
    pub fn text(self, lines: &[Line]) -> String {
        let shown = lines.iter().map(|line| if self.color { line.ansi() } else { line.text() });
        shown.fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }
}
