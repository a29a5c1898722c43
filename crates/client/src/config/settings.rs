//! Every setting with its default and the place its value came from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::file::{ConfigError, ProjectFile, UserFile};
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

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// XDG base directories must be absolute; others are ignored, as the specification says.
    fn xdg(&self, variable: &'static str, below_home: &str) -> Option<PathBuf> {
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
        let sources = Sources { environment, files };
        let user = |pick: fn(&UserFile) -> Option<u32>| sources.user(pick);
        Ok(Self {
            color: sources.pick(
                flag("--color", global.color),
                sources.choice("FLEET_COLOR", "always, auto or never")?,
                sources.user(|file| file.color),
                ColorChoice::Auto,
            ),
            store: sources.pick(
                flag("--store", global.store.clone().map(Some)),
                sources.variable("FLEET_STORE").map(|(value, origin)| (Some(value.to_owned()), origin)),
                sources.user(|file| file.store.clone().map(Some)),
                None,
            ),
            nix: sources.pick(
                None,
                sources.path("FLEET_NIX"),
                sources.user(|file| file.nix.clone()),
                PathBuf::from("nix"),
            ),
            state_dir: sources.directory("state", "FLEET_STATE_DIR", |file| file.state_dir.clone())?,
            cache_dir: sources.directory("caches", "FLEET_CACHE_DIR", |file| file.cache_dir.clone())?,
            worker_slots: sources.pick(
                flag("--worker-slots", run.worker_slots.map(Some)),
                sources.number("FLEET_WORKER_SLOTS")?,
                user(|file| file.worker_slots).map(|(value, origin)| (Some(value), origin)),
                None,
            ),
            eval_slots: sources.pick(
                flag("--eval-slots", run.eval_slots.map(Some)),
                sources.number("FLEET_EVAL_SLOTS")?,
                user(|file| file.eval_slots).map(|(value, origin)| (Some(value), origin)),
                None,
            ),
            exclude: sources.pick(
                flag("--exclude", Some(run.excludes.clone()).filter(|globs| !globs.is_empty())),
                sources.list("FLEET_EXCLUDE"),
                sources.either(|file| file.exclude.clone(), |file| file.exclude.clone()),
                vec!["*-minimal".to_owned()],
            ),
            kind: sources.pick(
                flag("--kind", Some(run.kinds.clone()).filter(|kinds| !kinds.is_empty())),
                sources.choices("FLEET_KIND", "nixos, darwin or home")?,
                sources.either(|file| file.kind.clone(), |file| file.kind.clone()),
                vec![Kind::Nixos],
            ),
            format: sources.pick(
                flag("--format", run.format),
                sources.choice("FLEET_FORMAT", "markdown, nvd or json")?,
                sources.either(|file| file.format, |file| file.format),
                ReportFormat::Markdown,
            ),
            fail_fast: sources.pick(
                flag("--fail-fast", run.fail_fast.then_some(true))
                    .or(flag("--keep-going", run.keep_going.then_some(false))),
                sources.switch("FLEET_FAIL_FAST")?,
                sources.either(|file| file.fail_fast, |file| file.fail_fast),
                false,
            ),
            print_build_logs: sources.pick(
                flag("--print-build-logs", run.print_build_logs.then_some(true)),
                sources.switch("FLEET_PRINT_BUILD_LOGS")?,
                sources.either(|file| file.print_build_logs, |file| file.print_build_logs),
                false,
            ),
            fold: sources.pick(
                flag("--no-fold", run.no_fold.then_some(false)),
                sources.switch("FLEET_FOLD")?,
                sources.either(|file| file.fold, |file| file.fold),
                true,
            ),
        })
    }
}

type Said<T> = Option<(T, Origin)>;

fn flag<T>(name: &'static str, value: Option<T>) -> Said<T> {
    value.map(|value| (value, Origin::Flag(name)))
}

struct Sources<'a> {
    environment: &'a Environment,
    files: &'a Files,
}

#[expect(clippy::unused_self, reason = "reads as the table it is")]
impl Sources<'_> {
    fn pick<T>(&self, flag: Said<T>, variable: Said<T>, file: Said<T>, default: T) -> Setting<T> {
        let (value, origin) = flag.or(variable).or(file).unwrap_or((default, Origin::Default));
        Setting { value, origin }
    }

    fn user<T>(&self, pick: impl Fn(&UserFile) -> Option<T>) -> Said<T> {
        let (path, file) = self.files.user.as_ref()?;
        Some((pick(file)?, Origin::File(path.clone())))
    }

    fn either<T>(
        &self,
        project: impl Fn(&ProjectFile) -> Option<T>,
        user: impl Fn(&UserFile) -> Option<T>,
    ) -> Said<T> {
        let said = self.files.project.as_ref().and_then(|(path, file)| {
            let value = project(file)?;
            Some((value, Origin::File(path.clone())))
        });
        said.or_else(|| self.user(user))
    }

    fn variable(&self, name: &'static str) -> Said<&str> {
        self.environment.get(name).map(|value| (value, Origin::Variable(name)))
    }

    fn path(&self, name: &'static str) -> Said<PathBuf> {
        self.environment.path(name).map(|value| (value, Origin::Variable(name)))
    }

    fn list(&self, name: &'static str) -> Said<Vec<String>> {
        let (value, origin) = self.variable(name)?;
        Some((value.split(',').map(|glob| glob.trim().to_owned()).collect(), origin))
    }

    fn number(&self, name: &'static str) -> Result<Said<Option<u32>>, ConfigError> {
        self.parsed(name, "a number from 1", |text| text.parse().ok().filter(|&n| n > 0).map(Some))
    }

    fn switch(&self, name: &'static str) -> Result<Said<bool>, ConfigError> {
        self.parsed(name, "1 or 0", |text| match text {
            "1" | "true" | "yes" => Some(true),
            "0" | "false" | "no" => Some(false),
            _ => None,
        })
    }

    fn choice<T: ValueEnum>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Said<T>, ConfigError> {
        self.parsed(name, expected, |text| T::from_str(text, false).ok())
    }

    fn choices<T: ValueEnum>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Said<Vec<T>>, ConfigError> {
        self.parsed(name, expected, |text| {
            text.split(',').map(|item| T::from_str(item.trim(), false).ok()).collect()
        })
    }

    fn parsed<T>(
        &self,
        name: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Said<T>, ConfigError> {
        let Some((text, origin)) = self.variable(name) else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some((value, origin))),
            None => Err(ConfigError::Variable { name, value: text.to_owned(), expected }),
        }
    }

    fn directory(
        &self,
        what: &'static str,
        name: &'static str,
        pick: impl Fn(&UserFile) -> Option<PathBuf>,
    ) -> Result<Setting<PathBuf>, ConfigError> {
        let said = self.path(name).or_else(|| self.user(pick));
        if let Some((value, origin)) = said {
            return Ok(Setting { value, origin });
        }
        let (variable, below_home) = match what {
            "state" => ("XDG_STATE_HOME", ".local/state"),
            _ => ("XDG_CACHE_HOME", ".cache"),
        };
        let value = self.environment.xdg(variable, below_home);
        let value = value.ok_or(ConfigError::NoDirectory { what, variable })?;
        Ok(Setting { value, origin: Origin::Default })
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
    /// Reads both files; `flake` is the directory of the flake.
    pub fn load(environment: &Environment, flake: &Path) -> Result<Self, ConfigError> {
        let project = super::find_project(flake).map(|path| Ok((path.clone(), super::load_project(&path)?)));
        let user = match environment.user_file() {
            None => None,
            Some(path) => super::load_user(&path)?.map(|file| (path, file)),
        };
        Ok(Self { project: project.transpose()?, user })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    #[test]
    fn flags_beat_variables_beat_files_beat_defaults() {
        let project = ProjectFile {
            format: Some(ReportFormat::Nvd),
            fail_fast: Some(true),
            exclude: Some(vec!["old-*".to_owned()]),
            ..ProjectFile::default()
        };
        let user =
            UserFile { format: Some(ReportFormat::Json), worker_slots: Some(3), ..UserFile::default() };
        let files = Files {
            project: Some(("/f/fleet.toml".into(), project)),
            user: Some(("/c/config.toml".into(), user)),
        };
        let environment =
            environment(&[("HOME", "/home/u"), ("FLEET_EXCLUDE", "a, b"), ("FLEET_FAIL_FAST", "0")]);
        let run = RunArgs { fail_fast: true, ..RunArgs::default() };
        let settings =
            Settings::resolve(&GlobalArgs::default(), &run, &environment, &files).expect("settings");
        let project = Origin::File("/f/fleet.toml".into());
        assert_eq!(settings.format, Setting { value: ReportFormat::Nvd, origin: project });
        assert_eq!(settings.fail_fast, Setting { value: true, origin: Origin::Flag("--fail-fast") });
        assert_eq!(settings.exclude.value, ["a", "b"]);
        assert_eq!(settings.exclude.origin, Origin::Variable("FLEET_EXCLUDE"));
        assert_eq!(settings.worker_slots.value, Some(3));
        assert_eq!(settings.state_dir.value, PathBuf::from("/home/u/.local/state/fleetctl"));
        assert_eq!(settings.kind.origin, Origin::Default);
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_an_error() {
        let environment = environment(&[("HOME", "/h"), ("FLEET_WORKER_SLOTS", "0")]);
        let run = RunArgs::default();
        let error = Settings::resolve(&GlobalArgs::default(), &run, &environment, &Files::default());
        assert_eq!(error.expect_err("refused").to_string(), "FLEET_WORKER_SLOTS is `0`, not a number from 1");
    }

    #[test]
    fn without_a_home_the_missing_variable_is_named() {
        let run = RunArgs::default();
        let error =
            Settings::resolve(&GlobalArgs::default(), &run, &Environment::default(), &Files::default());
        let error = error.expect_err("refused").to_string();
        assert_eq!(error, "no directory for state: neither XDG_STATE_HOME nor HOME is set");
    }
}
