//! What a test's daemon is configured with, and the nix.conf that says so.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::installation::NixInstallation;

/// Whether the daemon lets its clients change settings and import unsigned paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Trust {
    /// As for root on a multi-user installation.
    #[default]
    Trusted,
    /// As for everybody else there.
    Untrusted,
}

/// What a daemon is configured with; the default is a trusting daemon without any substituter.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// Whether clients are trusted.
    pub trust: Trust,
    /// Systems beside the machine's own that the daemon claims to build for.
    pub extra_platforms: Vec<String>,
    /// URLs of binary caches.
    pub substituters: Vec<String>,
    /// `name:base64` keys of those caches.
    pub trusted_public_keys: Vec<String>,
    /// Whether substituted paths need a signature.
    pub require_signatures: bool,
    /// Builds at once.
    pub max_jobs: u32,
    /// `NIX_BUILD_CORES` of a build.
    pub cores: u32,
    /// `flakes` and `nix-command`, or what else a test needs.
    pub experimental_features: Vec<String>,
    /// Required system features that the daemon offers.
    pub system_features: Vec<String>,
    /// Put the store's directory here instead of beside the rest, such as on a small file system.
    pub root: Option<PathBuf>,
    /// Any other settings of nix.conf.
    pub settings: Vec<(String, String)>,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        DaemonOptions {
            trust: Trust::Trusted,
            extra_platforms: Vec::new(),
            substituters: Vec::new(),
            trusted_public_keys: Vec::new(),
            require_signatures: false,
            max_jobs: 4,
            cores: 1,
            experimental_features: vec!["nix-command".to_owned(), "flakes".to_owned()],
            system_features: vec!["kvm".to_owned(), "big-parallel".to_owned(), "nixos-test".to_owned()],
            root: None,
            settings: Vec::new(),
        }
    }
}

impl DaemonOptions {
    /// The whole nix.conf of a daemon that lives in `base`.
    pub(crate) fn configuration(&self, installation: &NixInstallation, base: &Path) -> String {
        let trusted = match self.trust {
            Trust::Trusted => "*",
            Trust::Untrusted => "",
        };
        let mut text = String::new();
        let mut set =
            |name: &str, value: &str| writeln!(text, "{name} = {value}").expect("writing to a string");
        set("build-users-group", "");
        set("trusted-users", trusted);
        set("allowed-users", "*");
        set("sandbox", "true");
        let mut sandbox_paths = format!("/journal={}", base.join("journal").display());
        if let Some(shell) = installation.sandbox_shell() {
            write!(sandbox_paths, " /bin/sh={}", shell.display()).expect("writing to a string");
        }
        // A shell that Nix brings along is one of the default sandbox paths, which stay.
        let keep_default =
            if installation.sandbox_shell().is_some() { "sandbox-paths" } else { "extra-sandbox-paths" };
        set(keep_default, &sandbox_paths);
        set("experimental-features", &self.experimental_features.join(" "));
        set("extra-platforms", &self.extra_platforms.join(" "));
        set("system-features", &self.system_features.join(" "));
        set("substituters", &self.substituters.join(" "));
        set("trusted-public-keys", &self.trusted_public_keys.join(" "));
        set("require-sigs", if self.require_signatures { "true" } else { "false" });
        set("max-jobs", &self.max_jobs.to_string());
        set("cores", &self.cores.to_string());
        set("flake-registry", "");
        set("narinfo-cache-negative-ttl", "0");
        set("download-attempts", "1");
        set("fsync-metadata", "false");
        for (name, value) in &self.settings {
            set(name, value);
        }
        text
    }
}
