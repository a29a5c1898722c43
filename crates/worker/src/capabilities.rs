//! What the local Nix can build for, as its own settings say.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;
use tokio::process::Command;

/// Systems and features of the local Nix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) systems: Vec<String>,
    pub(crate) features: Vec<String>,
}

/// Why the settings cannot be read.
#[derive(Debug, Error)]
pub enum CapabilitiesError {
    /// The command cannot be started.
    #[error("cannot run {nix}")]
    Run {
        /// Which.
        nix: String,
        /// Why.
        source: std::io::Error,
    },
    /// The command failed.
    #[error("{nix} cannot show its settings: {stderr}")]
    Failed {
        /// Which.
        nix: String,
        /// What it says.
        stderr: String,
    },
    /// Its answer is not what Nix prints.
    #[error("{nix} shows its settings in a form that is not known")]
    Unknown {
        /// Which.
        nix: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// Where `nix` is: evaluators have no search path of ours to find it on.
pub(crate) fn locate(nix: &Path) -> Result<PathBuf, CapabilitiesError> {
    if nix.components().count() > 1 {
        return Ok(nix.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|directory| directory.join(nix)).find(|file| file.is_file());
    found.ok_or_else(|| CapabilitiesError::Run {
        nix: nix.display().to_string(),
        source: std::io::Error::from(std::io::ErrorKind::NotFound),
    })
}

#[derive(Deserialize)]
struct Shown {
    system: Setting<String>,
    #[serde(rename = "extra-platforms", default)]
    extra_platforms: Setting<Vec<String>>,
    #[serde(rename = "system-features", default)]
    system_features: Setting<Vec<String>>,
}

#[derive(Default, Deserialize)]
struct Setting<T> {
    value: T,
}

/// Asks `nix` for the settings of this machine.
pub(crate) async fn ask(nix: &Path) -> Result<Capabilities, CapabilitiesError> {
    // The command has another name before Nix 2.20.
    let modern = show(nix, &["config", "show"]).await;
    let output = match modern {
        Err(CapabilitiesError::Failed { .. }) => show(nix, &["show-config"]).await?,
        other => other?,
    };
    parse(&output).map_err(|source| CapabilitiesError::Unknown { nix: nix.display().to_string(), source })
}

async fn show(nix: &Path, command: &[&str]) -> Result<Vec<u8>, CapabilitiesError> {
    let name = || nix.display().to_string();
    let output = Command::new(nix)
        .args(["--extra-experimental-features", "nix-command"])
        .args(command)
        .arg("--json")
        // A store that cannot be opened must not hide the settings.
        .env("NIX_REMOTE", "dummy://")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| CapabilitiesError::Run { nix: name(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect();
    Err(CapabilitiesError::Failed { nix: name(), stderr })
}

fn parse(json: &[u8]) -> Result<Capabilities, serde_json::Error> {
    let shown: Shown = serde_json::from_slice(json)?;
    let mut systems = vec![shown.system.value];
    for system in shown.extra_platforms.value {
        if !systems.contains(&system) {
            systems.push(system);
        }
    }
    Ok(Capabilities { systems, features: shown.system_features.value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_the_own_one_and_the_extra_ones() {
        let json =
            br#"{"system":{"value":"x86_64-linux"},"extra-platforms":{"value":["i686-linux","x86_64-linux"]},
            "system-features":{"value":["kvm"]},"cores":{"value":0}}"#;
        let shown = parse(json).expect("parses");
        assert_eq!(shown.systems, ["x86_64-linux", "i686-linux"]);
        assert_eq!(shown.features, ["kvm"]);
        assert!(parse(b"[]").is_err());
    }
}
