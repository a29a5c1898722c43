//! Paths that a job needs, into the local store: what the coordinator keeps comes from there, the rest from the
//! daemon's substituters. What the coordinator keeps was built by this fleet, and no substituter has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use fleet_nix::DerivedPath;
use fleet_nix::daemon::{CheckSignatures, Daemon, DaemonError, Substitute, ignore};
use fleet_nix::store_path::StorePath;
use fleet_nix::{NarHash, PathInfo};
use fleet_store::Digest;
use fleet_wire::v1;
use tokio::io::AsyncReadExt;
use tonic::Status;

use super::chunk_reader::{ChunkReadError, ChunkReader};
use super::{Patience, Transfer, TransferError, store_path};
use crate::context::Context;
use crate::lane::Purpose;

/// Paths of which one fetch may consist.
const MAX_FETCHED: usize = 1 << 18;

/// A path as the coordinator keeps it.
struct Kept {
    info: PathInfo,
    digests: Vec<Digest>,
}

/// Makes `paths` valid, with all they refer to, by the right of a lease or job that needs them. They must be rooted.
pub(crate) async fn make_valid(
    context: &Context,
    paths: &BTreeSet<StorePath>,
    _right: v1::WorkRight,
) -> Result<(), TransferError> {
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    let absent = absent(&mut lane.daemon, paths).await?;
    if absent.is_empty() || !context.relays() {
        substitute(context, &mut lane.daemon, absent).await?;
        context.lanes.give_back(lane);
        return Ok(());
    }
    let kept = described(&context.transfer, &absent).await?;
    let ours: BTreeSet<StorePath> = kept.iter().map(|kept| kept.info.path.clone()).collect();
    let references = kept.iter().flat_map(|kept| &kept.info.references).cloned();
    let others: BTreeSet<StorePath> =
        references.chain(absent).filter(|reference| !ours.contains(reference)).collect();
    context.roots.hold(ours.iter().chain(&others)).await?;
    let others = self::absent(&mut lane.daemon, &others).await?;
    substitute(context, &mut lane.daemon, others).await?;
    context.lanes.give_back(lane);
    import(context, kept, ours).await
}

/// Brings what a step needs that will probably be leased to us. Ends quietly: the lease brings what is lacking then.
pub(crate) async fn prefetch(context: Arc<Context>, order: v1::Prefetch) {
    let inputs: Result<BTreeSet<StorePath>, _> = order.inputs.iter().map(|path| store_path(path)).collect();
    let (Ok(inputs), Some(right)) = (inputs, order.right) else {
        tracing::debug!(drv = order.drv, "a hint that cannot be read");
        return;
    };
    let brought = async {
        context.roots.hold(&inputs).await?;
        make_valid(&context, &inputs, right).await
    };
    if let Err(error) = brought.await {
        tracing::debug!(drv = order.drv, error = &error as &dyn std::error::Error, "inputs were not brought early");
    }
}

async fn absent(
    daemon: &mut Daemon,
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, DaemonError> {
    let valid = daemon.query_valid_paths(paths, Substitute::No).await?;
    Ok(paths.difference(&valid).cloned().collect())
}

async fn substitute(
    context: &Context,
    daemon: &mut Daemon,
    absent: BTreeSet<StorePath>,
) -> Result<(), TransferError> {
    if absent.is_empty() {
        return Ok(());
    }
    let absent: Vec<_> = absent.into_iter().map(DerivedPath::Opaque).collect();
    let results = daemon.build_paths_with_results(&absent, &mut ignore).await?;
    match results.into_iter().find(|(_, result)| !result.status.is_success()) {
        Some((path, result)) => {
            let (DerivedPath::Opaque(path) | DerivedPath::Built { drv: path, .. }) = path;
            let path = context.store_dir.print(&path);
            Err(TransferError::InputMissing { path, cause: result.error_message })
        }
        None => Ok(()),
    }
}

/// What the coordinator keeps of `absent` and of their closures, references first.
async fn described(transfer: &Transfer, absent: &BTreeSet<StorePath>) -> Result<Vec<Kept>, TransferError> {
    let stored = transfer.stored(absent).await?;
    if stored.is_empty() {
        return Ok(Vec::new());
    }
    let mut patience = Patience::default();
    loop {
        match described_once(transfer, &stored).await {
            Ok(kept) => return Ok(kept),
            Err(error) => patience.after(error).await?,
        }
    }
}

async fn described_once(
    transfer: &Transfer,
    stored: &BTreeSet<StorePath>,
) -> Result<Vec<Kept>, TransferError> {
    let paths = stored.iter().map(ToString::to_string).collect();
    let mut described = transfer.paths().describe(v1::DescribeRequest { paths }).await?.into_inner();
    let mut kept = Vec::new();
    while let Some(path) = described.message().await? {
        if kept.len() == MAX_FETCHED {
            return Err(TransferError::Described(format!("more than {MAX_FETCHED} paths")));
        }
        kept.push(read_kept(path)?);
    }
    Ok(kept)
}

fn read_kept(described: v1::StoredPath) -> Result<Kept, TransferError> {
    let info = described.info.unwrap_or_default();
    let path = store_path(&info.path)?;
    let wrong = |what: &str| TransferError::Described(format!("{path} has a bad {what}"));
    let content_address = Some(&described.content_address).filter(|text| !text.is_empty());
    let chunks = described.manifest.unwrap_or_default().chunks;
    let digests = chunks.iter().map(|chunk| Digest::try_from(&*chunk.digest));
    Ok(Kept {
        digests: digests.collect::<Result<_, _>>().map_err(|_| wrong("chunk"))?,
        info: PathInfo {
            deriver: Some(&info.deriver).filter(|p| !p.is_empty()).map(|p| store_path(p)).transpose()?,
            nar_hash: NarHash(info.nar_hash.as_ref().try_into().map_err(|_| wrong("NAR hash"))?),
            references: info.references.iter().map(|path| store_path(path)).collect::<Result<_, _>>()?,
            registration_time: 0,
            nar_size: info.nar_size,
            ultimate: false,
            signatures: described.signatures.iter().filter_map(|text| text.parse().ok()).collect(),
            content_address: content_address
                .map(|text| text.parse().map_err(|_| wrong("content address")))
                .transpose()?,
            path: path.clone(),
        },
    })
}

/// Imports those of `kept` that are absent. What came before a stream broke stays.
async fn import(context: &Context, kept: Vec<Kept>, names: BTreeSet<StorePath>) -> Result<(), TransferError> {
    if kept.is_empty() {
        return Ok(());
    }
    let _claim = context.transfer.fetching.take(names.clone()).await;
    let _permit = context.transfer.fetches.acquire().await.map_err(|_| TransferError::Interrupted)?;
    let mut patience = Patience::default();
    loop {
        let Err(error) = import_once(context, &kept, &names).await else { return Ok(()) };
        if matches!(error, TransferError::Daemon(_)) {
            context.lanes.forget_idle();
        }
        patience.after(error).await?;
    }
}

async fn import_once(
    context: &Context,
    kept: &[Kept],
    names: &BTreeSet<StorePath>,
) -> Result<(), TransferError> {
    let mut lane = context.lanes.take(Purpose::Substitute).await?;
    let absent = absent(&mut lane.daemon, names).await?;
    let wanted: Vec<&Kept> = kept.iter().filter(|kept| absent.contains(&kept.info.path)).collect();
    if !wanted.is_empty() {
        let digests: Vec<Digest> = wanted.iter().flat_map(|kept| kept.digests.iter().copied()).collect();
        let reader = ChunkReader::new(&context.transfer, &digests);
        let entries = wanted.iter().map(|kept| {
            let nar = reader.clone().take(kept.info.nar_size);
            Ok((kept.info.clone(), nar))
        });
        let entries = futures::stream::iter(entries.collect::<Vec<_>>());
        lane.daemon
            .add_multiple_to_store(wanted.len() as u64, entries, CheckSignatures::No, &mut ignore)
            .await
            .map_err(import_error)?;
    }
    context.lanes.give_back(lane);
    Ok(())
}

fn import_error(error: DaemonError) -> TransferError {
    let source = match error {
        DaemonError::Source(source) => source,
        DaemonError::Remote(remote) if remote.message.contains("lacks a signature by a trusted key") => {
            return TransferError::NotTrusted(remote.message);
        }
        DaemonError::Remote(remote) => return TransferError::Refused(remote.into()),
        other => return TransferError::Daemon(other),
    };
    match ChunkReadError::find(source) {
        Ok(ChunkReadError::Coordinator(status)) => TransferError::Coordinator(status),
        // As when it does not answer: the chunks that it has not sent are asked for again.
        Ok(ended @ ChunkReadError::Ended(_)) => Status::unknown(ended.to_string()).into(),
        Ok(damaged) => TransferError::Damaged(damaged),
        Err(other) => TransferError::Described(other.to_string()),
    }
}
