//! Who counts on which chunks and paths, for the collector. Owns its decisions and the gate before them: uses come
//! through together, a removal alone.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fleet_nix::StorePath;
use fleet_paths::collector::{ChunkKey, Collector, Condemned};
use fleet_store::{ChunkStore, Digest, StoreError};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The collector's decisions, shared by all that use the store.
#[derive(Clone, Debug)]
pub(crate) struct Usage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: RwLock<()>,
    collector: Mutex<Collector>,
    began: Instant,
    in_flight: Duration,
}

impl Usage {
    /// Goes on from what was condemned. What was used within `in_flight_s` is never removed.
    pub(crate) fn new(in_flight_s: u32, condemned: Condemned) -> Self {
        let collector = Mutex::new(Collector::new(in_flight_s, 0, condemned));
        let in_flight = Duration::from_secs(u64::from(in_flight_s));
        Self(Arc::new(Inner { gate: RwLock::new(()), collector, began: Instant::now(), in_flight }))
    }

    /// Seconds since the start, whatever the machine's clock says.
    pub(crate) fn now(&self) -> i64 {
        i64::try_from(self.0.began.elapsed().as_secs()).unwrap_or(i64::MAX)
    }

    /// While this is held, nothing is removed.
    pub(crate) async fn enter(&self) -> RwLockReadGuard<'_, ()> {
        self.0.gate.read().await
    }

    /// While this is held, nothing is used.
    pub(crate) async fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.0.gate.write().await
    }

    pub(crate) fn collector(&self) -> MutexGuard<'_, Collector> {
        // A decision that stopped half way condemned less than it might have.
        self.0.collector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decisions of its own that begin like these: nothing that follows from them is carried out.
    pub(crate) fn rehearsal(&self) -> Self {
        let collector = Mutex::new(self.collector().clone());
        let Inner { began, in_flight, .. } = &*self.0;
        Self(Arc::new(Inner { gate: RwLock::new(()), collector, began: *began, in_flight: *in_flight }))
    }

    /// Whether what was written then may be part of an upload that goes on.
    pub(crate) fn is_young(&self, written: SystemTime, now: SystemTime) -> bool {
        now.duration_since(written).is_ok_and(|age| age < self.0.in_flight)
    }

    /// Those of `digests` that are absent, in their order. The others stay for as long as an upload may take.
    pub(crate) async fn missing(
        &self,
        chunks: &ChunkStore,
        digests: Vec<Digest>,
    ) -> Result<Vec<Digest>, StoreError> {
        let _entered = self.enter().await;
        let missing = chunks.missing(digests.clone()).await?;
        // Of what is not here nothing is remembered: whoever asked for much of that would have everything stay.
        let absent: HashSet<&Digest> = missing.iter().collect();
        let here = digests.iter().filter(|digest| !absent.contains(digest));
        self.collector().use_chunks(self.now(), here.map(key));
        Ok(missing)
    }

    /// Keeps a frame for as long as an upload may take.
    pub(crate) async fn put(
        &self,
        chunks: &ChunkStore,
        digest: Digest,
        frame: Bytes,
    ) -> Result<(), StoreError> {
        let _entered = self.enter().await;
        self.collector().use_chunks(self.now(), [key(&digest)]);
        chunks.put(digest, frame).await
    }

    /// Somebody counts on these chunks.
    pub(crate) fn use_chunks(&self, digests: impl IntoIterator<Item = Digest>) {
        self.collector().use_chunks(self.now(), digests.into_iter().map(|digest| key(&digest)));
    }

    /// Somebody was told that these are here.
    pub(crate) fn use_paths<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) {
        self.collector().use_paths(self.now(), paths);
    }

    /// Lets nobody remove these chunks until the hold is dropped.
    pub(crate) fn hold<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Hold {
        let keys: Vec<ChunkKey> = digests.into_iter().map(key).collect();
        self.collector().hold(&keys);
        Hold { usage: self.clone(), keys }
    }
}

/// Chunks of a registration under way.
#[derive(Debug)]
pub(crate) struct Hold {
    usage: Usage,
    keys: Vec<ChunkKey>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.usage.collector().let_go(self.usage.now(), &self.keys);
    }
}

/// What the collector calls a chunk.
pub(crate) fn key(digest: &Digest) -> ChunkKey {
    let (first, _) = digest.0.split_first_chunk().expect("a digest has 32 bytes");
    ChunkKey::from_le_bytes(*first)
}
