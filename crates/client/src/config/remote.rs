//! The settings about a coordinator: where it is, who we are to it, and how patient we are.
//!
//! A flake may name the coordinator, but no file and no secret of this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{ConfigError, UserFile};
use super::settings::{Origin, Setting};
use super::sources::{Said, Sources, flag, optional, setting};
use crate::args::parse_duration;
use crate::remote::{Endpoint, Secret};

/// Says that there is no coordinator, where a file names one.
const NONE: &str = "none";
const DEFAULT_RECONNECT_FOR: Duration = Duration::from_mins(10);

/// Everything that can be set about a coordinator.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Where it is; none builds in this process.
    pub coordinator: Setting<Option<Endpoint>>,
    /// Certificates of the authority that vouches for it; none for those of the system.
    pub ca: Setting<Option<PathBuf>>,
    /// Our certificate.
    pub client_cert: Setting<Option<PathBuf>>,
    /// Its private key.
    pub client_key: Setting<Option<PathBuf>>,
    /// A token.
    pub token: Setting<Option<Secret>>,
    /// A file with a token.
    pub token_file: Setting<Option<PathBuf>>,
    /// A file with the identity that a CI system gave this job.
    pub oidc_token_file: Setting<Option<PathBuf>>,
    /// How long to keep trying when it cannot be reached.
    pub reconnect_for: Setting<Duration>,
}

impl RemoteSettings {
    pub(super) fn resolve(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let token = sources.variable("FLEET_TOKEN").map(|(text, origin)| (Secret::new(text), origin));
        Ok(Self {
            coordinator: sources.coordinator()?,
            ca: sources.credential("--ca", sources.global.ca.clone(), "FLEET_CA", |file| file.ca.clone()),
            client_cert: sources.credential(
                "--client-cert",
                sources.global.client_cert.clone(),
                "FLEET_CLIENT_CERT",
                |file| file.client_cert.clone(),
            ),
            client_key: sources.credential(
                "--client-key",
                sources.global.client_key.clone(),
                "FLEET_CLIENT_KEY",
                |file| file.client_key.clone(),
            ),
            token: optional(token),
            token_file: sources.credential(
                "--token-file",
                sources.global.token_file.clone(),
                "FLEET_TOKEN_FILE",
                |file| file.token_file.clone(),
            ),
            oidc_token_file: optional(sources.path("FLEET_OIDC_TOKEN_FILE")),
            reconnect_for: sources.reconnect_for()?,
        })
    }

    /// Whether only the flake says where the coordinator is.
    pub fn is_named_by_flake(&self) -> bool {
        let origin = &self.coordinator.origin;
        matches!(origin, Origin::File(path) if path.ends_with("fleet.toml"))
    }
}

impl Sources<'_> {
    fn coordinator(&self) -> Result<Setting<Option<Endpoint>>, ConfigError> {
        let variable = self.variable("FLEET_COORDINATOR").map(|(url, origin)| (url.to_owned(), origin));
        let said = flag("--coordinator", self.global.coordinator.clone()).or(variable);
        let said = said.or(self.either(|file| file.coordinator.clone(), |file| file.coordinator.clone()));
        let Some((text, origin)) = said else { return Ok(optional(None)) };
        if text == NONE {
            return Ok(Setting { value: None, origin });
        }
        let endpoint = match Endpoint::parse(&text) {
            Ok(endpoint) => endpoint,
            Err(source) => return Err(ConfigError::Coordinator { origin, source }),
        };
        match (&endpoint, origin) {
            (Endpoint::Unix(_), Origin::File(path)) if self.is_project(&path) => {
                Err(ConfigError::SocketOfFlake(path))
            }
            (_, origin) => Ok(Setting { value: Some(endpoint), origin }),
        }
    }

    fn credential(
        &self,
        option: &'static str,
        given: Option<PathBuf>,
        variable: &'static str,
        pick: impl Fn(&UserFile) -> Option<PathBuf>,
    ) -> Setting<Option<PathBuf>> {
        optional(flag(option, given).or(self.path(variable)).or(self.user(pick)))
    }

    fn reconnect_for(&self) -> Result<Setting<Duration>, ConfigError> {
        if let Some((value, origin)) = flag("--reconnect-for", self.run.follow.reconnect_for) {
            return Ok(Setting { value, origin });
        }
        let variable = self.variable("FLEET_RECONNECT_FOR").map(|(text, origin)| (text.to_owned(), origin));
        let said: Said<String> =
            variable.or(self.either(|file| file.reconnect_for.clone(), |file| file.reconnect_for.clone()));
        let Some((text, origin)) = said else { return Ok(setting(None, DEFAULT_RECONNECT_FOR)) };
        match parse_duration(&text) {
            Ok(value) => Ok(Setting { value, origin }),
            Err(message) => Err(ConfigError::Time { origin, message }),
        }
    }

    fn is_project(&self, file: &Path) -> bool {
        self.files.project.as_ref().is_some_and(|(path, _)| path == file)
    }
}
