//! Paths of the local store as chunks, for others. Reads the store's files itself where it can, else has the daemon
//! pack them. Roots what it reads, for as long as it reads.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::mpsc as blocking;
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError, Substitute};
use fleet_nix::nar_dump::{NarDumpError, dump_path};
use fleet_nix::store_path::StorePath;
use fleet_store::{ChunkError, RawChunk, cut};
use thiserror::Error;
use tokio::sync::mpsc;

use crate::lane;
use crate::transfer::archive::cut_path;
use crate::transfer::manifest_cache::{Piece, Pieces};

/// Bytes between reader and cutter: several pieces of this size.
const PIECE: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;

/// Why a path cannot be read.
#[derive(Debug, Error)]
pub(super) enum ReadingError {
    #[error("the Nix daemon failed")]
    Daemon(#[from] DaemonError),
    #[error("the daemon's archive cannot be cut")]
    Archive(#[source] crate::transfer::TransferError),
    #[error(transparent)]
    Dump(#[from] NarDumpError),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("it has another size than when it was cut")]
    Changed,
    #[error("reading was interrupted")]
    Interrupted,
}

/// Where the files of a daemon's store are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) address: DaemonAddress,
    pub(super) patience: Duration,
}

/// Paths that stay in the store while this lives.
#[derive(Debug)]
pub(super) struct Rooted {
    daemon: Daemon,
    files: Files,
    valid: BTreeSet<StorePath>,
}

impl Files {
    pub(super) async fn root(&self, paths: &BTreeSet<StorePath>) -> Result<Rooted, DaemonError> {
        let mut daemon = lane::connect(&self.address, self.patience).await?;
        daemon.add_temp_roots(paths).await?;
        let valid = daemon.query_valid_paths(paths, Substitute::No).await?;
        Ok(Rooted { daemon, files: self.clone(), valid })
    }
}

impl Rooted {
    pub(super) fn has(&self, path: &StorePath) -> bool {
        self.valid.contains(path)
    }

    /// Sends the chunks of a path in order, those that `known` and `wanted` leave. Ends early when nobody takes them.
    pub(super) async fn send(
        &mut self,
        path: &StorePath,
        cutting: Cutting,
        chunks: mpsc::Sender<RawChunk>,
    ) -> Result<(), ReadingError> {
        let place = self.files.address.physical(self.daemon.store_dir(), path);
        if cfg!(target_os = "macos") || !is_readable(&place).await {
            return self.send_packed(path, cutting, chunks).await;
        }
        let (sink, source) = pipe();
        let reading = tokio::task::spawn_blocking(move || dump_path(&place, sink)?.end());
        let cutting = tokio::task::spawn_blocking(move || cutting.run(source, &chunks));
        let (read, cut) = tokio::join!(reading, cutting);
        let is_taken = cut.map_err(|_| ReadingError::Interrupted)??;
        match read.map_err(|_| ReadingError::Interrupted)? {
            Err(_) if !is_taken => Ok(()),
            read => read,
        }
    }

    /// File systems that fold case, and stores that others may not read.
    async fn send_packed(
        &mut self,
        path: &StorePath,
        cutting: Cutting,
        chunks: mpsc::Sender<RawChunk>,
    ) -> Result<(), ReadingError> {
        let (cut, mut received) = mpsc::channel(1);
        let daemon = &mut self.daemon;
        let packing = async move {
            let packed = cut_path(daemon, path, (), &cut).await;
            drop(cut);
            packed.map_err(ReadingError::Archive)
        };
        let choosing = async {
            let mut position = 0;
            while let Some(((), chunk)) = received.recv().await {
                if cutting.wants(position) && chunks.send(chunk).await.is_err() {
                    break;
                }
                position += 1;
            }
            drop(received);
            Ok(())
        };
        tokio::try_join!(packing, choosing).map(|_| ())
    }
}

async fn is_readable(place: &Path) -> bool {
    tokio::fs::symlink_metadata(place).await.is_ok()
}

/// How an archive becomes chunks.
#[derive(Debug)]
pub(super) struct Cutting {
    /// Where it was cut before.
    pub(super) known: Option<Pieces>,
    /// One bit a chunk; none for all of them.
    pub(super) wanted: Option<Vec<u8>>,
}

impl Cutting {
    fn wants(&self, position: usize) -> bool {
        let Some(bits) = &self.wanted else { return true };
        bits.get(position / 8).is_some_and(|byte| byte >> (position % 8) & 1 == 1)
    }

    /// False when nobody takes chunks any more.
    fn run(self, source: impl Read, chunks: &mpsc::Sender<RawChunk>) -> Result<bool, ReadingError> {
        if let Some(known) = &self.known {
            return self.split(known, source, chunks);
        }
        for (position, chunk) in cut(source).enumerate() {
            let chunk = chunk?;
            if self.wants(position) && chunks.blocking_send(chunk).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The receiver checks what it gets: the names are those of the time when it was cut.
    fn split(
        &self,
        known: &[Piece],
        mut source: impl Read,
        chunks: &mpsc::Sender<RawChunk>,
    ) -> Result<bool, ReadingError> {
        for (position, piece) in known.iter().enumerate() {
            let mut data = vec![0; piece.size as usize];
            source.read_exact(&mut data).map_err(|_| ReadingError::Changed)?;
            let chunk = RawChunk { digest: piece.digest, data };
            if self.wants(position) && chunks.blocking_send(chunk).is_err() {
                return Ok(false);
            }
        }
        match source.read(&mut [0]) {
            Ok(0) => Ok(true),
            _ => Err(ReadingError::Changed),
        }
    }
}

/// Bytes from one thread to another.
fn pipe() -> (PipeSink, PipeSource) {
    let (sender, receiver) = blocking::sync_channel(PIECES_AHEAD);
    let sink = PipeSink { sender, piece: Vec::with_capacity(PIECE) };
    (sink, PipeSource { receiver, piece: Vec::new(), position: 0 })
}

struct PipeSink {
    sender: blocking::SyncSender<Vec<u8>>,
    piece: Vec<u8>,
}

impl PipeSink {
    fn end(mut self) -> Result<(), ReadingError> {
        self.flush().map_err(|_| ReadingError::Interrupted)
    }
}

impl Write for PipeSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// An archive whose reader failed ends early here: its reader says so.
struct PipeSource {
    receiver: blocking::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    position: usize,
}

impl Read for PipeSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position == self.piece.len() {
            let Ok(piece) = self.receiver.recv() else { return Ok(0) };
            (self.piece, self.position) = (piece, 0);
        }
        let count = buffer.len().min(self.piece.len() - self.position);
        buffer[..count].copy_from_slice(&self.piece[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}
