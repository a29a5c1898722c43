//! Every setting with its default and the place its value came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::branch;
use super::file::{ConfigError, ProjectFile, UserFile};
use super::remote::RemoteSettings;
use super::sources::{Sources, flag, optional, setting};
use crate::args::{ColorChoice, GlobalArgs, Kind, ReportFormat, RunArgs};

/// A value and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// In force.
    pub value: T,
    /// Who said so.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said otherwise.
    Default,
    /// A file.
    File(PathBuf),
    /// A variable.
    Variable(&'static str),
    /// An option of this command.
    Flag(&'static str),
}

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When to colour.
    pub color: Setting<ColorChoice>,
    /// URI of the Nix store; none leaves it to the environment.
    pub store: Setting<Option<String>>,
    /// The `nix` command.
    pub nix: Setting<PathBuf>,
    /// Chunks, logs and the journal.
    pub state_dir: Setting<PathBuf>,
    /// Packed flakes and the evaluators' fetcher cache.
    pub cache_dir: Setting<PathBuf>,
    /// Builds at a time.
    pub worker_slots: Setting<Option<u32>>,
    /// Evaluators at a time.
    pub eval_slots: Setting<Option<u32>>,
    /// Globs of hosts to leave out.
    pub exclude: Setting<Vec<String>>,
    /// Kinds of hosts to take.
    pub kind: Setting<Vec<Kind>>,
    /// How to print the report.
    pub format: Setting<ReportFormat>,
    /// Stop at the first failure.
    pub fail_fast: Setting<bool>,
    /// Show build logs as they come.
    pub print_build_logs: Setting<bool>,
    /// Fold successful output in CI logs.
    pub fold: Setting<bool>,
    /// Inputs to take along, by their names in flake.lock.
    pub bring: Setting<Vec<String>>,
    /// What runs are of; none leaves it to git and CI.
    pub branch: Setting<Option<String>>,
    /// Where the coordinator is, and who we are to it.
    pub remote: RemoteSettings,
}

/// The variables of the process, as data.
#[derive(Clone, Debug, Default)]
pub struct Environment(pub BTreeMap<OsString, OsString>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// A variable that is set, not empty, and UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(std::ffi::OsStr::new(name))?.to_str().filter(|value| !value.is_empty())
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// XDG base directories must be absolute; others are ignored, as the specification says.
    pub(super) fn xdg(&self, variable: &'static str, below_home: &str) -> Option<PathBuf> {
        let xdg = self.path(variable).filter(|path| path.is_absolute());
        let home = || self.path("HOME").map(|home| home.join(below_home));
        Some(xdg.or_else(home)?.join("fleetctl"))
    }

    /// Where the user's file is, if anywhere.
    pub fn user_file(&self) -> Option<PathBuf> {
        Some(self.xdg("XDG_CONFIG_HOME", ".config")?.join("config.toml"))
    }
}

/// What the two files say, with their places.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// `fleet.toml`.
    pub project: Option<(PathBuf, ProjectFile)>,
    /// `config.toml`.
    pub user: Option<(PathBuf, UserFile)>,
}

impl Settings {
    /// Puts together what everybody says.
    pub fn resolve(
        global: &GlobalArgs,
        run: &RunArgs,
        environment: &Environment,
        files: &Files,
    ) -> Result<Self, ConfigError> {
        let sources = Sources { global, run, environment, files };
        Ok(Self {
            color: sources.color()?,
            store: sources.store(),
            nix: sources.nix(),
            state_dir: sources.directory("state", "FLEET_STATE_DIR", |file| file.state_dir.clone())?,
            cache_dir: sources.directory("caches", "FLEET_CACHE_DIR", |file| file.cache_dir.clone())?,
            worker_slots: sources.worker_slots()?,
            eval_slots: sources.eval_slots()?,
            exclude: sources.exclude(),
            kind: sources.kind()?,
            format: sources.format()?,
            fail_fast: sources.fail_fast()?,
            print_build_logs: sources.print_build_logs()?,
            fold: sources.fold()?,
            bring: sources.bring(),
            branch: sources.branch()?,
            remote: RemoteSettings::resolve(&sources)?,
        })
    }
}

/// One setting each: who may say it, in the order in which they are heard, and the default.
impl Sources<'_> {
    fn color(&self) -> Result<Setting<ColorChoice>, ConfigError> {
        let variable = self.choice("FLEET_COLOR", "always, auto or never")?;
        let said = flag("--color", self.global.color).or(variable).or(self.user(|file| file.color));
        Ok(setting(said, ColorChoice::Auto))
    }

    fn store(&self) -> Setting<Option<String>> {
        let variable = self.variable("FLEET_STORE").map(|(uri, origin)| (uri.to_owned(), origin));
        let said =
            flag("--store", self.global.store.clone()).or(variable).or(self.user(|file| file.store.clone()));
        optional(said)
    }

    fn nix(&self) -> Setting<PathBuf> {
        setting(self.path("FLEET_NIX").or(self.user(|file| file.nix.clone())), PathBuf::from("nix"))
    }

    fn worker_slots(&self) -> Result<Setting<Option<u32>>, ConfigError> {
        let variable = self.number("FLEET_WORKER_SLOTS")?;
        let said = flag("--worker-slots", self.run.worker_slots).or(variable);
        Ok(optional(said.or(self.user(|file| file.worker_slots))))
    }

    fn eval_slots(&self) -> Result<Setting<Option<u32>>, ConfigError> {
        let variable = self.number("FLEET_EVAL_SLOTS")?;
        let said = flag("--eval-slots", self.run.eval_slots).or(variable);
        Ok(optional(said.or(self.user(|file| file.eval_slots))))
    }

    fn exclude(&self) -> Setting<Vec<String>> {
        let given = Some(self.run.excludes.clone()).filter(|globs| !globs.is_empty());
        let said = flag("--exclude", given).or(self.list("FLEET_EXCLUDE"));
        let said = said.or(self.either(|file| file.exclude.clone(), |file| file.exclude.clone()));
        setting(said, vec!["*-minimal".to_owned()])
    }

    fn kind(&self) -> Result<Setting<Vec<Kind>>, ConfigError> {
        let given = Some(self.run.kinds.clone()).filter(|kinds| !kinds.is_empty());
        let said = flag("--kind", given).or(self.choices("FLEET_KIND", "nixos, darwin or home")?);
        let said = said.or(self.either(|file| file.kind.clone(), |file| file.kind.clone()));
        Ok(setting(said, vec![Kind::Nixos]))
    }

    fn format(&self) -> Result<Setting<ReportFormat>, ConfigError> {
        let variable = self.choice("FLEET_FORMAT", "markdown, nvd or json")?;
        let said = flag("--format", self.run.report.format).or(variable);
        Ok(setting(said.or(self.either(|file| file.format, |file| file.format)), ReportFormat::Markdown))
    }

    fn fail_fast(&self) -> Result<Setting<bool>, ConfigError> {
        let given = flag("--fail-fast", self.run.fail_fast.then_some(true));
        let given = given.or(flag("--keep-going", self.run.keep_going.then_some(false)));
        let said = given.or(self.switch("FLEET_FAIL_FAST")?);
        Ok(setting(said.or(self.either(|file| file.fail_fast, |file| file.fail_fast)), false))
    }

    fn print_build_logs(&self) -> Result<Setting<bool>, ConfigError> {
        let given = flag("--print-build-logs", self.run.follow.print_build_logs.then_some(true));
        let said = given.or(self.switch("FLEET_PRINT_BUILD_LOGS")?);
        Ok(setting(said.or(self.either(|file| file.print_build_logs, |file| file.print_build_logs)), false))
    }

    fn fold(&self) -> Result<Setting<bool>, ConfigError> {
        let said = flag("--no-fold", self.run.follow.no_fold.then_some(false)).or(self.switch("FLEET_FOLD")?);
        Ok(setting(said.or(self.either(|file| file.fold, |file| file.fold)), true))
    }
}

/// What goes with a run.
impl Sources<'_> {
    fn bring(&self) -> Setting<Vec<String>> {
        let given = Some(self.run.bring.clone()).filter(|names| !names.is_empty());
        let said = flag("--bring", given).or(self.list("FLEET_BRING"));
        let mut bring = setting(said.or(self.either(|file| file.bring.clone(), |_| None)), Vec::new());
        bring.value.retain(|name| !name.is_empty());
        bring
    }

    fn branch(&self) -> Result<Setting<Option<String>>, ConfigError> {
        let said = flag("--branch", self.run.branch.clone());
        let said = said.or(self.variable("FLEET_BRANCH").map(|(name, origin)| (name.to_owned(), origin)));
        match said {
            Some((name, origin)) if !branch::is_name(&name) => Err(ConfigError::Branch { name, origin }),
            said => Ok(optional(said)),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

impl Files {
    /// The user's alone, for commands that are about no flake.
    pub fn of_user(environment: &Environment) -> Result<Self, ConfigError> {
        let user = match environment.user_file() {
            None => None,
            Some(path) => super::load_user(&path)?.map(|file| (path, file)),
        };
        Ok(Self { project: None, user })
    }

    /// Reads both files; `flake` is the directory of the flake.
    pub fn load(environment: &Environment, flake: &Path) -> Result<Self, ConfigError> {
        let project = super::find_project(flake).map(|path| Ok((path.clone(), super::load_project(&path)?)));
        Ok(Self { project: project.transpose()?, ..Self::of_user(environment)? })
    }
}

#[cfg(test)]
mod tests;
