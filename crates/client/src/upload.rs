//! Brings a packed tree to the coordinator: cut into chunks, only those it lacks are sent.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use fleet_store::{ChunkError, Digest, cut, seal_frame};
use fleet_wire::v1;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::remote::Connection;

/// Digests in one question.
const DIGESTS_PER_CALL: usize = 16_384;
/// Frames on their way, at most 1 MiB each.
const IN_FLIGHT: usize = 8;

/// Why a tree cannot be uploaded.
#[derive(Debug, Error)]
pub enum UploadError {
    /// The packed tree cannot be opened.
    #[error("cannot read the packed tree {path}")]
    Open {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be cut.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// The coordinator refuses.
    #[error("the coordinator does not take the tree")]
    Refused(#[from] Box<tonic::Status>),
    /// A background task died.
    #[error("uploading was interrupted")]
    Interrupted,
}

/// The chunks of one tree that a coordinator lacks.
#[derive(Debug)]
pub struct Lacking {
    digests: HashSet<Digest>,
    /// What they hold together, uncompressed.
    pub bytes: u64,
}

/// Asks which of `chunks` the coordinator lacks.
pub async fn find_lacking(connection: &Connection, chunks: &[v1::ChunkRef]) -> Result<Lacking, UploadError> {
    let mut client = connection.chunks();
    let mut digests = HashSet::new();
    for part in chunks.chunks(DIGESTS_PER_CALL) {
        let asked = part.iter().map(|chunk| chunk.digest.clone()).collect();
        let reply = client.find_missing(v1::FindMissingRequest { digests: asked }).await.map_err(Box::new)?;
        digests.extend(reply.into_inner().missing.iter().filter_map(|bytes| Digest::try_from(&**bytes).ok()));
    }
    let mut counted = HashSet::new();
    let lacking = |chunk: &&v1::ChunkRef| {
        Digest::try_from(&*chunk.digest)
            .is_ok_and(|digest| digests.contains(&digest) && counted.insert(digest))
    };
    let bytes = chunks.iter().filter(lacking).map(|chunk| u64::from(chunk.size)).sum();
    Ok(Lacking { digests, bytes })
}

/// Sends what is lacking of the NAR file at `nar`.
pub async fn send(connection: &Connection, nar: &Path, lacking: Lacking) -> Result<(), UploadError> {
    if lacking.digests.is_empty() {
        return Ok(());
    }
    let (sender, frames) = mpsc::channel(IN_FLIGHT);
    let path = nar.to_owned();
    let sending = tokio::task::spawn_blocking(move || seal(&path, lacking.digests, &sender));
    connection.chunks().put(ReceiverStream::new(frames)).await.map_err(Box::new)?;
    sending.await.map_err(|_| UploadError::Interrupted)?
}

/// The chunks of the NAR file at `nar`, in order. Blocks.
pub fn manifest(nar: &Path) -> Result<Vec<v1::ChunkRef>, UploadError> {
    cut(open(nar)?)
        .map(|chunk| {
            let chunk = chunk?;
            let size = u32::try_from(chunk.data.len()).unwrap_or(u32::MAX);
            Ok(v1::ChunkRef { digest: chunk.digest.0.to_vec().into(), size })
        })
        .collect()
}

fn seal(
    nar: &Path,
    mut missing: HashSet<Digest>,
    frames: &mpsc::Sender<v1::Chunk>,
) -> Result<(), UploadError> {
    for chunk in cut(open(nar)?) {
        let chunk = chunk?;
        if missing.remove(&chunk.digest) {
            let frame = v1::Chunk { digest: chunk.digest.0.to_vec().into(), frame: seal_frame(&chunk)? };
            if frames.blocking_send(frame).is_err() {
                // The call ended early and says why.
                return Ok(());
            }
        }
    }
    Ok(())
}

fn open(nar: &Path) -> Result<BufReader<File>, UploadError> {
    let file =
        File::open(nar).map_err(|source| UploadError::Open { path: nar.display().to_string(), source })?;
    Ok(BufReader::new(file))
}
