//! Reads an archive back from its chunks, and compares it with what is claimed of it: size, hash, content address,
//! references. Memory does not grow with the archive.

use fleet_nix::hash::NarHasher;
use fleet_nix::nar::{NarError, NarParser};
use fleet_nix::{PathInfo, ReferenceScanner};
use fleet_store::ChunkStore;
use futures::TryStreamExt;

use super::checked::CheckedPath;
use super::content::Content;
use super::{Expected, PathsError};

/// Chunks read ahead.
const READ_AHEAD: usize = 4;

/// Whether the chunks make a well-formed archive of the claimed size, hash and content, that refers to what it says.
/// Notes how long their frames are.
pub(super) async fn archive(
    chunks: &ChunkStore,
    path: &mut CheckedPath,
    expected: Option<&Expected>,
) -> Result<(), PathsError> {
    let mut contents = chunks.contents(path.manifest.pieces.clone(), READ_AHEAD);
    let mut check = Check::new(&path.info, expected);
    let mut frames = Vec::with_capacity(path.manifest.pieces.len());
    while let Some(fetched) = contents.try_next().await.map_err(|error| path.chunk_error(error))? {
        frames.push(fetched.frame.len());
        let fed = tokio::task::spawn_blocking(move || check.feed(&fetched.data).map(|()| check)).await;
        check =
            fed.map_err(|_| PathsError::Interrupted)?.map_err(|source| not_an_archive(&path.info, source))?;
    }
    check.finish(&path.info, expected)?;
    for (piece, frame) in path.manifest.pieces.iter_mut().zip(frames) {
        // Frames have a megabyte, about.
        piece.frame = u32::try_from(frame).unwrap_or(u32::MAX);
    }
    Ok(())
}

struct Check {
    hasher: NarHasher,
    parser: NarParser,
    content: Content,
    scanner: Option<ReferenceScanner>,
}

impl Check {
    fn new(info: &PathInfo, expected: Option<&Expected>) -> Self {
        let scanner = expected.map(|expected| {
            let candidates = expected.candidates.iter().chain(&info.references).chain([&info.path]);
            ReferenceScanner::new(candidates.cloned())
        });
        Self { hasher: NarHasher::new(), parser: NarParser::new(), content: Content::new(info), scanner }
    }

    fn feed(&mut self, data: &[u8]) -> Result<(), NarError> {
        self.hasher.update(data);
        self.content.update(data);
        if let Some(scanner) = &mut self.scanner {
            scanner.update(data);
        }
        let content = &mut self.content;
        let taken = self.parser.feed(data, |event| {
            content.heed(event);
            Ok::<(), NarError>(())
        })?;
        if taken < data.len() { Err(NarError::Trailing) } else { Ok(()) }
    }

    fn finish(self, info: &PathInfo, expected: Option<&Expected>) -> Result<(), PathsError> {
        let path = || info.path.to_string();
        self.parser.finish().map_err(|source| not_an_archive(info, source))?;
        let (actual, _) = self.hasher.finish();
        if actual != info.nar_hash {
            return Err(PathsError::OtherHash { path: path(), claimed: info.nar_hash, actual });
        }
        self.content.finish(info).map_err(|why| PathsError::OtherContent { path: path(), why })?;
        let (Some(scanner), Some(expected)) = (self.scanner, expected) else { return Ok(()) };
        let found = scanner.finish();
        if let Some(reference) = found.difference(&info.references).next().filter(|_| !expected.discards) {
            return Err(PathsError::Undeclared { path: path(), reference: reference.clone() });
        }
        // What the content addresses, it says itself: it may name more than its bytes do.
        let says_itself = info.content_address.is_some();
        match info.references.difference(&found).next().filter(|_| !says_itself) {
            Some(reference) => Err(PathsError::NotThere { path: path(), reference: reference.clone() }),
            None => Ok(()),
        }
    }
}

fn not_an_archive(info: &PathInfo, source: NarError) -> PathsError {
    PathsError::Archive { path: info.path.to_string(), source }
}
