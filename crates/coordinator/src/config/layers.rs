//! Defaults, file, environment and flags over one another, in that order; each value knows where it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use fleet_identity::oidc::IssuerConfig;

use super::table::{Change, SETTINGS, Setting, find};
use super::value::Value;
use super::{Config, check, file};

/// What a service manager calls the directory of a service's secrets.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of a file, from 1; 0 for the file as a whole.
    File {
        /// Which.
        path: PathBuf,
        /// Where.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag on the command line.
    Flag(String),
}

impl Origin {
    pub(super) fn whole(path: &Path) -> Self {
        Self::File { path: path.to_owned(), line: 0 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A setting that cannot be: where it stands and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {text}")]
pub struct ConfigError {
    origin: Origin,
    text: String,
}

impl ConfigError {
    pub(super) fn new(origin: Origin, text: impl Into<String>) -> Self {
        Self { origin, text: text.into() }
    }
}

/// What overrides the defaults, from the weakest.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// The environment: names and values; only the settings' own variables are looked at.
    pub environment: BTreeMap<String, String>,
    /// Flags: each with the setting's name, the flag as it was written, and the value.
    pub flags: Vec<(String, String, String)>,
}

/// Settings that hold together, and where each came from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The values.
    pub config: Config,
    origins: BTreeMap<&'static str, Origin>,
    /// Where each of `config.oidc` came from.
    pub(super) issuers: Vec<Origin>,
}

impl Layers {
    /// Puts all layers together and checks what comes out.
    pub fn resolve(&self) -> Result<Settings, ConfigError> {
        let mut settings =
            Settings { config: Config::of_program(), origins: BTreeMap::new(), issuers: Vec::new() };
        if let Some(path) = &self.file {
            let contents = file::read(path)?;
            for (key, value, origin) in contents.values {
                settings.set(&key, &value, origin)?;
            }
            (settings.config.oidc, settings.issuers) = contents.oidc.into_iter().unzip();
        }
        for setting in SETTINGS {
            let variable = setting.variable();
            if let Some(text) = self.environment.get(&variable) {
                settings.set(setting.key, &Value::Text(text.clone()), Origin::Environment(variable))?;
            }
        }
        for (key, flag, text) in &self.flags {
            settings.set(key, &Value::Text(text.clone()), Origin::Flag(flag.clone()))?;
        }
        settings.config.credentials = self.environment.get(CREDENTIALS).map(PathBuf::from);
        check::all(&settings)?;
        Ok(settings)
    }
}

impl Settings {
    fn set(&mut self, key: &str, value: &Value, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = find(key) else {
            return Err(ConfigError::new(origin, format!("there is no setting {key:?}")));
        };
        if let Err(text) = (setting.set)(&mut self.config, value) {
            return Err(ConfigError::new(origin, format!("{key}: {text}")));
        }
        self.origins.insert(setting.key, origin);
        Ok(())
    }

    /// Where a setting came from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Every setting with its value and its origin, a line each.
    pub fn show(&self) -> String {
        let shown: Vec<_> = SETTINGS.iter().map(|setting| (setting, (setting.show)(&self.config))).collect();
        let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or_default();
        let keys = width(&mut SETTINGS.iter().map(|setting| setting.key.len()));
        let values = width(&mut shown.iter().map(|(_, value)| value.len().min(40)));
        let line = |(setting, value): &(&Setting, String)| {
            format!("{:keys$}  {value:values$}  {}\n", setting.key, self.origin(setting.key))
        };
        let issuer = |(issuer, origin): (&IssuerConfig, &Origin)| {
            format!("{:keys$}  {:values$}  {origin}\n", "[[oidc]]", issuer.name)
        };
        let issuers = self.config.oidc.iter().zip(&self.issuers).map(issuer);
        shown.iter().map(line).chain(issuers).collect()
    }

    /// Takes over what counts at once; the rest stays as it was at the start.
    pub fn adopt(&mut self, newer: Self) {
        let mut adopted = newer;
        for setting in SETTINGS.iter().filter(|setting| setting.change == Change::AtStart) {
            (setting.keep)(&self.config, &mut adopted.config);
        }
        *self = adopted;
    }

    /// The names of settings that differ and that only a new start can change.
    pub fn waiting_for_a_start(&self, newer: &Self) -> Vec<&'static str> {
        let differs = |setting: &&Setting| (setting.show)(&self.config) != (setting.show)(&newer.config);
        let late = SETTINGS.iter().filter(|setting| setting.change == Change::AtStart);
        late.filter(differs).map(|setting| setting.key).collect()
    }
}
