//! Logs of attempts: kept on disk, the newest bytes in memory while the attempt runs. Owns `logs/` of the state
//! directory, `DRV/STARTED.ATTEMPT.log`. Bytes are kept raw; whoever shows them escapes them.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fleet_core::{DrvPath, LeaseId};
use tokio::sync::mpsc;

/// What a person sees of a failed step's log, bytes.
const TAIL: usize = 16 << 10;
/// Writes under way to the disk; above it lines are dropped and marked.
const BACKLOG: usize = 4096;
/// Derivations whose logs are kept.
const KEPT_DERIVATIONS: usize = 20_000;

/// Logs of running attempts, and where finished ones lie.
#[derive(Debug)]
pub(crate) struct Logs {
    directory: PathBuf,
    running: HashMap<(LeaseId, DrvPath), Running>,
    writer: mpsc::Sender<Line>,
}

#[derive(Debug)]
struct Running {
    path: PathBuf,
    attempt: u32,
    tail: Vec<u8>,
    dropped: usize,
}

#[derive(Debug)]
struct Line {
    path: PathBuf,
    data: Vec<u8>,
}

/// One kept log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptLog {
    pub(crate) path: PathBuf,
    pub(crate) attempt: u32,
}

impl Logs {
    /// Logs below `directory`, which is created; must be called in a runtime.
    pub(crate) fn open(directory: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        prune(&directory)?;
        let (writer, mut lines) = mpsc::channel::<Line>(BACKLOG);
        tokio::task::spawn_blocking(move || {
            while let Some(line) = lines.blocking_recv() {
                write(&line);
            }
        });
        Ok(Self { directory, running: HashMap::new(), writer })
    }

    /// An attempt was leased.
    pub(crate) fn begin(&mut self, lease: LeaseId, drv: &DrvPath, attempt: u32) {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let path = self.directory.join(drv.as_str()).join(format!("{started:015}.{attempt}.log"));
        self.running.insert((lease, drv.clone()), Running { path, attempt, tail: Vec::new(), dropped: 0 });
    }

    /// An attempt said something. Answers which attempt, or nothing for an unknown lease.
    pub(crate) fn append(&mut self, lease: LeaseId, drv: &DrvPath, data: &[u8]) -> Option<u32> {
        let running = self.running.get_mut(&(lease, drv.clone()))?;
        running.tail.extend_from_slice(data);
        if running.tail.len() > 2 * TAIL {
            running.tail.drain(..running.tail.len() - TAIL);
        }
        let mut bytes = Vec::new();
        if running.dropped > 0 {
            bytes = format!("[fleet: {} bytes of log were dropped here]\n", running.dropped).into_bytes();
        }
        bytes.extend_from_slice(data);
        match self.writer.try_send(Line { path: running.path.clone(), data: bytes }) {
            Ok(()) => running.dropped = 0,
            Err(_) => running.dropped += data.len(),
        }
        Some(running.attempt)
    }

    /// The newest lines of a running attempt, lossily as text.
    pub(crate) fn tail(&self, lease: LeaseId, drv: &DrvPath) -> String {
        let Some(running) = self.running.get(&(lease, drv.clone())) else {
            return String::new();
        };
        let from = running.tail.len().saturating_sub(TAIL);
        String::from_utf8_lossy(&running.tail[from..]).into_owned()
    }

    /// An attempt ended; its log stays on disk.
    pub(crate) fn end(&mut self, lease: LeaseId, drv: &DrvPath) {
        self.running.remove(&(lease, drv.clone()));
    }
}

/// Kept logs of a derivation, oldest first.
pub(crate) fn kept(directory: &Path, drv: &str) -> Vec<KeptLog> {
    // A selector from outside must not leave the directory.
    if drv.contains('/') || drv.starts_with('.') {
        return Vec::new();
    }
    let Ok(entries) = std::fs::read_dir(directory.join(drv)) else {
        return Vec::new();
    };
    let mut logs: Vec<KeptLog> = entries.flatten().filter_map(|entry| kept_log(entry.path())).collect();
    logs.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    logs
}

fn kept_log(path: PathBuf) -> Option<KeptLog> {
    let attempt = path.file_name()?.to_str()?.strip_suffix(".log")?.split_once('.')?.1.parse().ok()?;
    Some(KeptLog { path, attempt })
}

fn write(line: &Line) {
    let opened = line
        .path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::OpenOptions::new().create(true).append(true).open(&line.path));
    if let Err(error) = opened.and_then(|mut file| file.write_all(&line.data)) {
        tracing::warn!(path = %line.path.display(), %error, "cannot keep a log");
    }
}

/// Removes the logs of the derivations that were built longest ago.
fn prune(directory: &Path) -> std::io::Result<()> {
    let mut derivations: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(directory)?
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    if derivations.len() <= KEPT_DERIVATIONS {
        return Ok(());
    }
    derivations.sort_unstable();
    let excess = derivations.len() - KEPT_DERIVATIONS;
    derivations.into_iter().take(excess).try_for_each(|(_, path)| std::fs::remove_dir_all(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_is_kept_whole_and_its_tail_is_at_hand() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut logs = Logs::open(directory.path().to_owned()).expect("opens");
        let (lease, drv) = (LeaseId(1), DrvPath::from("a.drv"));
        assert_eq!(logs.append(lease, &drv, b"before its lease\n"), None);
        logs.begin(lease, &drv, 2);
        let line = [b'x'; 1023];
        for _ in 0..64 {
            assert_eq!(logs.append(lease, &drv, &[&line[..], b"\n"].concat()), Some(2));
        }
        assert_eq!(logs.tail(lease, &drv).len(), TAIL);
        logs.end(lease, &drv);
        drop(logs);
        let size = |log: &KeptLog| log.path.metadata().map_or(0, |m| m.len());
        let written = || kept(directory.path(), "a.drv").iter().map(size).sum::<u64>();
        while written() < 64 * 1024_u64 {
            tokio::task::yield_now().await;
        }
        assert_eq!(kept(directory.path(), "a.drv")[0].attempt, 2);
        assert!(kept(directory.path(), "../a.drv").is_empty());
    }
}
