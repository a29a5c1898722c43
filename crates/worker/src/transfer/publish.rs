//! Paths of the local store to the coordinator: their chunks, as far as it lacks them, then the paths themselves,
//! each after its references.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_nix::PathInfo;
use fleet_nix::store_path::StorePath;
use fleet_store::{Digest, RawChunk, seal_frame};
use fleet_wire::v1;
use fleet_wire::v1::chunks_client::ChunksClient;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::archive::cut_path;
use super::{Patience, Standing, Transfer, TransferError};
use crate::context::Context;
use crate::infos::{references_first, to_wire};
use crate::lane::Purpose;

/// Chunks, of at most 1 MiB, that were cut and not looked at.
const CUT_AHEAD: usize = 4;
/// Chunks that one question is about.
const ASKED_TOGETHER: usize = 16;
/// Questions whose answers are not here: the coordinator may be far away.
const ASKED_AT_ONCE: usize = 4;
/// Bytes of chunks of one upload that are asked about, or wait to be compressed.
const HELD_BYTES: u32 = 64 << 20;
/// Chunks that are compressed at once, on threads that may block.
const SEALED_AT_ONCE: usize = 4;
/// Frames on their way.
const IN_FLIGHT: usize = 4;
/// Bytes and number of paths that are registered together; what is larger goes alone.
const GROUP_BYTES: u64 = 64 << 20;
const GROUP_PATHS: usize = 256;

/// Has the coordinator keep these paths, which must be valid and rooted here, as far as it does not and no upstream
/// cache serves them. What each refers to must be among them, or kept already.
pub(crate) async fn publish(
    context: &Context,
    infos: Vec<Arc<PathInfo>>,
    right: v1::WorkRight,
) -> Result<(), TransferError> {
    let absent = absent(context, infos, right).await?;
    if absent.is_empty() {
        return Ok(());
    }
    let _permit = context.transfer.uploads.acquire().await.map_err(|_| TransferError::Interrupted)?;
    for group in groups(references_first(absent)) {
        send(context, &group, right).await?;
        context.gc_roots.release(group.iter().map(|info| &info.path));
    }
    Ok(())
}

/// Those that the coordinator lacks. It is told of those that it never heard of.
async fn absent(
    context: &Context,
    infos: Vec<Arc<PathInfo>>,
    right: v1::WorkRight,
) -> Result<Vec<Arc<PathInfo>>, TransferError> {
    let transfer = &context.transfer;
    let mut standings = transfer.look(infos.iter().map(|info| &info.path)).await?;
    let is_unknown = |info: &&Arc<PathInfo>| standings.get(&info.path) == Some(&Standing::Unknown);
    let strangers: Vec<_> = infos.iter().filter(is_unknown).cloned().collect();
    if !strangers.is_empty() {
        let answers = transfer.vouch(&references_first(strangers), right).await.map_err(void)?;
        standings.extend(answers);
    }
    let mut absent = Vec::new();
    for info in infos {
        match standings.get(&info.path) {
            Some(Standing::Kept) => context.gc_roots.release([&info.path]),
            Some(Standing::Upstream) => {}
            Some(Standing::Held | Standing::Lost) => absent.push(info),
            _ => return Err(TransferError::LocalOnly(info.path.clone())),
        }
    }
    Ok(absent)
}

/// Sends a group and registers it. All of it is tried again when the coordinator was not there, or lost a chunk.
async fn send(context: &Context, group: &[Arc<PathInfo>], right: v1::WorkRight) -> Result<(), TransferError> {
    let mut patience = Patience::default();
    loop {
        let error = match send_once(context, group, right).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let error = void(error);
        if matches!(error, TransferError::Daemon(_)) {
            context.lanes.forget_idle();
        }
        patience.after(error).await?;
    }
}

async fn send_once(
    context: &Context,
    group: &[Arc<PathInfo>],
    right: v1::WorkRight,
) -> Result<(), TransferError> {
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    let (chunks, received) = mpsc::channel(CUT_AHEAD);
    let daemon = &mut lane.daemon;
    let cutting = async {
        for (index, info) in group.iter().enumerate() {
            cut_path(daemon, &info.path, index, &chunks).await?;
        }
        drop(chunks);
        Ok(())
    };
    let ((), manifests) = tokio::try_join!(cutting, put(&context.transfer, received, group.len()))?;
    context.lanes.give_back(lane);
    register(&context.transfer, group, manifests, right).await
}

/// A later holder has the step, or nobody waits for it any more.
fn void(error: TransferError) -> TransferError {
    match error {
        TransferError::Coordinator(status) if matches!(status.code(), Code::Aborted | Code::NotFound) => {
            TransferError::Void(status)
        }
        other => other,
    }
}

/// Puts those chunks that the coordinator lacks, and says which chunks each archive has.
async fn put(
    transfer: &Transfer,
    cut: mpsc::Receiver<(usize, RawChunk)>,
    archives: usize,
) -> Result<Vec<v1::Manifest>, TransferError> {
    let (frames, sending) = mpsc::channel(IN_FLIGHT);
    let mut client = transfer.chunks();
    let putting = async { Ok(client.put(ReceiverStream::new(sending)).await?.into_inner().stored) };
    let choosing = choose(transfer, cut, archives, frames);
    let (stored, (manifests, sent)) = tokio::try_join!(putting, choosing)?;
    if stored == sent {
        return Ok(manifests);
    }
    Err(tonic::Status::unknown(format!("the coordinator took {stored} of {sent} chunks")).into())
}

async fn choose(
    transfer: &Transfer,
    cut: mpsc::Receiver<(usize, RawChunk)>,
    archives: usize,
    frames: mpsc::Sender<v1::Chunk>,
) -> Result<(Vec<v1::Manifest>, u64), TransferError> {
    let mut manifests = vec![v1::Manifest::default(); archives];
    let mut seen = BTreeSet::new();
    let mut sent = 0;
    let room = Arc::new(Semaphore::new(HELD_BYTES as usize));
    {
        let held = ReceiverStream::new(cut).then(|(archive, chunk)| hold(room.clone(), archive, chunk));
        let questions = held.chunks(ASKED_TOGETHER).map(|batch| {
            let mut fresh = BTreeMap::new();
            for held in batch {
                let held = held?;
                manifests[held.archive].chunks.push(held.reference());
                // Each once: answers to questions on their way do not know of each other.
                if seen.insert(held.chunk.digest) {
                    fresh.insert(held.chunk.digest, held);
                }
            }
            Ok::<_, TransferError>(lacking(transfer.chunks(), fresh))
        });
        let lacking = questions.try_buffered(ASKED_AT_ONCE);
        let lacking = lacking.map_ok(|held| stream::iter(held).map(Ok)).try_flatten();
        let mut sealed = std::pin::pin!(lacking.map_ok(seal).try_buffered(SEALED_AT_ONCE));
        while let Some(chunk) = sealed.try_next().await? {
            if frames.send(chunk).await.is_err() {
                // Its answer says why it takes no more.
                return std::future::pending().await;
            }
            sent += 1;
        }
    }
    Ok((manifests, sent))
}

/// A chunk in memory, and the room that it takes.
struct Held {
    archive: usize,
    chunk: RawChunk,
    _room: OwnedSemaphorePermit,
}

impl Held {
    fn size(chunk: &RawChunk) -> u32 {
        u32::try_from(chunk.data.len()).unwrap_or(u32::MAX)
    }

    fn reference(&self) -> v1::ChunkRef {
        v1::ChunkRef { digest: self.chunk.digest.0.to_vec().into(), size: Self::size(&self.chunk) }
    }
}

/// Waits for room for a chunk. Never for ever: a question is about less than there is room for.
async fn hold(room: Arc<Semaphore>, archive: usize, chunk: RawChunk) -> Result<Held, TransferError> {
    let permits = room.acquire_many_owned(Held::size(&chunk).min(HELD_BYTES));
    let permit = permits.await.map_err(|_| TransferError::Interrupted)?;
    Ok(Held { archive, chunk, _room: permit })
}

/// Those that the coordinator lacks.
async fn lacking(
    mut client: ChunksClient<Channel>,
    mut fresh: BTreeMap<Digest, Held>,
) -> Result<Vec<Held>, TransferError> {
    if fresh.is_empty() {
        return Ok(Vec::new());
    }
    let digests = fresh.keys().map(|digest| digest.0.to_vec().into()).collect();
    let reply = client.find_missing(v1::FindMissingRequest { digests }).await?;
    let missing = reply.into_inner().missing.into_iter();
    Ok(missing.filter_map(|digest| fresh.remove(&Digest::try_from(&*digest).ok()?)).collect())
}

async fn seal(held: Held) -> Result<v1::Chunk, TransferError> {
    let sealing = tokio::task::spawn_blocking(move || {
        let frame = seal_frame(&held.chunk);
        frame.map(|frame| v1::Chunk { digest: held.chunk.digest.0.to_vec().into(), frame })
    });
    let sealed = sealing.await.map_err(|_| TransferError::Interrupted)?;
    sealed.map_err(|_| TransferError::Interrupted)
}

async fn register(
    transfer: &Transfer,
    group: &[Arc<PathInfo>],
    manifests: Vec<v1::Manifest>,
    right: v1::WorkRight,
) -> Result<(), TransferError> {
    let paths: Vec<_> =
        group.iter().zip(manifests).map(|(info, manifest)| stored(info, manifest, right)).collect();
    match transfer.paths().register(stream::iter(paths.clone())).await {
        // It says this of one path, and took nothing after it.
        Err(status) if status.code() == Code::AlreadyExists => {}
        other => return other.map(drop).map_err(TransferError::from),
    }
    for (info, path) in group.iter().zip(paths) {
        match transfer.paths().register(stream::iter([path])).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                pass_over(transfer, &info.path, status).await?;
            }
            other => drop(other?),
        }
    }
    Ok(())
}

/// Another attempt was faster, with other bytes: what it brought stays, and serves as well. But it must be there.
async fn pass_over(transfer: &Transfer, path: &StorePath, refusal: Status) -> Result<(), TransferError> {
    match transfer.look([path]).await?.get(path) {
        Some(Standing::Kept | Standing::Upstream) => {
            tracing::warn!(%path, "not brought, it is kept already: {}", refusal.message());
            Ok(())
        }
        _ => Err(refusal.into()),
    }
}

fn stored(info: &PathInfo, manifest: v1::Manifest, right: v1::WorkRight) -> v1::StoredPath {
    v1::StoredPath { info: Some(to_wire(info)), manifest: Some(manifest), right: Some(right) }
}

fn groups(ordered: Vec<Arc<PathInfo>>) -> Vec<Vec<Arc<PathInfo>>> {
    let mut groups: Vec<Vec<Arc<PathInfo>>> = Vec::new();
    let mut bytes = 0;
    for info in ordered {
        bytes += info.nar_size;
        match groups.last_mut() {
            Some(group) if group.len() < GROUP_PATHS && bytes <= GROUP_BYTES => group.push(info),
            _ => {
                bytes = info.nar_size;
                groups.push(vec![info]);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use fleet_nix::NarHash;

    fn info(number: u32, nar_size: u64) -> Arc<PathInfo> {
        Arc::new(PathInfo {
            path: format!("{number:0>32}-x").parse().expect("a store path"),
            deriver: None,
            nar_hash: NarHash::of(b""),
            references: BTreeSet::new(),
            registration_time: 0,
            nar_size,
            ultimate: false,
            signatures: Vec::new(),
            content_address: None,
        })
    }

    #[test]
    fn small_paths_go_together_and_large_ones_alone() {
        let sizes = [1, GROUP_BYTES - 1, 1, GROUP_BYTES * 2, 1];
        let infos = sizes.iter().zip(0..).map(|(size, number)| info(number, *size)).collect();
        let lengths: Vec<usize> = groups(infos).iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        let many = (0..600).map(|number| info(number, 1)).collect();
        assert_eq!(groups(many).iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88]);
    }
}
