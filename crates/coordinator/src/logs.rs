//! Logs of attempts on disk. Owns `logs/` of the state directory. A log grows as a plain file, which any number of
//! readers may follow; when its attempt has ended it is sealed into zstd frames. Bytes are kept raw; whoever shows
//! them escapes them. Writing never delays who appends: what the disk cannot take is marked.

mod files;
mod reader;
mod sealed;
mod writing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use fleet_core::DrvPath;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use files::{KeptLog, kept};
pub(crate) use reader::{LogReader, Pull};
use writing::Order;

/// Bytes on their way to the disk; above it lines are dropped and marked.
const MAX_PENDING: usize = 16 << 20;
/// Longest log of one attempt, whatever its worker was told, bytes.
const MAX_LOG: u64 = 1 << 30;

/// How far logs are that grow now, by path.
type Growing = Arc<DashMap<PathBuf, watch::Sender<Progress>>>;

/// How far a log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Bytes that can be read.
    written: u64,
    ended: bool,
}

/// Writes logs in the background, in order, until its clones are dropped and everything is written.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    directory: PathBuf,
    orders: mpsc::UnboundedSender<Order>,
    pending: Arc<AtomicUsize>,
    growing: Growing,
}

/// The log of one attempt.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    dropped: usize,
    /// What was appended, dropped bytes included: where the next append begins.
    length: u64,
}

impl LogFile {
    /// Bytes that were appended so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }
}

impl LogWriter {
    /// Logs below `directory`, which is created; must be called in a runtime.
    pub(crate) fn open(directory: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        files::prune(&directory, files::KEPT)?;
        // Bounded by bytes instead of lines.
        let (orders, received) = mpsc::unbounded_channel();
        let (pending, growing) = (Arc::new(AtomicUsize::new(0)), Growing::default());
        tokio::task::spawn_blocking({
            let (directory, pending, growing) = (directory.clone(), pending.clone(), growing.clone());
            move || writing::write_all(received, &directory, &pending, &growing)
        });
        Ok(Self { directory, orders, pending, growing })
    }

    /// A log that begins now.
    pub(crate) fn file(&self, drv: &DrvPath, attempt: u32) -> LogFile {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis());
        self.grow(files::growing_path(&self.directory, drv.as_str(), started, attempt), 0)
    }

    /// The log of an attempt that began before this program did; a new one when there is none.
    pub(crate) fn reopen(&self, drv: &DrvPath, attempt: u32) -> LogFile {
        let kept = kept(&self.directory, drv.as_str()).into_iter().rev();
        let found = kept.into_iter().find(|log| log.attempt == attempt && !log.is_sealed());
        match found {
            Some(log) => {
                let length = std::fs::metadata(&log.path).map_or(0, |metadata| metadata.len());
                self.grow(log.path, length)
            }
            None => self.file(drv, attempt),
        }
    }

    fn grow(&self, path: PathBuf, length: u64) -> LogFile {
        let progress = Progress { written: length, ended: false };
        self.growing.insert(path.clone(), watch::Sender::new(progress));
        // The writer ends only after us.
        let _ = self.orders.send(Order::Begin(path.clone()));
        LogFile { path, dropped: 0, length }
    }

    /// Adds to a log.
    pub(crate) fn append(&self, log: &mut LogFile, data: &[u8]) {
        let mut bytes = marker(log.dropped);
        bytes.extend_from_slice(data);
        let before = log.length;
        log.length += data.len() as u64;
        let crowded = self.pending.load(Ordering::Relaxed) + bytes.len() > MAX_PENDING;
        if crowded || before > MAX_LOG {
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
        // The writer ends only after us.
        let _ = self.orders.send(Order::End(log.path.clone()));
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

    /// Reads a log from an offset; with `follow`, until its attempt has ended.
    pub(crate) fn read(&self, log: &KeptLog, from: u64, follow: bool) -> std::io::Result<LogReader> {
        let progress = self.growing.get(&log.path).map(|entry| entry.value().subscribe());
        LogReader::open(log, from, progress.filter(|_| follow))
    }

    fn send(&self, log: &mut LogFile, data: Vec<u8>) {
        self.pending.fetch_add(data.len(), Ordering::Relaxed);
        log.dropped = 0;
        // The writer ends only after us.
        let _ = self.orders.send(Order::Write { path: log.path.clone(), data });
    }
}

fn marker(dropped: usize) -> Vec<u8> {
    if dropped == 0 {
        return Vec::new();
    }
    format!("[fleet: {dropped} bytes of log were dropped here]\n").into_bytes()
}

#[cfg(test)]
mod tests;
