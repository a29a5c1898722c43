//! `fleetctl logs`: the kept log of one attempt.

use std::io::{self, IsTerminal, Write};

use fleet_wire::v1::{self, runs_client::RunsClient};
use tonic::{Code, Status};

use super::session;
use crate::args::{GlobalArgs, LogsArgs, RunArgs};
use crate::config::{Environment, Files, Settings};
use crate::embed;
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::progress::log_lines;

/// Prints the log. On a terminal it is made safe to show; elsewhere its bytes are passed on as they are.
pub async fn execute(global: &GlobalArgs, args: &LogsArgs) -> Result<Exit, CliError> {
    if args.selector.is_empty() {
        return Err(CliError::new("whose log is not said").next("Name a host, or a derivation by its path"));
    }
    let environment = Environment::of_process();
    // A flake's own settings say nothing about logs: this works anywhere, and beside a broken fleet.toml.
    let files = Files::of_user(&environment)?;
    let settings = Settings::resolve(global, &RunArgs::default(), &environment, &files)?;
    let embedded = embed::start_coordinator(&session::embed_config(&settings)).await?;
    let request = v1::LogsRequest {
        run: args.run.clone().unwrap_or_default(),
        selector: selector(&args.selector).to_owned(),
        attempt: args.attempt.unwrap_or(0),
        offset: 0,
        follow: false,
    };
    let mut client =
        RunsClient::new(embedded.channel.clone()).max_decoding_message_size(fleet_wire::MAX_MESSAGE);
    let failed = |status: Status| no_log(args, &status);
    let mut chunks = client.logs(request).await.map_err(failed)?.into_inner();
    let mut printer = Printer::new(io::stdout().is_terminal());
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        if !printer.print(&chunk.data)? {
            break;
        }
    }
    printer.finish()?;
    embedded.shutdown().await;
    Ok(Exit::Success)
}

/// Derivations are known by their base names.
fn selector(text: &str) -> &str {
    let base = text.rsplit('/').next().unwrap_or(text);
    if base.strip_suffix(".drv").is_some() { base } else { text }
}

fn no_log(args: &LogsArgs, status: &Status) -> CliError {
    if status.code() != Code::NotFound {
        return CliError::new(format!("no log of `{}`: {}", args.selector, status.message()));
    }
    let narrowed = match (&args.run, args.attempt) {
        (Some(_), Some(_)) => Some("--run and --attempt"),
        (Some(_), None) => Some("--run"),
        (None, Some(_)) => Some("--attempt"),
        (None, None) => None,
    };
    CliError::new(status.message()).next(match narrowed {
        Some(options) => format!("Leave {options} out to see the newest log there is"),
        None => "Name a host, or a derivation by its path or base name; what came from a cache or printed nothing \
                 has no log, nor has a host that did not evaluate"
            .to_owned(),
    })
}

/// Holds back an unfinished line, so that no escape sequence is cut in two.
struct Printer {
    shown: bool,
    rest: Vec<u8>,
}

impl Printer {
    /// A line without an end is printed at this length.
    const MAX_REST_BYTES: usize = 1024 * 1024;

    fn new(shown: bool) -> Self {
        Self { shown, rest: Vec::new() }
    }

    /// Whether anybody still reads.
    fn print(&mut self, data: &[u8]) -> Result<bool, CliError> {
        if !self.shown {
            return write(data);
        }
        self.rest.extend_from_slice(data);
        let end = match self.rest.iter().rposition(|&byte| byte == b'\n') {
            Some(at) => at + 1,
            None if self.rest.len() > Self::MAX_REST_BYTES => self.rest.len(),
            None => return Ok(true),
        };
        let rest = self.rest.split_off(end);
        let lines = std::mem::replace(&mut self.rest, rest);
        write(shown(&lines).as_bytes())
    }

    fn finish(self) -> Result<(), CliError> {
        if !self.rest.is_empty() {
            write(shown(&self.rest).as_bytes())?;
        }
        Ok(())
    }
}

fn shown(bytes: &[u8]) -> String {
    log_lines(bytes).into_iter().fold(String::new(), |text, line| text + &line + "\n")
}

fn write(bytes: &[u8]) -> Result<bool, CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(CliError::unwritable_output("standard output".as_ref(), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_log_gets_the_next_step_that_helps() {
        let args = |run: Option<&str>, attempt| LogsArgs {
            selector: "web".to_owned(),
            run: run.map(str::to_owned),
            attempt,
        };
        let missing = Status::not_found("no remembered run has a host web");
        insta::assert_snapshot!(no_log(&args(None, None), &missing).paragraph(), @"error: no remembered run has a host web. Name a host, or a derivation by its path or base name; what came from a cache or printed nothing has no log, nor has a host that did not evaluate.");
        insta::assert_snapshot!(no_log(&args(None, Some(7)), &missing).paragraph(), @"error: no remembered run has a host web. Leave --attempt out to see the newest log there is.");
        insta::assert_snapshot!(no_log(&args(Some("run-1"), None), &missing).paragraph(), @"error: no remembered run has a host web. Leave --run out to see the newest log there is.");
        insta::assert_snapshot!(no_log(&args(None, None), &Status::internal("cannot read")).paragraph(), @"error: no log of `web`: cannot read.");
    }
}
