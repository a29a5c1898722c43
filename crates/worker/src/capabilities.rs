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
    build_dir: Option<String>,
}

impl Capabilities {
    /// Systems of another processor than the machine's own: something emulates them.
    pub(crate) fn emulated(&self) -> Vec<String> {
        let family = |system: &str| match system.split('-').next().unwrap_or_default() {
            "i686" | "i386" => "x86_64".to_owned(),
            "armv7l" | "armv6l" | "armv5tel" => "aarch64".to_owned(),
            other => other.to_owned(),
        };
        let own = self.systems.first().map(|system| family(system));
        self.systems.iter().filter(|system| Some(family(system)) != own).cloned().collect()
    }

    /// Where builds write: as Nix says, else beside the store's state, before Nix 2.30 where programs write.
    pub(crate) fn build_dir(&self, root: Option<&Path>, nix_version: &str) -> PathBuf {
        let named = self.build_dir.as_deref().filter(|path| !path.is_empty());
        if let Some(named) = named {
            return named.into();
        }
        let mut numbers = nix_version.split(['.', ' ', '-']).map_while(|number| number.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(2), Some(..30)) => std::env::temp_dir(),
            _ => root.unwrap_or(Path::new("/")).join("nix/var/nix/builds"),
        }
    }
}

/// Which Nix a daemon is, by what it calls its version.
pub(crate) fn lane(nix_version: &str) -> &'static str {
    let version = nix_version.to_ascii_lowercase();
    let lanes = ["lix", "determinate"];
    lanes.into_iter().find(|lane| version.contains(lane)).unwrap_or("nix")
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
    // Absent before Nix 2.22, null where the default depends on the store.
    #[serde(rename = "build-dir", default)]
    build_dir: Setting<Option<String>>,
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
    let (features, build_dir) = (shown.system_features.value, shown.build_dir.value);
    Ok(Capabilities { systems, features, build_dir })
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

    #[test]
    fn another_processor_is_emulated_and_an_older_one_of_the_family_is_not() {
        let json = br#"{"system":{"value":"x86_64-linux"},
            "extra-platforms":{"value":["i686-linux","x86_64-v3-linux","aarch64-linux"]},"build-dir":{"value":null}}"#;
        let shown = parse(json).expect("parses");
        assert_eq!(shown.emulated(), ["aarch64-linux"]);
        assert_eq!(shown.build_dir(None, "2.26.3"), std::env::temp_dir());
        assert_eq!(shown.build_dir(None, "2.34.8"), Path::new("/nix/var/nix/builds"));
        assert_eq!(shown.build_dir(Some(Path::new("/r")), "2.30pre"), Path::new("/r/nix/var/nix/builds"));
        let named = Capabilities { build_dir: Some("/b".to_owned()), ..shown };
        assert_eq!(named.build_dir(None, "2.34.8"), Path::new("/b"));
    }

    #[test]
    fn versions_name_their_lane() {
        assert_eq!(lane("2.34.8"), "nix");
        assert_eq!(lane("2.93.0-lix"), "lix");
        assert_eq!(lane("Lix, like Nix 2.93.3"), "lix");
        assert_eq!(lane("2.31.1 (Determinate Nix 3.11)"), "determinate");
    }
}
