//! Brings a source into the local store: chunks from the coordinator, checked, as one import.

use std::collections::BTreeSet;
use std::pin::Pin;

use bytes::Bytes;
use fleet_nix::daemon::{CheckSignatures, Daemon, DaemonError};
use fleet_nix::evaluator::FlakeSource;
use fleet_nix::{ContentAddress, ContentAddressMethod, NarHash, PathInfo, StorePath, StorePathError};
use fleet_store::{Digest, open_frame};
use fleet_wire::v1;
use futures::{StreamExt, TryStreamExt};
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::context::Context;

/// The name Nix gives to every source.
const SOURCE_NAME: &str = "source";

/// Why a source cannot be had.
#[derive(Debug, Error)]
pub(crate) enum SourceError {
    #[error("the coordinator sent a source without {0}")]
    Incomplete(&'static str),
    #[error("the source's store path cannot be computed")]
    Path(#[from] StorePathError),
    #[error("the coordinator does not give the source's chunks")]
    Fetch(#[from] Box<tonic::Status>),
    #[error("the source cannot be added to the store")]
    Import(#[from] DaemonError),
}

impl SourceError {
    /// Whose fault it is: another try may mend what is not the source's.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Fetch(status) if status.code() != tonic::Code::NotFound => "infrastructure",
            Self::Import(error) if error.remote().is_none() => "infrastructure",
            _ => "no_source",
        }
    }
}

/// Makes the source valid and rooted, and says how Nix names it.
pub(crate) async fn import(context: &Context, source: &v1::Source) -> Result<FlakeSource, SourceError> {
    let nar_hash: [u8; 32] =
        source.nar_hash.as_ref().try_into().map_err(|_| SourceError::Incomplete("a NAR hash"))?;
    let nar_hash = NarHash(nar_hash);
    let path =
        fleet_nix::source_path(&context.store_dir, SOURCE_NAME, nar_hash, &fleet_nix::References::none())?;
    context.roots.hold([&path]).await?;
    let mut daemon = Daemon::connect(&context.config.daemon).await?;
    if !daemon.is_valid_path(&path).await? {
        let info = path_info(path.clone(), nar_hash, source.nar_size);
        let mut nar = fetch(context, source).await?;
        daemon.add_to_store_nar(&info, &mut nar, CheckSignatures::Yes).await?;
    }
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    Ok(FlakeSource {
        path,
        nar_hash,
        rev: some(&source.rev),
        rev_count: (source.rev_count > 0).then_some(source.rev_count),
        last_modified: source.last_modified,
        subdir: some(&source.subdir),
    })
}

/// A source names itself by its content, so the daemon takes it from anyone.
fn path_info(path: StorePath, nar_hash: NarHash, nar_size: u64) -> PathInfo {
    let content_address =
        ContentAddress { method: ContentAddressMethod::NixArchive, hash: nar_hash.to_hash() };
    PathInfo {
        path,
        deriver: None,
        nar_hash,
        references: BTreeSet::new(),
        registration_time: 0,
        nar_size,
        ultimate: false,
        signatures: Vec::new(),
        content_address: Some(content_address),
    }
}

async fn fetch(
    context: &Context,
    source: &v1::Source,
) -> Result<Pin<Box<dyn AsyncRead + Send>>, SourceError> {
    let manifest = source.manifest.as_ref().ok_or(SourceError::Incomplete("a manifest"))?;
    let digests = manifest.chunks.iter().map(|chunk| chunk.digest.clone()).collect();
    let mut client = v1::chunks_client::ChunksClient::new(context.coordinator.clone())
        .max_decoding_message_size(fleet_wire::MAX_MESSAGE);
    let chunks = client
        .get(v1::GetRequest { digests, ..v1::GetRequest::default() })
        .await
        .map_err(Box::new)?
        .into_inner();
    let pieces = chunks.map_err(std::io::Error::other).and_then(|chunk| async move { open(&chunk) });
    Ok(Box::pin(StreamReader::new(pieces.boxed())))
}

fn open(chunk: &v1::Chunk) -> std::io::Result<Bytes> {
    let digest = Digest::try_from(&*chunk.digest).map_err(std::io::Error::other)?;
    open_frame(digest, &chunk.frame).map(Bytes::from).map_err(std::io::Error::other)
}
