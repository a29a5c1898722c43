//! The thread that writes logs, and the one that seals those that have ended. What cannot be written is said in our
//! own log and is lost; nobody waits for it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as blocking;

use tokio::sync::{mpsc, oneshot};

use super::{Growing, files, sealed};

/// Files held open at a time.
const MAX_OPEN: usize = 64;
/// Logs that end between two looks at how much is kept.
const PRUNE_EVERY: usize = 2_048;

/// What the writer is told.
#[derive(Debug)]
pub(super) enum Order {
    Begin(PathBuf),
    Write { path: PathBuf, data: Vec<u8> },
    End(PathBuf),
    Flush(oneshot::Sender<()>),
}

/// Writes until nobody can order any more, and everything is sealed.
pub(super) fn write_all(
    mut orders: mpsc::UnboundedReceiver<Order>,
    directory: &Path,
    pending: &AtomicUsize,
    growing: &Growing,
) {
    let (ended, to_seal) = blocking::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || seal_all(&to_seal, directory));
        let mut open = HashMap::new();
        while let Some(order) = orders.blocking_recv() {
            match order {
                Order::Begin(path) => kept(&path, file(&mut open, &path).map(drop)),
                Order::Write { path, data } => {
                    let written = file(&mut open, &path).and_then(|mut file| file.write_all(&data));
                    if written.is_ok() {
                        tell(growing, &path, |progress| progress.written += data.len() as u64);
                    }
                    kept(&path, written);
                    pending.fetch_sub(data.len(), Ordering::Relaxed);
                }
                Order::End(path) => {
                    open.remove(&path);
                    tell(growing, &path, |progress| progress.ended = true);
                    growing.remove(&path);
                    // The sealer ends only after us.
                    let _ = ended.send(path);
                }
                // Whoever asked may have gone.
                Order::Flush(done) => drop(done.send(())),
            }
        }
        drop(ended);
    });
}

fn tell(growing: &Growing, path: &Path, change: impl FnOnce(&mut super::Progress)) {
    if let Some(entry) = growing.get(path) {
        entry.value().send_modify(change);
    }
}

fn kept(path: &Path, result: std::io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(path = %path.display(), %error, "cannot keep a log");
    }
}

fn file<'o>(open: &'o mut HashMap<PathBuf, File>, path: &Path) -> std::io::Result<&'o File> {
    if !open.contains_key(path) {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(path.to_owned(), OpenOptions::new().create(true).append(true).open(path)?);
    }
    Ok(&open[path])
}

fn seal_all(ended: &blocking::Receiver<PathBuf>, directory: &Path) {
    for (number, path) in ended.iter().enumerate() {
        kept(&path, sealed::seal(&path));
        if number % PRUNE_EVERY == PRUNE_EVERY - 1 {
            kept(directory, files::prune(directory, files::KEPT));
        }
    }
}
