//! Paths of the local store to the coordinator: their chunks, as far as it lacks them, then the paths themselves,
//! each after its references.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use fleet_nix::PathInfo;
use fleet_nix::store_path::StorePath;
use fleet_store::{Digest, RawChunk, seal_frame};
use fleet_wire::v1;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::archive::cut_path;
use super::{Patience, Transfer, TransferError};
use crate::context::Context;
use crate::lane::Purpose;

/// Chunks, of at most 1 MiB, that were cut and not looked at.
const CUT_AHEAD: usize = 4;
/// Chunks that one question is about.
const ASKED_TOGETHER: usize = 16;
/// Frames on their way.
const IN_FLIGHT: usize = 4;
/// Bytes and number of paths that are registered together; what is larger goes alone.
const GROUP_BYTES: u64 = 64 << 20;
const GROUP_PATHS: usize = 256;

/// By which right this worker brings paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// They are outputs of a lease's steps.
    Lease { lease: u64, epoch: u64 },
    /// An evaluation needs them elsewhere.
    Eval { job: u64, epoch: u64 },
}

/// Has the coordinator keep `paths`, which must be valid and rooted here. What it keeps already costs a question.
pub(crate) async fn publish(
    context: &Context,
    paths: &BTreeSet<StorePath>,
    right: Right,
) -> Result<(), TransferError> {
    let transfer = &context.transfer;
    if let Right::Lease { .. } = right {
        // After an absence the lease may be somebody else's: the coordinator says so first.
        context.presence.confirmed().await;
    }
    let stored = transfer.stored(paths).await?;
    let mut absent: Vec<StorePath> = paths.difference(&stored).cloned().collect();
    if absent.is_empty() {
        return Ok(());
    }
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    let infos = lane.daemon.query_path_infos(&absent).await?;
    context.lanes.give_back(lane);
    let mut known = BTreeMap::new();
    for (path, info) in absent.drain(..).zip(infos) {
        known.insert(path.clone(), info.ok_or(TransferError::Vanished(path))?);
    }
    let _permit = transfer.uploads.acquire().await.map_err(|_| TransferError::Interrupted)?;
    for group in groups(references_first(known)) {
        send(context, &group, right).await?;
    }
    Ok(())
}

/// Sends a group and registers it. All of it is tried again when the coordinator was not there, or lost a chunk.
async fn send(context: &Context, group: &[PathInfo], right: Right) -> Result<(), TransferError> {
    let mut patience = Patience::default();
    loop {
        let error = match send_once(context, group, right).await {
            Ok(()) => return Ok(()),
            Err(TransferError::Coordinator(status)) if is_void(status.code()) => {
                return Err(TransferError::Void(status));
            }
            Err(error) => error,
        };
        if matches!(error, TransferError::Daemon(_)) {
            context.lanes.forget_idle();
        }
        patience.after(error).await?;
    }
}

async fn send_once(context: &Context, group: &[PathInfo], right: Right) -> Result<(), TransferError> {
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
fn is_void(code: Code) -> bool {
    matches!(code, Code::Aborted | Code::NotFound)
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
    let mut sent = 0;
    let mut batches = std::pin::pin!(ReceiverStream::new(cut).ready_chunks(ASKED_TOGETHER));
    while let Some(batch) = batches.next().await {
        let mut fresh = BTreeMap::new();
        for (archive, chunk) in batch {
            let size = u32::try_from(chunk.data.len()).unwrap_or(u32::MAX);
            let digest = chunk.digest.0.to_vec().into();
            manifests[archive].chunks.push(v1::ChunkRef { digest, size });
            fresh.insert(chunk.digest, chunk);
        }
        let digests = fresh.keys().map(|digest| digest.0.to_vec().into()).collect();
        let reply = transfer.chunks().find_missing(v1::FindMissingRequest { digests }).await?;
        for digest in reply.into_inner().missing {
            let Some(chunk) = Digest::try_from(&*digest).ok().and_then(|digest| fresh.remove(&digest)) else {
                continue;
            };
            let sealing = tokio::task::spawn_blocking(move || seal_frame(&chunk));
            let frame = sealing.await.map_err(|_| TransferError::Interrupted)?;
            let frame = frame.map_err(|_| TransferError::Interrupted)?;
            if frames.send(v1::Chunk { digest, frame }).await.is_err() {
                // Its answer says why it takes no more.
                return std::future::pending().await;
            }
            sent += 1;
        }
    }
    Ok((manifests, sent))
}

async fn register(
    transfer: &Transfer,
    group: &[PathInfo],
    manifests: Vec<v1::Manifest>,
    right: Right,
) -> Result<(), TransferError> {
    let paths: Vec<_> =
        group.iter().zip(manifests).map(|(info, manifest)| to_wire(info, manifest, right)).collect();
    match transfer.paths().register(futures::stream::iter(paths)).await {
        Ok(_) => Ok(()),
        // Another attempt was faster, with other bytes: what it brought stays, and serves as well.
        Err(status) if status.code() == Code::AlreadyExists => {
            tracing::warn!("{}", status.message());
            Ok(())
        }
        Err(status) => Err(status.into()),
    }
}

fn to_wire(info: &PathInfo, manifest: v1::Manifest, right: Right) -> v1::StoredPath {
    let (lease, eval_job, epoch) = match right {
        Right::Lease { lease, epoch } => (lease, 0, epoch),
        Right::Eval { job, epoch } => (0, job, epoch),
    };
    v1::StoredPath {
        info: Some(v1::PathInfo {
            path: info.path.to_string(),
            nar_hash: info.nar_hash.0.to_vec().into(),
            nar_size: info.nar_size,
            references: info.references.iter().map(ToString::to_string).collect(),
            deriver: info.deriver.as_ref().map(ToString::to_string).unwrap_or_default(),
            ..v1::PathInfo::default()
        }),
        manifest: Some(manifest),
        content_address: info.content_address.as_ref().map(ToString::to_string).unwrap_or_default(),
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        lease,
        epoch,
        eval_job,
        right: None,
    }
}

/// Depth first, with a stack of our own.
fn references_first(mut infos: BTreeMap<StorePath, PathInfo>) -> Vec<PathInfo> {
    let mut ordered = Vec::with_capacity(infos.len());
    let mut entered = HashSet::new();
    let mut stack: Vec<StorePath> = infos.keys().cloned().collect();
    while let Some(path) = stack.last().cloned() {
        let Some(info) = infos.get(&path) else {
            stack.pop();
            continue;
        };
        if entered.insert(path.clone()) {
            stack.extend(info.references.iter().filter(|reference| infos.contains_key(*reference)).cloned());
        } else {
            stack.pop();
            ordered.extend(infos.remove(&path));
        }
    }
    ordered
}

fn groups(ordered: Vec<PathInfo>) -> Vec<Vec<PathInfo>> {
    let mut groups: Vec<Vec<PathInfo>> = Vec::new();
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
    use super::*;
    use fleet_nix::NarHash;

    fn info(number: u32, references: &[u32], nar_size: u64) -> PathInfo {
        PathInfo {
            path: path(number),
            deriver: None,
            nar_hash: NarHash::of(b""),
            references: references.iter().map(|number| path(*number)).collect(),
            registration_time: 0,
            nar_size,
            ultimate: false,
            signatures: Vec::new(),
            content_address: None,
        }
    }

    fn path(number: u32) -> StorePath {
        format!("{number:0>32}-x").parse().expect("a store path")
    }

    #[test]
    fn references_come_first_and_those_to_itself_or_elsewhere_do_not_matter() {
        let infos = [info(1, &[1, 2, 9], 1), info(2, &[3], 1), info(3, &[], 1), info(4, &[1, 3], 1)];
        let ordered = references_first(infos.into_iter().map(|info| (info.path.clone(), info)).collect());
        let at = |number| ordered.iter().position(|info| info.path == path(number)).expect("it is there");
        assert_eq!(ordered.len(), 4);
        assert!(at(3) < at(2) && at(2) < at(1) && at(1) < at(4));
    }

    #[test]
    fn a_deep_chain_is_no_recursion() {
        let infos = (0..100_000).map(|number| info(number, &[number + 1], 1));
        let ordered = references_first(infos.map(|info| (info.path.clone(), info)).collect());
        assert_eq!(ordered.first().map(|info| info.path.clone()), Some(path(99_999)));
    }

    #[test]
    fn small_paths_go_together_and_large_ones_alone() {
        let sizes = [1, GROUP_BYTES - 1, 1, GROUP_BYTES * 2, 1];
        let infos = sizes.iter().zip(0..).map(|(size, number)| info(number, &[], *size)).collect();
        let lengths: Vec<usize> = groups(infos).iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1, 1]);
        let many = (0..600).map(|number| info(number, &[], 1)).collect();
        assert_eq!(groups(many).iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88]);
    }
}
