//! Brings a source and the inputs that come along with it into the local store: chunks from the coordinator, checked,
//! each tree as one import. Evaluators find the inputs there by the hashes of the lock file, and fetch nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use bytes::Bytes;
use fleet_nix::daemon::{CheckSignatures, Daemon, DaemonError, Substitute};
use fleet_nix::evaluator::FlakeSource;
use fleet_nix::{
    ContentAddress, ContentAddressMethod, NarHash, PathInfo, References, StoreDir, StorePath, StorePathError,
    source_path,
};
use fleet_store::{Digest, open_frame};
use fleet_wire::v1;
use futures::{StreamExt, TryStreamExt};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::io::StreamReader;

use crate::context::Context;
use crate::roots::Guard;

/// The name Nix gives to every source.
const SOURCE_NAME: &str = "source";
/// Digests in one request.
const MAX_ASKED: usize = 65_536;
/// Trees of one source: itself, and as many inputs as a coordinator takes.
const MAX_TREES: usize = 1 + 256;

/// Why a source cannot be had.
#[derive(Debug, Error)]
pub(crate) enum SourceError {
    #[error("the coordinator sent a source without {0}")]
    Incomplete(&'static str),
    #[error("the coordinator sent a source with more than {MAX_TREES} trees")]
    TooMany,
    #[error("the source's store path cannot be computed")]
    Path(#[from] StorePathError),
    #[error("the coordinator does not give the chunks of {0}")]
    Fetch(String, #[source] Box<tonic::Status>),
    #[error("the Nix daemon failed")]
    Daemon(#[from] DaemonError),
    #[error("{0} cannot be added to the store")]
    Import(String, #[source] DaemonError),
}

impl SourceError {
    /// Whose fault it is: another try may mend what is not the source's.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Fetch(_, status) if status.code() != tonic::Code::NotFound => "infrastructure",
            Self::Daemon(_) => "infrastructure",
            Self::Import(_, error) if error.remote().is_none() => "infrastructure",
            _ => "no_source",
        }
    }
}

/// One tree that a job needs.
struct Tree<'a> {
    /// For people.
    name: String,
    nar_hash: NarHash,
    nar_size: u64,
    manifest: &'a v1::Manifest,
}

/// Makes what a job evaluates valid with all its inputs, and says how Nix names it; it is there as long as the guard.
pub(crate) async fn import(
    context: &Context,
    job: &v1::EvalJob,
    source: &v1::Source,
) -> Result<(FlakeSource, Guard), SourceError> {
    let trees = trees(&context.store_dir, source)?;
    // Before anything is asked: what is valid then stays.
    let held = context.roots.guard(trees.keys()).await?;
    let mut daemon = Daemon::connect(&context.config.daemon).await?;
    let wanted: BTreeSet<StorePath> = trees.keys().cloned().collect();
    let valid = daemon.query_valid_paths(&wanted, Substitute::No).await?;
    let right = v1::WorkRight { eval_job: job.job, epoch: job.epoch, ..v1::WorkRight::default() };
    for (path, tree) in trees.iter().filter(|(path, _)| !valid.contains(*path)) {
        add(context, &mut daemon, right, path, tree).await?;
    }
    let nar_hash = nar_hash(&source.nar_hash)?;
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let source = FlakeSource {
        path: source_path(&context.store_dir, SOURCE_NAME, nar_hash, &References::none())?,
        nar_hash,
        rev: some(&source.rev),
        rev_count: (source.rev_count > 0).then_some(source.rev_count),
        last_modified: source.last_modified,
        subdir: some(&source.subdir),
    };
    Ok((source, held))
}

/// The source and its inputs by their store paths: equal trees are one.
fn trees<'a>(
    store_dir: &StoreDir,
    source: &'a v1::Source,
) -> Result<BTreeMap<StorePath, Tree<'a>>, SourceError> {
    if source.inputs.len() >= MAX_TREES {
        return Err(SourceError::TooMany);
    }
    let own = ("the source".to_owned(), &source.nar_hash, source.nar_size, &source.manifest);
    let inputs = source
        .inputs
        .iter()
        .map(|input| (format!("input {}", input.name), &input.nar_hash, input.nar_size, &input.manifest));
    let mut trees = BTreeMap::new();
    for (name, hash, nar_size, manifest) in std::iter::once(own).chain(inputs) {
        let nar_hash = nar_hash(hash)?;
        let manifest = manifest.as_ref().ok_or(SourceError::Incomplete("a manifest"))?;
        let path = source_path(store_dir, SOURCE_NAME, nar_hash, &References::none())?;
        trees.entry(path).or_insert(Tree { name, nar_hash, nar_size, manifest });
    }
    Ok(trees)
}

fn nar_hash(bytes: &Bytes) -> Result<NarHash, SourceError> {
    let bytes: Result<[u8; 32], _> = bytes.as_ref().try_into();
    bytes.map(NarHash).map_err(|_| SourceError::Incomplete("a NAR hash"))
}

/// The daemon hashes what it is given, and refuses a tree that is another than its path says.
async fn add(
    context: &Context,
    daemon: &mut Daemon,
    right: v1::WorkRight,
    path: &StorePath,
    tree: &Tree<'_>,
) -> Result<(), SourceError> {
    let info = path_info(path.clone(), tree.nar_hash, tree.nar_size);
    let nar = fetch(context, right, tree).await?;
    let added = daemon.add_to_store_nar(&info, &mut nar.take(tree.nar_size), CheckSignatures::Yes).await;
    added.map_err(|error| SourceError::Import(tree.name.clone(), error))
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

/// The first request is answered before the daemon is told of anything: a coordinator that refuses breaks no import.
async fn fetch(
    context: &Context,
    right: v1::WorkRight,
    tree: &Tree<'_>,
) -> Result<Pin<Box<dyn AsyncRead + Send>>, SourceError> {
    let digests: Vec<Bytes> = tree.manifest.chunks.iter().map(|chunk| chunk.digest.clone()).collect();
    let mut requests = digests.chunks(MAX_ASKED).map(|part| v1::GetRequest {
        right: Some(right),
        paths: vec![v1::PathChunks { path: String::new(), digests: part.to_vec() }],
    });
    let Some(first) = requests.next() else { return Ok(Box::pin(tokio::io::empty())) };
    let rest: Vec<v1::GetRequest> = requests.collect();
    let mut client = v1::chunks_client::ChunksClient::new(context.coordinator.clone())
        .max_decoding_message_size(fleet_wire::MAX_MESSAGE);
    let refused = |status| SourceError::Fetch(tree.name.clone(), Box::new(status));
    let first = client.get(first).await.map_err(refused)?.into_inner();
    let rest = futures::stream::iter(rest).then(move |request| {
        let mut client = client.clone();
        async move { client.get(request).await.map(tonic::Response::into_inner) }
    });
    let chunks = first.chain(rest.try_flatten());
    let mut expected = digests.into_iter();
    let pieces = chunks.map_err(std::io::Error::other).and_then(move |chunk| {
        // Another chunk in its place would be found by the hash of the whole, but after all of it was sent.
        let right = expected.next().is_some_and(|digest| digest == chunk.digest);
        async move {
            if right {
                open(&chunk)
            } else {
                Err(std::io::Error::other("the coordinator sent another chunk"))
            }
        }
    });
    Ok(Box::pin(StreamReader::new(pieces.boxed())))
}

fn open(chunk: &v1::Chunk) -> std::io::Result<Bytes> {
    let digest = Digest::try_from(&*chunk.digest).map_err(std::io::Error::other)?;
    open_frame(digest, &chunk.frame).map(Bytes::from).map_err(std::io::Error::other)
}
