//! Who says what: flags, variables and the two files, each looked up in its own way.
//!
//! Pure. Knows no setting by name; `settings` and `remote` do.

use std::path::PathBuf;

use clap::ValueEnum;

use super::file::{ConfigError, ProjectFile, UserFile};
use super::settings::{Environment, Files, Origin, Setting};
use crate::args::{GlobalArgs, MAX_SLOTS, RunArgs};

/// A value, if anybody said one, and who.
pub(super) type Said<T> = Option<(T, Origin)>;

pub(super) fn flag<T>(name: &'static str, value: Option<T>) -> Said<T> {
    value.map(|value| (value, Origin::Flag(name)))
}

/// Everybody who may say something.
pub(super) struct Sources<'a> {
    pub(super) global: &'a GlobalArgs,
    pub(super) run: &'a RunArgs,
    pub(super) environment: &'a Environment,
    pub(super) files: &'a Files,
}

pub(super) fn setting<T>(said: Said<T>, default: T) -> Setting<T> {
    let (value, origin) = said.unwrap_or((default, Origin::Default));
    Setting { value, origin }
}

pub(super) fn optional<T>(said: Said<T>) -> Setting<Option<T>> {
    setting(said.map(|(value, origin)| (Some(value), origin)), None)
}

/// Where things are said.
impl Sources<'_> {
    pub(super) fn user<T>(&self, pick: impl Fn(&UserFile) -> Option<T>) -> Said<T> {
        let (path, file) = self.files.user.as_ref()?;
        Some((pick(file)?, Origin::File(path.clone())))
    }

    pub(super) fn either<T>(
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

    pub(super) fn variable(&self, name: &'static str) -> Said<&str> {
        self.environment.get(name).map(|value| (value, Origin::Variable(name)))
    }

    pub(super) fn path(&self, name: &'static str) -> Said<PathBuf> {
        self.environment.path(name).map(|value| (value, Origin::Variable(name)))
    }

    pub(super) fn list(&self, name: &'static str) -> Said<Vec<String>> {
        let (value, origin) = self.variable(name)?;
        Some((value.split(',').map(|glob| glob.trim().to_owned()).collect(), origin))
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Said<u32>, ConfigError> {
        self.parsed(name, "a number from 1 to 1024", |text| {
            text.parse().ok().filter(|slots| (1..=MAX_SLOTS).contains(slots))
        })
    }

    pub(super) fn switch(&self, name: &'static str) -> Result<Said<bool>, ConfigError> {
        self.parsed(name, "1 or 0", |text| match text {
            "1" | "true" | "yes" => Some(true),
            "0" | "false" | "no" => Some(false),
            _ => None,
        })
    }

    pub(super) fn choice<T: ValueEnum>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Said<T>, ConfigError> {
        self.parsed(name, expected, |text| T::from_str(text, false).ok())
    }

    pub(super) fn choices<T: ValueEnum>(
        &self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<Said<Vec<T>>, ConfigError> {
        self.parsed(name, expected, |text| {
            text.split(',').map(|item| T::from_str(item.trim(), false).ok()).collect()
        })
    }

    pub(super) fn parsed<T>(
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

    pub(super) fn directory(
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
