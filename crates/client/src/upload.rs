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

/// Uploads the NAR file at `nar`; answers its chunks in order.
pub async fn upload(connection: &Connection, nar: &Path) -> Result<v1::Manifest, UploadError> {
    let path = nar.to_owned();
    let chunks = tokio::task::spawn_blocking(move || manifest(&path))
        .await
        .map_err(|_| UploadError::Interrupted)??;
    let mut client = connection.chunks();
    let mut missing = HashSet::new();
    for digests in chunks.chunks(DIGESTS_PER_CALL) {
        let digests = digests.iter().map(|chunk| chunk.digest.clone()).collect();
        let reply = client.find_missing(v1::FindMissingRequest { digests }).await.map_err(Box::new)?;
        missing.extend(reply.into_inner().missing.iter().filter_map(|bytes| Digest::try_from(&**bytes).ok()));
    }
    if !missing.is_empty() {
        let (sender, frames) = mpsc::channel(IN_FLIGHT);
        let path = nar.to_owned();
        let sending = tokio::task::spawn_blocking(move || send(&path, missing, &sender));
        client.put(ReceiverStream::new(frames)).await.map_err(Box::new)?;
        sending.await.map_err(|_| UploadError::Interrupted)??;
    }
    Ok(v1::Manifest { chunks })
}

fn manifest(nar: &Path) -> Result<Vec<v1::ChunkRef>, UploadError> {
    cut(open(nar)?)
        .map(|chunk| {
            let chunk = chunk?;
            let size = u32::try_from(chunk.data.len()).unwrap_or(u32::MAX);
            Ok(v1::ChunkRef { digest: chunk.digest.0.to_vec().into(), size })
        })
        .collect()
}

fn send(
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
