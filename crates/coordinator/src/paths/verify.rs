//! Reads an archive back from its chunks, and compares it with what is claimed of it. Memory does not grow with
//! the archive.

use fleet_nix::hash::NarHasher;
use fleet_nix::nar::{NarError, NarParser};
use fleet_store::ChunkStore;
use futures::TryStreamExt;

use super::PathsError;
use super::checked::CheckedPath;

/// Chunks read ahead.
const READ_AHEAD: usize = 4;

/// Whether the chunks make a well-formed archive of the claimed size and hash. Notes how long their frames are.
pub(super) async fn archive(chunks: &ChunkStore, path: &mut CheckedPath) -> Result<(), PathsError> {
    let name = || path.info.path.to_string();
    let mut contents = chunks.contents(path.manifest.pieces.clone(), READ_AHEAD);
    let mut check = Check { hasher: NarHasher::new(), parser: NarParser::new() };
    let mut frames = Vec::with_capacity(path.manifest.pieces.len());
    while let Some(fetched) = contents.try_next().await.map_err(|error| path.chunk_error(error))? {
        frames.push(fetched.frame.len());
        let fed = tokio::task::spawn_blocking(move || check.feed(&fetched.data).map(|()| check)).await;
        check = fed
            .map_err(|_| PathsError::Interrupted)?
            .map_err(|source| PathsError::Archive { path: name(), source })?;
    }
    check.parser.finish().map_err(|source| PathsError::Archive { path: name(), source })?;
    let (actual, _) = check.hasher.finish();
    if actual != path.info.nar_hash {
        return Err(PathsError::OtherHash { path: name(), claimed: path.info.nar_hash, actual });
    }
    for (piece, frame) in path.manifest.pieces.iter_mut().zip(frames) {
        // Frames have a megabyte, about.
        piece.frame = u32::try_from(frame).unwrap_or(u32::MAX);
    }
    Ok(())
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
