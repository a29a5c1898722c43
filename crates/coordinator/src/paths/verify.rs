//! Reads an archive back from its chunks, and compares it with what is claimed of it. Memory does not grow with
//! the archive.

use fleet_nix::hash::NarHasher;
use fleet_nix::nar::{NarError, NarParser};
use fleet_store::ChunkStore;
use futures::{StreamExt, TryStreamExt};

use super::PathsError;
use super::checked::CheckedPath;

/// Chunks read ahead.
const READ_AHEAD: usize = 4;

/// Whether the chunks make a well-formed archive of the claimed size and hash.
pub(super) async fn archive(chunks: &ChunkStore, path: &CheckedPath) -> Result<(), PathsError> {
    let name = || path.info.path.to_string();
    let pieces = futures::stream::iter(path.manifest.pieces.iter().copied());
    let contents = pieces.map(|piece| async move {
        let data = chunks.read(piece.digest).await.map_err(|error| path.chunk_error(error))?;
        if data.len() == piece.size as usize {
            Ok(data)
        } else {
            Err(PathsError::PieceSize { path: name(), chunk: piece.digest })
        }
    });
    let mut contents = contents.buffered(READ_AHEAD);
    let mut check = Check { hasher: NarHasher::new(), parser: NarParser::new() };
    while let Some(data) = contents.try_next().await? {
        let fed = tokio::task::spawn_blocking(move || check.feed(&data).map(|()| check)).await;
        check = fed
            .map_err(|_| PathsError::Interrupted)?
            .map_err(|source| PathsError::Archive { path: name(), source })?;
    }
    check.parser.finish().map_err(|source| PathsError::Archive { path: name(), source })?;
    let (actual, _) = check.hasher.finish();
    if actual == path.info.nar_hash {
        return Ok(());
    }
    Err(PathsError::OtherHash { path: name(), claimed: path.info.nar_hash, actual })
}

struct Check {
    hasher: NarHasher,
    parser: NarParser,
}

impl Check {
    fn feed(&mut self, data: &[u8]) -> Result<(), NarError> {
        self.hasher.update(data);
        if self.parser.feed(data, |_| Ok::<(), NarError>(()))? < data.len() {
            return Err(NarError::Trailing);
        }
        Ok(())
    }
}
