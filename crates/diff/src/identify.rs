//! What a store path is: package name, version, output and variant, or a piece of configuration.
//!
//! The derivation's own words win where they are known. Otherwise the base name is parsed, with the other names of
//! the run as evidence for what is a suffix. Pure text work; knows no ids and no closures.

use std::borrow::Cow;

use crate::table::Identity;
use crate::version::{is_date, is_hash, is_prerelease};

/// A store path name, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identified<'a> {
    Package(Package<'a>),
    Configuration(ConfigurationKind, &'a str),
}

/// The parts of a package's name. Absent parts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Package<'a> {
    /// Without interpreter version: `python-requests`.
    pub(crate) name: Cow<'a, str>,
    pub(crate) version: Cow<'a, str>,
    /// Empty for the main output.
    pub(crate) output: &'a str,
    /// What it was built for: `python3.12`, `kernel 6.18.16`.
    pub(crate) variant: Cow<'a, str>,
}

/// What kind of configuration a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigurationKind {
    /// A systemd unit or one of its scripts.
    Unit,
    /// Reload and restart triggers of a unit.
    Trigger,
    /// A file or directory of `etc`.
    Etc,
    /// Any other generated file.
    File,
    /// The system itself and the trees that make it up.
    System,
    /// A patch or unpacked source.
    Source,
}

/// What else the run has seen, as evidence for parsing one name.
pub(crate) trait Evidence {
    /// Whether some path has exactly this name.
    fn has_name(&self, name: &str) -> bool;
    /// Whether some path is a kernel of this version.
    fn has_kernel(&self, version: &str) -> bool;
}

/// Outputs that are peeled off wherever they stand last. Others only when the rest is a name of its own.
const OUTPUTS: [&str; 13] = [
    "bin", "debug", "dev", "devdoc", "devman", "dist", "doc", "info", "lib", "man", "out", "static",
    "terminfo",
];

const INTERPRETERS: [&str; 9] = ["erlang", "ghc", "lua", "luajit", "ocaml", "perl", "php", "python", "ruby"];

/// Flavours of Linux that have a name of their own; `linux-firmware` and `linux-pam` are no kernels.
const KERNELS: [&str; 7] = ["asahi", "hardened", "libre", "lqx", "rt", "xanmod", "zen"];

/// Suffix words that belong to a version though they are no number.
const VERSION_WORDS: [&str; 8] =
    ["unstable", "git", "snapshot", "nightly", "dirty", "final", "stable", "wip"];

const FILE_ENDINGS: [&str; 28] = [
    ".automount",
    ".cfg",
    ".conf",
    ".config",
    ".crt",
    ".d",
    ".desktop",
    ".dtb",
    ".env",
    ".ini",
    ".json",
    ".mount",
    ".netdev",
    ".network",
    ".pam",
    ".path",
    ".pem",
    ".policy",
    ".rules",
    ".service",
    ".sh",
    ".slice",
    ".socket",
    ".target",
    ".timer",
    ".toml",
    ".yaml",
    ".yml",
];

/// The part of a base name after the hash.
pub(crate) fn name_of(base_name: &str) -> &str {
    let dash = if base_name.as_bytes().get(32) == Some(&b'-') { Some(32) } else { base_name.find('-') };
    dash.map_or(base_name, |dash| &base_name[dash + 1..])
}

pub(crate) fn identify<'a>(
    name: &'a str,
    identity: Option<&'a Identity>,
    evidence: &impl Evidence,
) -> Identified<'a> {
    match identity {
        Some(identity) if !identity.version.is_empty() => Identified::Package(exact(name, identity)),
        _ => match configuration(name) {
            Some((kind, name)) => Identified::Configuration(kind, name),
            None => Identified::Package(match identity {
                Some(identity) => exact(name, identity),
                None => guess(name, evidence),
            }),
        },
    }
}

/// Whether a name is a kernel's, and of which version.
pub(crate) fn kernel_version(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("linux-")?;
    let numbered = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let flavoured = rest.split_once('-').filter(|(flavour, _)| KERNELS.contains(flavour));
    let version = flavoured.map_or(rest, |(_, version)| version);
    numbered(version).then_some(version)
}

fn exact<'a>(name: &'a str, identity: &'a Identity) -> Package<'a> {
    let output = if identity.output == "out" { "" } else { identity.output.as_str() };
    let mut package = Package {
        name: Cow::Borrowed(&identity.pname),
        version: Cow::Borrowed(&identity.version),
        output,
        variant: Cow::Borrowed(""),
    };
    if let Some((interpreter, version, _)) = interpreter(name) {
        let prefix = &name[..=interpreter.len() + version.len()];
        let rest = identity.pname.strip_prefix(prefix).unwrap_or(&identity.pname);
        package.name = Cow::Owned(format!("{interpreter}-{rest}"));
        package.variant = Cow::Borrowed(&name[..interpreter.len() + version.len()]);
    } else if let Some(kernel) = kernel_of_exact(name, identity) {
        package.version = Cow::Borrowed(
            identity.version.strip_suffix(kernel).map_or(identity.version.as_str(), |version| {
                version.strip_suffix('-').unwrap_or(&identity.version)
            }),
        );
        package.variant = Cow::Owned(format!("kernel {kernel}"));
    }
    package
}

fn kernel_of_exact<'a>(name: &'a str, identity: &Identity) -> Option<&'a str> {
    let version = name.strip_prefix(identity.pname.as_str())?.strip_prefix('-')?;
    let (_, kernel) = split_kernel(version)?;
    let appended = version.len() > identity.version.len() && !identity.version.ends_with(kernel);
    (identity.pname.ends_with("-kernel") && (appended || identity.version.contains('-'))).then_some(kernel)
}

fn guess<'a>(name: &'a str, evidence: &impl Evidence) -> Package<'a> {
    let name = name.strip_suffix(".drv").filter(|stem| !stem.is_empty()).unwrap_or(name);
    let (name, output) = peel_known_stem(name, evidence);
    if let Some((interpreter, interpreter_version, rest)) = interpreter(name) {
        let (stem, version) = split(rest, true);
        let (version, peeled) = peel_output(version);
        return Package {
            name: Cow::Owned(format!("{interpreter}-{stem}")),
            version: Cow::Borrowed(version),
            output: if output.is_empty() { peeled } else { output },
            variant: Cow::Borrowed(&name[..interpreter.len() + interpreter_version.len()]),
        };
    }
    let (stem, version) = split(name, true);
    let (version, peeled) = peel_output(version);
    let output = if output.is_empty() { peeled } else { output };
    let kernel = split_kernel(version)
        .filter(|(_, kernel)| stem.ends_with("-kernel") || evidence.has_kernel(kernel))
        .filter(|_| stem != "linux");
    match kernel {
        Some((version, kernel)) => Package {
            name: Cow::Borrowed(stem),
            version: Cow::Borrowed(version),
            output,
            variant: Cow::Owned(format!("kernel {kernel}")),
        },
        None => Package {
            name: Cow::Borrowed(stem),
            version: Cow::Borrowed(version),
            output,
            variant: Cow::Borrowed(""),
        },
    }
}

/// Name and version, split where the version begins. The name is never empty.
fn split(name: &str, hashes: bool) -> (&str, &str) {
    let dashes = || name.match_indices('-').map(|(dash, _)| dash).filter(|&dash| dash > 0);
    let digit = dashes().find(|&dash| name.as_bytes().get(dash + 1).is_some_and(u8::is_ascii_digit));
    let unstable = dashes().find(|&dash| {
        let rest = name[dash..].strip_prefix("-unstable-");
        rest.and_then(|rest| rest.get(..10)).is_some_and(is_date)
    });
    let hash = || dashes().next_back().filter(|&dash| hashes && is_hash(&name[dash + 1..]));
    let at = match (digit, unstable) {
        (Some(digit), Some(unstable)) => Some(digit.min(unstable)),
        (digit, unstable) => digit.or(unstable).or_else(hash),
    };
    at.map_or((name, ""), |dash| (&name[..dash], &name[dash + 1..]))
}

/// Cuts the shortest rest that leaves the name of another path: `linux-6.18.16` of
/// `linux-6.18.16-modules-shrunk`. Only words may be cut, and none that belongs to a version.
fn peel_known_stem<'a>(name: &'a str, evidence: &impl Evidence) -> (&'a str, &'a str) {
    let (stem, version) = split(name, true);
    for (dash, _) in name.match_indices('-').filter(|&(dash, _)| dash >= stem.len()) {
        let suffix = &name[dash + 1..];
        let cut = if version.is_empty() { OUTPUTS.contains(&suffix) } else { is_output_like(suffix) };
        if cut && dash > stem.len() && evidence.has_name(&name[..dash]) {
            return (&name[..dash], suffix);
        }
    }
    if version.is_empty()
        && let Some((rest, last)) = name.rsplit_once('-')
        && OUTPUTS.contains(&last)
        && evidence.has_name(rest)
    {
        return (rest, last);
    }
    (name, "")
}

fn is_output_like(suffix: &str) -> bool {
    suffix.split('-').all(|word| {
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && !is_prerelease(word)
            && !VERSION_WORDS.contains(&word)
    })
}

fn peel_output(version: &str) -> (&str, &str) {
    match version.rsplit_once('-') {
        Some((rest, last)) if OUTPUTS.contains(&last) => (rest, last),
        _ => (version, ""),
    }
}

/// `python3.12-requests-2.32.3` is `python`, `3.12` and the rest; `python3-3.11.10` is none.
fn interpreter(name: &str) -> Option<(&str, &str, &str)> {
    let digit = name.find(|c: char| c.is_ascii_digit())?;
    let (interpreter, rest) = name.split_at(digit);
    if !INTERPRETERS.contains(&interpreter) {
        return None;
    }
    let (version, rest) = rest.split_once('-')?;
    let numeric = version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let named = rest.starts_with(|c: char| !c.is_ascii_digit() && c != '-');
    (numeric && named).then_some((interpreter, version, rest))
}

/// `2.4.1-6.18.16`, the version of a kernel module, is `2.4.1` and `6.18.16`.
fn split_kernel(version: &str) -> Option<(&str, &str)> {
    let dashes = version.match_indices('-').map(|(dash, _)| dash);
    let mut parts = dashes.map(|dash| (&version[..dash], &version[dash + 1..]));
    parts.find(|(own, kernel)| {
        let mut numbers = kernel.split('-').next().unwrap_or("").split('.');
        let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        !own.is_empty() && numbers.clone().count() >= 2 && numbers.all(number)
    })
}

fn configuration(name: &str) -> Option<(ConfigurationKind, &str)> {
    use ConfigurationKind::{Etc, File, Source, System, Trigger, Unit};
    for (prefix, kind) in [
        ("unit-", Unit),
        ("X-Restart-Triggers-", Trigger),
        ("X-Reload-Triggers-", Trigger),
        ("etc-", Etc),
        ("hm_", Etc),
    ] {
        if name.starts_with(prefix) {
            return Some((kind, name));
        }
    }
    // The host's name and the version stand in the rest, so it would never be the same on two hosts.
    for prefix in ["nixos-system", "darwin-system", "initrd"] {
        if name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
            return Some((System, prefix));
        }
    }
    let kind = match name {
        "etc" | "user-environment" => Etc,
        "source" => Source,
        "system-path"
        | "system-units"
        | "user-units"
        | "home-manager-generation"
        | "home-manager-path"
        | "home-manager-files"
        | "kernel-modules"
        | "activation-script"
        | "system-applications" => System,
        "set-environment" | "pam-environment" | "system-generators" | "system-shutdown" | "udev-rules"
        | "hwdb.bin" | "local-cmds" | "dry-activate" | "activate" | "nixos-tmpfiles.d" => File,
        _ if ends_with_any(name, &[".patch", ".diff"]) => Source,
        _ if ends_with_any(name, &FILE_ENDINGS) => File,
        _ => return None,
    };
    Some((kind, name))
}

fn ends_with_any(name: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending))
}

#[cfg(test)]
mod tests;
