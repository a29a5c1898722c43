//! What runs in this process left behind: the chunks of their sources. Nothing needs them once a run is over; they only
//! make the next one of a similar tree faster.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fleet_store::{Objects, Place, StoreError};
use futures::TryStreamExt;
use serde::Serialize;

use super::cache::Collected;
use crate::args::CacheGcArgs;
use crate::error::CliError;
use crate::listing::{self, bytes};
use crate::output;
use crate::progress::plural;

/// A run may take as long, and needs its chunks until its last host is evaluated.
const GRACE: Duration = Duration::from_hours(24);
/// Chunks removed at once.
const BATCH: usize = 1000;

#[derive(Serialize)]
struct HereJson {
    place: String,
    chunks: u64,
    chunk_bytes: u64,
}

/// Prints how many there are.
pub(super) async fn info(state_dir: &Path, json: bool) -> Result<(), CliError> {
    let place = state_dir.join("objects");
    let (mut chunks, mut chunk_bytes) = (0, 0);
    if place.is_dir() {
        let store =
            Objects::open(&Place::Directory(place.clone())).map_err(|error| unreadable(&error))?.chunks();
        let mut listed = store.list();
        while let Some(chunk) = listed.try_next().await.map_err(|error| unreadable(&error))? {
            chunks += 1;
            chunk_bytes += chunk.size;
        }
    }
    let place = place.display().to_string();
    if json {
        return output::print(&listing::document(HereJson { place, chunks, chunk_bytes }));
    }
    let count = plural(usize::try_from(chunks).unwrap_or(usize::MAX), "chunk");
    output::print(&format!("sources of runs in this process: {count}, {}, in {place}\n", bytes(chunk_bytes)))
}

/// Removes those that are older than the grace.
pub(super) async fn collect(state_dir: &Path, args: &CacheGcArgs) -> Result<Collected, CliError> {
    let mut collected = Collected { dry_run: args.dry_run, ..Collected::default() };
    let place = state_dir.join("objects");
    if !place.is_dir() {
        return Ok(collected);
    }
    let store = Objects::open(&Place::Directory(place)).map_err(|error| unreadable(&error))?.chunks();
    let grace = args.grace.unwrap_or(GRACE);
    let now = SystemTime::now();
    let (mut listed, mut batch) = (store.list(), Vec::new());
    while let Some(chunk) = listed.try_next().await.map_err(|error| unreadable(&error))? {
        collected.looked_at += 1;
        // One from the future is as good as new.
        if now.duration_since(chunk.modified).is_ok_and(|age| age >= grace) {
            collected.chunks_removed += 1;
            collected.bytes_removed += chunk.size;
            batch.push(chunk.name);
        }
        if batch.len() == BATCH {
            let batch = std::mem::take(&mut batch);
            remove(&store, batch, args.dry_run).await?;
        }
    }
    remove(&store, batch, args.dry_run).await?;
    Ok(collected)
}

async fn remove(
    store: &fleet_store::ChunkStore,
    batch: Vec<fleet_store::Digest>,
    dry_run: bool,
) -> Result<(), CliError> {
    if dry_run || batch.is_empty() {
        return Ok(());
    }
    store.delete(batch).await.map_err(|error| unreadable(&error))
}

fn unreadable(error: &StoreError) -> CliError {
    CliError::new(fleet_telemetry::with_causes(error))
        .next("Check the state directory; `fleetctl config show` names it")
}
