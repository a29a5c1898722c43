//! The settings a client gives its connection.

use std::collections::BTreeMap;

use super::codec::Encoder;
use super::connection::Daemon;
use super::error::DaemonError;
use super::log::ignore;
use super::operation::Operation;
use super::version::{FEATURE_NO_SET_OPTIONS, Trust};

/// Messages that concern what was asked for, as Nix's own programs show them.
const INFO: u64 = 3;
/// With this level in its place, log lines of builders come as results of their activity, not as messages.
const LINES_AS_RESULTS: u64 = 7;

/// Settings of one connection. They replace those of the daemon's nix.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of Nix under its own name")]
pub struct Settings {
    /// Keep the directories of failed builds.
    pub keep_failed: bool,
    /// After a failure, build what does not depend on it.
    pub keep_going: bool,
    /// Build when substitution fails.
    pub fallback: bool,
    /// Nix's level of messages: 0 errors, 3 information, 5 talkative.
    pub verbosity: u64,
    /// Local builds at once; at least 1, or nothing is built here.
    pub max_jobs: u32,
    /// `NIX_BUILD_CORES`; 0 for all.
    pub cores: u32,
    /// End a build after so many seconds without a line; 0 for never.
    pub max_silent_s: u64,
    /// End a build after so many seconds; 0 for never.
    pub timeout_s: u64,
    /// Whether substituters are used at all.
    pub use_substitutes: bool,
    /// Any other setting by its name in nix.conf. A daemon that does not trust us warns and ignores most.
    pub overrides: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            keep_failed: false,
            keep_going: false,
            fallback: false,
            verbosity: INFO,
            max_jobs: 1,
            cores: 0,
            max_silent_s: 0,
            timeout_s: 0,
            use_substitutes: true,
            overrides: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// For a connection that builds steps one by one whose inputs are there: nothing is substituted, nothing
    /// is handed to other machines, and no hook process is started.
    pub fn for_building(trust: Trust) -> Self {
        let mut settings = Self { use_substitutes: false, ..Self::default() };
        settings.set("builders", "");
        if trust == Trust::Trusted {
            settings.set("build-hook", "");
        }
        settings
    }

    /// For a connection that asks what is missing and substitutes it: what upstream has is never built, and
    /// what upstream lacked a moment ago is asked for again. An upstream that fails serves nothing, and ends nothing.
    pub fn for_substituting(trust: Trust) -> Self {
        let mut settings = Self { fallback: true, ..Self::default() };
        if trust == Trust::Trusted {
            settings.set("always-allow-substitutes", "true");
            settings.set("narinfo-cache-negative-ttl", "0");
        }
        settings
    }

    /// Adds an override.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.overrides.insert(name.to_owned(), value.to_owned());
        self
    }

    fn encode(&self) -> Encoder {
        let mut request = Encoder::new();
        request.word(Operation::SetOptions.word());
        request.flag(self.keep_failed).flag(self.keep_going).flag(self.fallback);
        request.word(self.verbosity).word(self.max_jobs.into()).word(self.max_silent_s);
        // The build hook's own switch is obsolete; log type and build trace as well.
        request.flag(true).word(LINES_AS_RESULTS).word(0).word(0);
        request.word(self.cores.into()).flag(self.use_substitutes);
        // The duration of a build has no place of its own.
        let mut overrides = self.overrides.clone();
        overrides.insert("timeout".to_owned(), self.timeout_s.to_string());
        request.list(&overrides, |out, (name, value)| out.bytes(name).bytes(value));
        request
    }
}

impl Daemon {
    /// Replaces all settings of this connection.
    pub async fn set_options(&mut self, settings: &Settings) -> Result<(), DaemonError> {
        if self.dialect().has(FEATURE_NO_SET_OPTIONS) {
            return Ok(());
        }
        self.call(&settings.encode(), &mut ignore).await?.end();
        Ok(())
    }
}
