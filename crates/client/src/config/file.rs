//! The two TOML files: the project's, which travels with a flake and so may say nothing about this machine,
//! and the user's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::settings::Origin;
use crate::args::{ColorChoice, Kind, MAX_SLOTS, ReportFormat};
use crate::remote::EndpointError;

/// A settings file is a few lines; more than this is something else.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// `fleet.toml`. A flake is not trusted: nothing here names a program, a store or a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectFile {
    /// Globs of hosts to leave out.
    pub exclude: Option<Vec<String>>,
    /// Kinds of hosts to take.
    pub kind: Option<Vec<Kind>>,
    /// How to print the report.
    pub format: Option<ReportFormat>,
    /// Stop at the first failure.
    pub fail_fast: Option<bool>,
    /// Show build logs as they come.
    pub print_build_logs: Option<bool>,
    /// Fold successful output in CI logs.
    pub fold: Option<bool>,
    /// Inputs to take along, by their names in flake.lock.
    pub bring: Option<Vec<String>>,
    /// Where the coordinator is; here only over the network.
    pub coordinator: Option<String>,
    /// How long to keep trying when it cannot be reached.
    pub reconnect_for: Option<String>,
}

/// `config.toml` of the user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserFile {
    /// Globs of hosts to leave out.
    pub exclude: Option<Vec<String>>,
    /// Kinds of hosts to take.
    pub kind: Option<Vec<Kind>>,
    /// How to print the report.
    pub format: Option<ReportFormat>,
    /// Stop at the first failure.
    pub fail_fast: Option<bool>,
    /// Show build logs as they come.
    pub print_build_logs: Option<bool>,
    /// Fold successful output in CI logs.
    pub fold: Option<bool>,
    /// When to colour.
    pub color: Option<ColorChoice>,
    /// URI of the Nix store; none leaves it to the environment.
    pub store: Option<String>,
    /// The `nix` command.
    pub nix: Option<PathBuf>,
    /// Chunks, logs and the journal.
    pub state_dir: Option<PathBuf>,
    /// Packed flakes and the evaluators' fetcher cache.
    pub cache_dir: Option<PathBuf>,
    /// Builds at a time.
    #[serde(default, deserialize_with = "slots")]
    pub worker_slots: Option<u32>,
    /// Evaluators at a time.
    #[serde(default, deserialize_with = "slots")]
    pub eval_slots: Option<u32>,
    /// Where the coordinator is.
    pub coordinator: Option<String>,
    /// How long to keep trying when it cannot be reached.
    pub reconnect_for: Option<String>,
    /// Certificates of the authority that vouches for it.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub client_cert: Option<PathBuf>,
    /// Its private key.
    pub client_key: Option<PathBuf>,
    /// A file with a token.
    pub token_file: Option<PathBuf>,
}

fn slots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match u32::deserialize(deserializer)? {
        slots @ 1..=MAX_SLOTS => Ok(Some(slots)),
        slots => Err(D::Error::custom(format_args!("{slots} is not a number from 1 to {MAX_SLOTS}"))),
    }
}

/// Why the settings are not known.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there but cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An unknown key, a wrong type, no TOML at all.
    #[error("{path}: {message}", path = path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// With line and column.
        message: String,
    },
    /// A variable with a value that is none.
    #[error("{name} is `{value}`, not {expected}")]
    Variable {
        /// Which.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it could be.
        expected: &'static str,
    },
    /// The address of the coordinator is none.
    #[error("the coordinator's address of {origin} is not one: {source}")]
    Coordinator {
        /// Who said it.
        origin: Origin,
        /// What is wrong.
        source: EndpointError,
    },
    /// A flake names a socket of this machine.
    #[error("{path}: a flake cannot name a socket of this machine as its coordinator", path = .0.display())]
    SocketOfFlake(PathBuf),
    /// No branch is called so.
    #[error("{origin} gives a branch a name that is none: {name:?}")]
    Branch {
        /// Who said it.
        origin: Origin,
        /// The name.
        name: String,
    },
    /// A time that is none.
    #[error("reconnect_for of {origin}: {message}")]
    Time {
        /// Who said it.
        origin: Origin,
        /// What is wrong.
        message: String,
    },
    /// Neither XDG variables nor HOME say where files may go.
    #[error("no directory for {what}: neither {variable} nor HOME is set")]
    NoDirectory {
        /// For what.
        what: &'static str,
        /// Which variable would say.
        variable: &'static str,
    },
}

/// The nearest `fleet.toml`, upwards from the flake.
pub fn find_project(flake: &Path) -> Option<PathBuf> {
    let files = flake.ancestors().map(|directory| directory.join("fleet.toml"));
    files.into_iter().find(|file| file.is_file())
}

/// Reads `fleet.toml`.
pub fn load_project(path: &Path) -> Result<ProjectFile, ConfigError> {
    load(path)
}

/// Reads the user's file; nothing when there is none.
pub fn load_user(path: &Path) -> Result<Option<UserFile>, ConfigError> {
    match load(path) {
        Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        ConfigError::Invalid { path: path.to_owned(), message: format!("{place}{}", error.message()) }
    })
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than a settings file can be"));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("fleet.toml");
        fs::write(&path, text).expect("file");
        let error = load_project(&path).expect_err("refused").to_string();
        error.replace(&directory.path().display().to_string(), "DIR")
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let unknown = message("fail_fast = true\nexcldue = []\n");
        assert!(unknown.starts_with("DIR/fleet.toml: line 2: unknown field `excldue`"), "{unknown}");
        assert_eq!(
            message("\nkind = [\"windows\"]\n"),
            "DIR/fleet.toml: line 2: unknown variant `windows`, expected one of `nixos`, `darwin`, `home`"
        );
    }

    #[test]
    fn numbers_are_bounded_in_files_as_elsewhere() {
        let user = |text: &str| toml::from_str::<UserFile>(text).map(|file| file.worker_slots);
        assert_eq!(user("worker_slots = 1024\n"), Ok(Some(1024)));
        assert_eq!(user(""), Ok(None));
        for slots in ["0", "1025"] {
            let error = user(&format!("worker_slots = {slots}\n")).expect_err("refused");
            assert_eq!(error.message(), format!("{slots} is not a number from 1 to 1024"));
        }
    }

    #[test]
    fn a_flake_cannot_choose_programs_or_stores() {
        for key in ["nix", "store", "state_dir", "cache_dir", "ca", "client_cert", "client_key", "token_file"]
        {
            assert!(message(&format!("{key} = \"/evil\"\n")).contains("unknown field"), "{key}");
        }
    }
}
