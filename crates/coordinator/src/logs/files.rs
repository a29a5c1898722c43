//! Names of log files, and which are kept: `DRV/STARTED.ATTEMPT.log` while it grows, with `.zst` behind once sealed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::sealed;

/// Ending of a log that grows.
const GROWING: &str = ".log";
/// Ending of a sealed one.
const SEALED: &str = ".log.zst";
/// A log that nothing was written to for this long has no writer any more.
const ABANDONED: Duration = Duration::from_hours(48);

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Derivations with logs.
    pub(super) derivations: usize,
    /// Bytes on disk.
    pub(super) bytes: u64,
}

/// What a coordinator keeps.
pub(super) const KEPT: Bounds = Bounds { derivations: 20_000, bytes: 16 << 30 };

/// One kept log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptLog {
    pub(crate) path: PathBuf,
    pub(crate) attempt: u32,
}

impl KeptLog {
    pub(super) fn is_sealed(&self) -> bool {
        is_sealed(&self.path)
    }
}

fn is_sealed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

pub(super) fn growing_path(directory: &Path, drv: &str, started: u128, attempt: u32) -> PathBuf {
    directory.join(drv).join(format!("{started:015}.{attempt}{GROWING}"))
}

/// Kept logs of a derivation, oldest first.
pub(crate) fn kept(directory: &Path, drv: &str) -> Vec<KeptLog> {
    // A selector from outside must not leave the directory.
    if drv.is_empty() || drv.contains('/') || drv.starts_with('.') {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(directory.join(drv)) else {
        return Vec::new();
    };
    let mut logs: Vec<KeptLog> = entries.flatten().filter_map(|entry| kept_log(entry.path())).collect();
    logs.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    // A crash between the two leaves both of one log.
    logs.dedup_by(|later, earlier| {
        let same = later.path.with_extension("") == earlier.path;
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    logs
}

fn kept_log(path: PathBuf) -> Option<KeptLog> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(SEALED).or_else(|| name.strip_suffix(GROWING))?;
    let attempt = stem.split_once('.')?.1.parse().ok()?;
    Some(KeptLog { path, attempt })
}

/// Removes the logs of the derivations that were built longest ago, and seals what was abandoned by a crash.
pub(super) fn prune(directory: &Path, bounds: Bounds) -> std::io::Result<()> {
    let mut derivations: Vec<(SystemTime, u64, PathBuf)> = std::fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| {
            Some((entry.metadata().ok()?.modified().ok()?, size_of(&entry.path()), entry.path()))
        })
        .collect();
    // Newest first: what lies beyond a bound goes.
    derivations.sort_unstable_by(|a, b| b.cmp(a));
    let mut bytes = 0;
    for (number, (_, size, path)) in derivations.iter().enumerate() {
        bytes += size;
        if number >= bounds.derivations || bytes > bounds.bytes {
            remove(path)?;
        }
    }
    Ok(())
}

/// Another coordinator that starts now prunes too.
fn remove(directory: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Bytes of a derivation's logs. Abandoned ones are sealed on the way.
fn size_of(directory: &Path) -> u64 {
    let mut size = 0;
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        size += metadata.len();
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
        let path = entry.path();
        if age.is_some_and(|age| age > ABANDONED)
            && path.extension().is_some_and(|extension| extension == "log")
            && let Err(error) = sealed::seal(&path)
        {
            tracing::warn!(path = %path.display(), %error, "cannot seal an old log");
        }
    }
    size
}
