//! `fleetctl logs`: the log of one attempt, kept or still growing.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use fleet_wire::v1;
use tonic::{Code, Status};

use super::{coordinator, session};
use crate::args::{FollowArgs, GlobalArgs, LogsArgs, RunArgs};
use crate::config::{ConfigError, Environment, Files, Settings};
use crate::contact::{Contact, News};
use crate::embed::{self, Embedded};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::listing;
use crate::progress::{chosen_time, duration, log_lines};
use crate::remote::Connection;
use crate::tail::{LogTail, Piece};

/// Prints the log. On a terminal it is made safe to show; elsewhere its bytes are passed on as they are.
pub async fn execute(global: &GlobalArgs, args: &LogsArgs) -> Result<Exit, CliError> {
    if args.selector.is_empty() {
        return Err(CliError::new("whose log is not said").next("Name a host, or a derivation by its path"));
    }
    let settings = settings(global, args)?;
    let (connection, embedded) = reach(args, &settings).await?;
    let request = v1::LogsRequest {
        run: args.run.clone().unwrap_or_default(),
        selector: selector(&args.selector).to_owned(),
        attempt: args.attempt.unwrap_or(0),
        offset: 0,
        follow: args.follow,
    };
    // Who does not follow wants an answer now.
    let patience = if args.follow { settings.remote.reconnect_for.value } else { Duration::ZERO };
    let mut tail = LogTail::new(connection.runs(), request, Contact::new(patience));
    let mut printer = Printer::new(io::stdout().is_terminal());
    loop {
        match tail.next().await.map_err(|status| no_log(args, &status))? {
            Some(Piece::Bytes(bytes)) => {
                if !printer.print(&bytes)? {
                    break;
                }
            }
            Some(Piece::Skipped(skipped)) => {
                printer.finish()?;
                tell(&format!(
                    "({} of the log are left out: this reader was too slow)",
                    listing::bytes(skipped)
                ));
            }
            Some(Piece::News(news)) => tell(&sentence(&news)),
            None => break,
        }
    }
    printer.finish()?;
    if let Some(embedded) = embedded {
        embedded.shutdown().await;
    }
    Ok(Exit::Success)
}

/// What a flake says counts only for the coordinator: this works anywhere, and beside a broken fleet.toml.
fn settings(global: &GlobalArgs, args: &LogsArgs) -> Result<Settings, CliError> {
    let environment = Environment::of_process();
    let files = match Files::load(&environment, &session::current_directory()?) {
        Err(ConfigError::Invalid { path, .. }) if path.ends_with("fleet.toml") => {
            Files::of_user(&environment)?
        }
        files => files?,
    };
    let follow = FollowArgs { reconnect_for: args.reconnect_for, ..FollowArgs::default() };
    Ok(Settings::resolve(global, &RunArgs { follow, ..RunArgs::default() }, &environment, &files)?)
}

async fn reach(args: &LogsArgs, settings: &Settings) -> Result<(Connection, Option<Embedded>), CliError> {
    if let Some(connection) = coordinator::connection(settings)? {
        return Ok((connection, None));
    }
    if args.follow {
        return Err(CliError::needs_coordinator("--follow"));
    }
    let embedded = embed::start_coordinator(&session::embed_config(settings)).await?;
    Ok((Connection::in_memory(embedded.channel.clone()), Some(embedded)))
}

/// Beside the log, never in it. Nobody to tell when even this cannot be written.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn sentence(news: &News) -> String {
    let ms = |time: &Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match news {
        News::Work { verb, what } => format!("{verb} {what}"),
        News::Lost { why, within, .. } => {
            format!("(no contact with the coordinator: {why}; trying again for {})", chosen_time(*within))
        }
        News::Back { after } => format!("(the coordinator is there again, after {})", duration(ms(after))),
    }
}

/// Derivations are known by their base names.
fn selector(text: &str) -> &str {
    let base = text.rsplit('/').next().unwrap_or(text);
    if base.strip_suffix(".drv").is_some() { base } else { text }
}

fn no_log(args: &LogsArgs, status: &Status) -> CliError {
    if status.code() != Code::NotFound {
        return CliError::of_status(&format!("no log of `{}`", args.selector), status);
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

    fn finish(&mut self) -> Result<(), CliError> {
        let rest = std::mem::take(&mut self.rest);
        if !rest.is_empty() {
            write(shown(&rest).as_bytes())?;
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
            follow: false,
            reconnect_for: None,
        };
        let missing = Status::not_found("no remembered run has a host web");
        insta::assert_snapshot!(no_log(&args(None, None), &missing).paragraph(), @"error: no remembered run has a host web. Name a host, or a derivation by its path or base name; what came from a cache or printed nothing has no log, nor has a host that did not evaluate.");
        insta::assert_snapshot!(no_log(&args(None, Some(7)), &missing).paragraph(), @"error: no remembered run has a host web. Leave --attempt out to see the newest log there is.");
        insta::assert_snapshot!(no_log(&args(Some("run-1"), None), &missing).paragraph(), @"error: no remembered run has a host web. Leave --run out to see the newest log there is.");
        insta::assert_snapshot!(no_log(&args(None, None), &Status::internal("cannot read")).paragraph(), @"error: no log of `web`: cannot read. Try again in a moment; `fleetctl status` tells how it is.");
    }
}
