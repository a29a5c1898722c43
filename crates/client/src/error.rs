//! The one place where a failure gets its words for the user: what happened, what to do next, and the exit code.
//! The files below hold the words for one kind of failure each.

mod embedded;
mod remote;
mod source;

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fleet_wire::v1;

use crate::config::ConfigError;
use crate::exit_code::Exit;
use crate::progress::{log_lines, visible};
use crate::suggest::closest;

/// A failure as the user reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CliError {
    what: String,
    next: Option<String>,
    detail: Vec<String>,
    exit: Exit,
}

impl CliError {
    /// Something went wrong; `what` is a sentence without its stop.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), next: None, detail: Vec::new(), exit: Exit::Error }
    }

    /// The user stopped it.
    pub fn cancelled() -> Self {
        Self { exit: Exit::Cancelled, ..Self::new("cancelled") }
    }

    /// With what the user can do about it, again without a stop.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// With lines that stand below the paragraph: a trace, names.
    #[must_use]
    pub fn detail(mut self, lines: Vec<String>) -> Self {
        self.detail = lines;
        self
    }

    /// With another exit code than that of errors.
    #[must_use]
    pub fn exiting(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Cancelled, and there is nothing else to say.
    pub fn is_cancelled(&self) -> bool {
        *self == Self::cancelled()
    }

    /// One paragraph, and the detail below it.
    pub fn paragraph(&self) -> String {
        let mut text = format!("error: {}", sentence(&self.what));
        if let Some(next) = &self.next {
            let _ = write!(text, " {}", sentence(next));
        }
        for line in &self.detail {
            let _ = write!(text, "\n  {line}");
        }
        text
    }

    /// A run that could do nothing.
    pub fn of_run<'a>(
        failure: &'a v1::Failure,
        selection: &v1::Selection,
        hosts: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut detail = log_lines(failure.detail.as_bytes());
        detail.retain(|line| !line.trim().is_empty());
        let known: Vec<&str> =
            hosts.chain(failure.detail.lines().filter(|_| failure.code == "no_hosts")).collect();
        let error = Self::new(match failure.code.as_str() {
            "no_hosts" if !selection.hosts.is_empty() => {
                format!("no host matches {}", quoted(&selection.hosts))
            }
            "no_hosts" if known.is_empty() => "the flake has no hosts".to_owned(),
            "no_hosts" => "every host of the flake is left out".to_owned(),
            _ if failure.cause.is_empty() => "the run failed".to_owned(),
            _ => failure.cause.clone(),
        });
        match failure.code.as_str() {
            "no_hosts" => match closest(&selection.hosts, &known) {
                near if !near.is_empty() => error.next(format!("Perhaps you mean {}", near.join(" or "))),
                _ if known.is_empty() => error.next(
                    "Check that the flake has nixosConfigurations; other sets are taken with --kind home and --kind darwin",
                ),
                _ if selection.hosts.is_empty() => error.next(format!(
                    "Use --exclude '' to leave out none of {}",
                    enumerate(&known)
                )),
                _ => error.next(format!("The flake has {}", enumerate(&known))),
            },
            "eval_died" => error
                .next(
                    "Check that `nix eval` works on this flake here, and that there is memory enough; `fleetctl config \
                     show` names the nix in use",
                )
                .detail(detail),
            "eval_failed" => error
                .next("Mend the flake; `nix flake check --no-build` looks at the same attributes")
                .detail(detail),
            "no_worker" => error
                .next("Build on a machine of that system, or add the system to extra-platforms in nix.conf")
                .detail(detail),
            _ => error.next("Run the same command again; what was built is kept").detail(detail),
        }
    }

    /// A directory that cannot be used.
    pub fn unusable_directory(what: &str, path: &Path, variable: &str, source: &io::Error) -> Self {
        let error =
            Self::new(format!("cannot write to the {what} directory {}: {}", path.display(), plain(source)));
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => error.next(FULL),
            _ => error.next(format!("Make it writable, or set {variable} to a directory that is")),
        }
    }

    /// A result that cannot be written where the user wants it.
    pub fn unwritable_output(path: &Path, source: &io::Error) -> Self {
        let error = Self::new(format!("cannot write {}: {}", path.display(), plain(source)));
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => error.next(FULL),
            io::ErrorKind::NotFound => error.next("Create the directory first"),
            _ => error.next("Choose another file with --output FORMAT=FILE"),
        }
    }
}

/// At most so many names in a sentence.
const MAX_NAMES: usize = 12;

fn quoted(globs: &[String]) -> String {
    let globs: Vec<String> = globs.iter().take(MAX_NAMES).map(|glob| format!("`{glob}`")).collect();
    globs.join(" or ")
}

fn enumerate(names: &[&str]) -> String {
    let mut text = names.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMES {
        let _ = write!(text, " and {} more", names.len() - MAX_NAMES);
    }
    text
}

pub(crate) const FULL: &str = "The disk is full: free some space, for example with `nix-collect-garbage`, and run the same \
                    command again; what was built is kept";

fn sentence(text: &str) -> String {
    // Where a program said nothing, its words are missing after the colon.
    let text = visible(text.trim_end_matches([' ', '\n', ':']));
    if text.ends_with(['.', '?', '!']) { text } else { text + "." }
}

/// The system's word for an error, without its number.
fn plain(error: &io::Error) -> String {
    without_number(&error.to_string()).to_lowercase()
}

/// `No space left on device (os error 28)` is clear without the number.
pub(crate) fn without_number(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(" (os error ") {
        kept.push_str(before);
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    kept + rest
}

/// An error and its causes in one sentence.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = without_number(&error.to_string());
    let mut cause = error.source();
    while let Some(error) = cause {
        let shared = error.downcast_ref::<Arc<io::Error>>().map(AsRef::as_ref);
        let system = error.downcast_ref::<io::Error>().or(shared);
        let said = system.map_or_else(|| without_number(&error.to_string()), plain);
        // Some errors tell their cause themselves.
        if !text.to_lowercase().contains(&said.to_lowercase()) {
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let next = match &error {
            ConfigError::Read { .. } => "Make it readable, or move it away",
            ConfigError::Invalid { path, .. } if path.ends_with("fleet.toml") => {
                "Mend that line; keys about this machine (color, store, nix, directories, slots, credentials) belong in \
                 ~/.config/fleetctl/config.toml"
            }
            ConfigError::Invalid { .. } => "Mend that line; `fleetctl config show` lists every key",
            ConfigError::Variable { .. } => "Mend or unset it",
            ConfigError::Coordinator { .. } => "Write https://HOST, https://HOST:PORT or unix:///PATH",
            ConfigError::SocketOfFlake(_) => {
                "Write https://HOST there; a socket goes into ~/.config/fleetctl/config.toml or FLEET_COORDINATOR"
            }
            ConfigError::Time { .. } => "Mend it",
            ConfigError::Branch { .. } => "Give 1 to 255 characters, none of them invisible",
            ConfigError::NoDirectory { .. } => "Set HOME, or FLEET_STATE_DIR and FLEET_CACHE_DIR",
        };
        Self::new(chain(&error)).next(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_run(code: &str, detail: &str, hosts: &[&str]) -> String {
        let failure = v1::Failure {
            code: code.into(),
            cause: "cannot start the evaluator: no such file".into(),
            detail: detail.into(),
            ..Default::default()
        };
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        let selection = v1::Selection { hosts, ..Default::default() };
        CliError::of_run(&failure, &selection, std::iter::empty()).paragraph()
    }

    #[test]
    fn whoever_selects_no_host_learns_why() {
        insta::assert_snapshot!(of_run("no_hosts", "web1\nweb2\nmail", &["wbe1"]), @"error: no host matches `wbe1`. Perhaps you mean web1.");
        insta::assert_snapshot!(of_run("no_hosts", "web1\nmail", &["kitchen"]), @"error: no host matches `kitchen`. The flake has web1, mail.");
        insta::assert_snapshot!(of_run("no_hosts", "", &["web"]), @"error: no host matches `web`. Check that the flake has nixosConfigurations; other sets are taken with --kind home and --kind darwin.");
        insta::assert_snapshot!(of_run("no_hosts", "", &[]), @"error: the flake has no hosts. Check that the flake has nixosConfigurations; other sets are taken with --kind home and --kind darwin.");
        insta::assert_snapshot!(of_run("no_hosts", "a-minimal", &[]), @"error: every host of the flake is left out. Use --exclude '' to leave out none of a-minimal.");
    }

    #[test]
    fn an_evaluator_that_cannot_run_is_not_the_flakes_fault() {
        insta::assert_snapshot!(of_run("eval_died", "", &[]), @"error: cannot start the evaluator: no such file. Check that `nix eval` works on this flake here, and that there is memory enough; `fleetctl config show` names the nix in use.");
    }

    #[test]
    fn a_program_that_said_nothing_leaves_no_colon() {
        assert_eq!(
            CliError::new("nix cannot show its settings: ").paragraph(),
            "error: nix cannot show its settings."
        );
    }
}
