//! A path of the local store as chunks, while the daemon reads it: no more of it is in memory than is under way.

use std::io::{self, Read};

use fleet_nix::daemon::Daemon;
use fleet_nix::store_path::StorePath;
use fleet_store::{ChunkError, RawChunk, cut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::TransferError;

/// Bytes between the daemon and the cutter.
const BUFFER: usize = 256 << 10;

/// Sends the chunks of the path's archive in order, each marked. Ends early when nobody takes them.
pub(crate) async fn cut_path<M: Copy + Send + 'static>(
    daemon: &mut Daemon,
    path: &StorePath,
    mark: M,
    chunks: &mpsc::Sender<(M, RawChunk)>,
) -> Result<(), TransferError> {
    let (mut sink, source) = tokio::io::duplex(BUFFER);
    let source = Blocking { runtime: Handle::current(), inner: source };
    let chunks = chunks.clone();
    let cutting = tokio::task::spawn_blocking(move || -> Result<(), ChunkError> {
        for chunk in cut(source) {
            if chunks.blocking_send((mark, chunk?)).is_err() {
                break;
            }
        }
        Ok(())
    });
    let exporting = async {
        let exported = daemon.nar_from_path(path, &mut sink).await;
        // The cutter waits for the end of the stream.
        drop(sink);
        exported
    };
    let (exported, cut) = tokio::join!(exporting, cutting);
    exported?;
    cut.map_err(|_| TransferError::Interrupted)?
        .map_err(|error| TransferError::Unreadable(path.clone(), error))
}

/// Reads a stream of the runtime from a thread that may block.
struct Blocking<R> {
    runtime: Handle,
    inner: R,
}

impl<R: AsyncRead + Unpin> Read for Blocking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.runtime.block_on(self.inner.read(buffer))
    }
}
