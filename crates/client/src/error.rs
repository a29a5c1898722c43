//! The one place where a failure gets its words for the user: what happened, what to do next, and the exit code.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use fleet_wire::v1;

use crate::config::ConfigError;
use crate::embed::EmbedError;
use crate::exit_code::Exit;
use crate::progress::{log_lines, visible};
use crate::source::{FlakeRefError, GitError, LocateError, PackError, SourceError};
use crate::suggest::closest;
use crate::upload::UploadError;

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

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
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
        let detail = log_lines(failure.detail.trim_end().as_bytes());
        let detail = if failure.detail.trim().is_empty() { Vec::new() } else { detail };
        let known: Vec<&str> =
            hosts.chain(failure.detail.lines().filter(|_| failure.code == "no_hosts")).collect();
        let error = Self::new(if failure.cause.is_empty() { "the run failed" } else { &failure.cause });
        match failure.code.as_str() {
            "no_hosts" => match closest(&selection.hosts, &known) {
                near if !near.is_empty() => error.next(format!("Did you mean {}?", near.join(", "))),
                _ if known.is_empty() => error.next(
                    "Check that the flake has nixosConfigurations (or the sets of --kind), and that --exclude and \
                     the default exclusion `*-minimal` leave some",
                ),
                _ => error.next(format!("The flake has {}", enumerate(&known))),
            },
            "eval_failed" | "eval_died" => error
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

fn enumerate(names: &[&str]) -> String {
    let mut text = names.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
    if names.len() > MAX_NAMES {
        let _ = write!(text, " and {} more", names.len() - MAX_NAMES);
    }
    text
}

const FULL: &str = "The disk is full: free some space, for example with `nix-collect-garbage`, and run the same \
                    command again; what was built is kept";

fn sentence(text: &str) -> String {
    let text = visible(text.trim_end());
    if text.ends_with(['.', '?', '!']) { text } else { text + "." }
}

/// The system's word for an error, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// An error and its causes in one sentence.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.downcast_ref::<io::Error>().map_or_else(|| error.to_string(), plain);
        // Transparent wrappers repeat their cause.
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}

impl From<FlakeRefError> for CliError {
    fn from(error: FlakeRefError) -> Self {
        let next = match &error {
            FlakeRefError::NotLocal(_) => {
                "Clone it first and give its path, as in `fleetctl build ./fleet --all-hosts`"
            }
            FlakeRefError::Parameter { .. } => "Leave it out; ?dir=, ?rev=, ?ref= and ?shallow=1 are known",
            FlakeRefError::Malformed(_) => "Give a path, as in `fleetctl build ./fleet --all-hosts`",
        };
        Self::new(error.to_string()).next(next)
    }
}

impl From<LocateError> for CliError {
    fn from(error: LocateError) -> Self {
        let next = match &error {
            LocateError::Io { .. } => "Check the path and its permissions",
            LocateError::NotADirectory(_) => "Give the directory that holds flake.nix",
            LocateError::NoFlake(_) => "Go to the directory of your flake, or give its path as FLAKE",
            LocateError::NotARepository(_) => {
                "Run `git init` and `git add` your files there, or write path: instead of git+file: to take every \
                 file of the directory"
            }
            LocateError::NotUtf8(_) => "Rename it: Nix cannot name such a directory in a flake reference",
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<GitError> for CliError {
    fn from(error: GitError) -> Self {
        let next = match &error {
            GitError::NotInstalled => {
                "Install git, or write path: before the flake's path to take every file of the directory"
                    .to_owned()
            }
            GitError::Failed { message, root, .. } if message.contains("dubious ownership") => format!(
                "The repository belongs to another user; if you trust it, run `git config --global --add \
                 safe.directory {}`",
                root.display()
            ),
            GitError::NoSuchCommit { root, .. } => format!(
                "`git -C {} log --oneline --all` lists commits; in a shallow clone, run `git fetch --unshallow` first",
                root.display()
            ),
            GitError::Failed { .. } | GitError::Io(_) | GitError::Unexpected { .. } => {
                "Check that `git status` works in that directory".to_owned()
            }
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<PackError> for CliError {
    fn from(error: PackError) -> Self {
        let next = match error {
            PackError::Git(error) => return error.into(),
            PackError::Write(source) if source.kind() == io::ErrorKind::StorageFull => {
                return Self::new("cannot write the packed flake: the disk is full").next(FULL);
            }
            PackError::Write(_) => "Set FLEET_CACHE_DIR to a directory with room for a copy of the flake",
            PackError::Read { .. } => "Check its permissions; Nix reads every tracked file of a flake",
            PackError::Changed(_) => "Run the same command again when nothing writes there",
            PackError::Unsupported(_) => "Remove it, or use a git repository that does not track it",
            PackError::Nar { .. } => "Rename or remove it: Nix cannot hold it in its store either",
            PackError::TooDeep(_) => "Move it up: Nix takes 64 directories in one another at most",
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<SourceError> for CliError {
    fn from(error: SourceError) -> Self {
        let next = match error {
            SourceError::Git(error) => return error.into(),
            SourceError::Pack(error) => return error.into(),
            SourceError::Spool { directory, source } => {
                return Self::unusable_directory("cache", &directory, "FLEET_CACHE_DIR", &source);
            }
            SourceError::Untracked(ref path) => {
                format!("Run `git add {}`: Nix sees tracked files only", path.display())
            }
            SourceError::NoFlake { .. } => "Check FLAKE, its ?dir= and the commit".to_owned(),
            SourceError::NoHistory(_) => {
                "A base needs history: keep the flake in git, or leave --base out".to_owned()
            }
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let next = match &error {
            ConfigError::Read { .. } => "Make it readable, or move it away",
            ConfigError::Invalid { path, .. } if path.ends_with("fleet.toml") => {
                "Mend that line; keys about this machine (store, nix, directories, slots) belong in \
                 ~/.config/fleetctl/config.toml"
            }
            ConfigError::Invalid { .. } => "Mend that line; `fleetctl config show` lists every key",
            ConfigError::Variable { .. } => "Mend or unset it",
            ConfigError::NoDirectory { .. } => "Set HOME, or FLEET_STATE_DIR and FLEET_CACHE_DIR",
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<EmbedError> for CliError {
    fn from(error: EmbedError) -> Self {
        let text = chain(&error);
        let next = match io_cause(&error) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => FULL,
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
                if matches!(error, EmbedError::Coordinator(_)) =>
            {
                "Make the directory writable, or set FLEET_STATE_DIR to one that is"
            }
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                "Make it accessible to this user; FLEET_CACHE_DIR names another cache directory, --store another daemon"
            }
            Some(io::ErrorKind::NotFound) if text.contains("cannot run") => {
                "Install Nix, or name its command in FLEET_NIX"
            }
            // The daemon's own errors say what to do.
            _ => return Self::new(text),
        };
        Self::new(text).next(next)
    }
}

impl From<UploadError> for CliError {
    fn from(error: UploadError) -> Self {
        let next = match io_cause(&error) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => FULL,
            _ => "Check the directories of `fleetctl config show`, and run the same command again",
        };
        Self::new(chain(&error)).next(next)
    }
}

/// The first cause that the system gave.
fn io_cause(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}
