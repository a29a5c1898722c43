//! Logs of attempts on disk. Owns `logs/` of the state directory, `DRV/STARTED.ATTEMPT.log`. Bytes are kept raw;
//! whoever shows them escapes them. Writing never delays who appends: what the disk cannot take is marked.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use fleet_core::DrvPath;
use tokio::sync::{mpsc, oneshot};

/// Bytes on their way to the disk; above it lines are dropped and marked.
const MAX_PENDING: usize = 16 << 20;
/// Derivations whose logs are kept.
const KEPT_DERIVATIONS: usize = 20_000;

/// Writes logs in the background, in order, until its clones are dropped and everything is written.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    directory: PathBuf,
    orders: mpsc::UnboundedSender<Order>,
    pending: Arc<AtomicUsize>,
}

/// The log of one attempt.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    dropped: usize,
}

#[derive(Debug)]
enum Order {
    Write(Line),
    Flush(oneshot::Sender<()>),
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

impl LogWriter {
    /// Logs below `directory`, which is created; must be called in a runtime.
    pub(crate) fn open(directory: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        prune(&directory)?;
        // Bounded by bytes instead of lines.
        let (orders, received) = mpsc::unbounded_channel();
        let pending = Arc::new(AtomicUsize::new(0));
        tokio::task::spawn_blocking({
            let pending = pending.clone();
            move || write_all(received, &pending)
        });
        Ok(Self { directory, orders, pending })
    }

    /// A log that begins now; the file appears with its first line.
    pub(crate) fn file(&self, drv: &DrvPath, attempt: u32) -> LogFile {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        let path = self.directory.join(drv.as_str()).join(format!("{started:015}.{attempt}.log"));
        LogFile { path, dropped: 0 }
    }

    /// Adds to a log.
    pub(crate) fn append(&self, log: &mut LogFile, data: &[u8]) {
        let mut bytes = marker(log.dropped);
        bytes.extend_from_slice(data);
        if self.pending.load(Ordering::Relaxed) + bytes.len() > MAX_PENDING {
            log.dropped += data.len();
            return;
        }
        self.send(log, bytes);
    }

    /// Nothing more comes.
    pub(crate) fn close(&self, log: &mut LogFile) {
        if log.dropped > 0 {
            self.send(log, marker(log.dropped));
        }
    }

    /// Waits until everything appended before can be read.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        // The writer ends only after us.
        let _ = self.orders.send(Order::Flush(done));
        let _ = flushed.await;
    }

    /// Where the logs are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn send(&self, log: &mut LogFile, data: Vec<u8>) {
        self.pending.fetch_add(data.len(), Ordering::Relaxed);
        log.dropped = 0;
        // The writer ends only after us.
        let _ = self.orders.send(Order::Write(Line { path: log.path.clone(), data }));
    }
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
    logs
}

fn kept_log(path: PathBuf) -> Option<KeptLog> {
    let attempt = path.file_name()?.to_str()?.strip_suffix(".log")?.split_once('.')?.1.parse().ok()?;
    Some(KeptLog { path, attempt })
}

fn marker(dropped: usize) -> Vec<u8> {
    if dropped == 0 {
        return Vec::new();
    }
    format!("[fleet: {dropped} bytes of log were dropped here]\n").into_bytes()
}

fn write_all(mut orders: mpsc::UnboundedReceiver<Order>, pending: &AtomicUsize) {
    let mut open: Option<(PathBuf, File)> = None;
    while let Some(order) = orders.blocking_recv() {
        let line = match order {
            Order::Write(line) => line,
            Order::Flush(done) => {
                // Whoever asked may have gone.
                let _ = done.send(());
                continue;
            }
        };
        if let Err(error) = write(&mut open, &line) {
            tracing::warn!(path = %line.path.display(), %error, "cannot keep a log");
            open = None;
        }
        pending.fetch_sub(line.data.len(), Ordering::Relaxed);
    }
}

fn write(open: &mut Option<(PathBuf, File)>, line: &Line) -> std::io::Result<()> {
    if open.as_ref().is_none_or(|(path, _)| *path != line.path) {
        if let Some(directory) = line.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&line.path)?;
        *open = Some((line.path.clone(), file));
    }
    open.as_mut().map_or(Ok(()), |(_, file)| file.write_all(&line.data))
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
    derivations.into_iter().take(excess).try_for_each(|(_, path)| match std::fs::remove_dir_all(path) {
        // Another coordinator that starts now prunes too.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(directory: &Path) -> Vec<u8> {
        kept(directory, "a.drv").iter().flat_map(|log| std::fs::read(&log.path).expect("reads")).collect()
    }

    #[tokio::test]
    async fn a_log_is_kept_whole_and_found_by_its_derivation_only() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let writer = LogWriter::open(directory.path().to_owned()).expect("opens");
        let mut log = writer.file(&DrvPath::from("a.drv"), 2);
        for _ in 0..64 {
            writer.append(&mut log, &[b'x'; 1024]);
        }
        writer.close(&mut log);
        writer.flush().await;
        assert_eq!(written(directory.path()).len(), 64 * 1024);
        assert_eq!(kept(directory.path(), "a.drv")[0].attempt, 2);
        for outside in ["../a.drv", "", ".", "..", "b.drv"] {
            assert!(kept(directory.path(), outside).is_empty(), "{outside:?}");
        }
    }

    #[tokio::test]
    async fn a_flood_is_bounded_in_bytes_and_what_is_lost_is_marked() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (orders, mut received) = mpsc::unbounded_channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let writer = LogWriter { directory: directory.path().to_owned(), orders, pending };
        let mut log = writer.file(&DrvPath::from("a.drv"), 1);
        let line = vec![b'x'; 1 << 20];
        for _ in 0..1000 {
            writer.append(&mut log, &line);
        }
        assert!(writer.pending.load(Ordering::Relaxed) <= MAX_PENDING);
        writer.close(&mut log);
        let mut last = None;
        while let Ok(Order::Write(line)) = received.try_recv() {
            last = Some(line.data);
        }
        let last = String::from_utf8(last.expect("a line")).expect("text");
        assert_eq!(last, format!("[fleet: {} bytes of log were dropped here]\n", (1000 - 16) << 20));
    }
}
