//! Removes from the object store what nothing needs, now and then and when somebody asks. What goes is decided by the
//! collector of crates/paths; here it is told what there is and what is needed, and its word is carried out. Owns the
//! file of who is condemned, and that one pass goes on at a time.

mod condemned;
mod scrub;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fleet_nix::StorePath;
use fleet_paths::collector::{ChunkKey, Found, KeptPath, Verdict};
use fleet_paths::roots::Retention;
use fleet_store::{ChunkStore, Digest, Objects, StoreError};
use futures::{StreamExt, TryStreamExt};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::config::RetentionConfig;
use crate::paths::{PathTable, PathsError, Usage, key};
use crate::shell::{Input, Needed, RootsInput};

pub(crate) use condemned::Saved;
pub(crate) use scrub::Verified;

/// Paths, and chunks, that are removed while everybody else waits.
const BATCH: usize = 64;
/// How often a pass begins again because somebody used what was condemned.
const ATTEMPTS: usize = 4;
/// Chunks that can be told from one another: of 16 TB, about.
const MAX_CHUNKS: usize = 1 << 26;
/// Manifests read at a time.
const AT_ONCE: usize = 16;
/// Chunks between two words about how far it is.
const TELL_EVERY: u64 = 4096;

/// Why a pass came to nothing.
#[derive(Debug, Error)]
pub(crate) enum CollectError {
    #[error("another collection or check is under way")]
    Busy,
    #[error("the coordinator is stopping")]
    Stopping,
    #[error("more than {MAX_CHUNKS} chunks cannot be told from one another")]
    TooMany,
    #[error(transparent)]
    Paths(#[from] PathsError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How far a pass is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) looked_at: u64,
    pub(crate) condemned: u64,
    pub(crate) paths_removed: u64,
    pub(crate) chunks_removed: u64,
    pub(crate) bytes_removed: u64,
}

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To remove what nothing needs.
    Remove,
    /// To say what would be removed.
    Rehearse,
}

/// What was seen at the last look at all chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
}

/// Collections and checks of one store, shared by its clones.
#[derive(Clone, Debug)]
pub(crate) struct Collection {
    chunks: ChunkStore,
    table: PathTable,
    shell: mpsc::WeakSender<Input>,
    retention: RetentionConfig,
    saved: Saved,
    one: Arc<tokio::sync::Mutex<()>>,
    seen: Arc<Mutex<Seen>>,
}

impl Collection {
    pub(crate) fn new(
        objects: &Objects,
        table: PathTable,
        shell: mpsc::WeakSender<Input>,
        retention: RetentionConfig,
        state_dir: &Path,
    ) -> Self {
        let saved = Saved::new(state_dir);
        Self {
            chunks: objects.chunks(),
            table,
            shell,
            retention,
            saved,
            one: Arc::default(),
            seen: Arc::default(),
        }
    }

    /// Collects now and then, until the coordinator is gone.
    pub(crate) async fn run(self) {
        let every = Duration::from_secs(u64::from(self.retention.every_s));
        let mut due = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            match self.collect(Purpose::Remove, None, |_| {}).await {
                Ok(Progress { paths_removed: 0, chunks_removed: 0, .. }) | Err(CollectError::Busy) => {}
                Ok(done) => tracing::info!(
                    paths = done.paths_removed,
                    chunks = done.chunks_removed,
                    bytes = done.bytes_removed,
                    "removed what nothing needs"
                ),
                Err(CollectError::Stopping) => return,
                Err(error) => {
                    tracing::error!("nothing is collected: {}", fleet_telemetry::with_causes(&error));
                }
            }
        }
    }

    /// What was seen at the last look at all chunks.
    pub(crate) fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One pass over everything; tells now and then how far it is. Without a grace the configured one counts.
    pub(crate) async fn collect(
        &self,
        purpose: Purpose,
        grace_s: Option<u64>,
        mut tell: impl FnMut(Progress) + Send,
    ) -> Result<Progress, CollectError> {
        let _one = self.one.try_lock().map_err(|_| CollectError::Busy)?;
        let usage = match purpose {
            Purpose::Remove => self.table.usage().clone(),
            Purpose::Rehearse => self.table.usage().rehearsal(),
        };
        let pass =
            Pass { of: self, purpose, grace_s: grace_s.unwrap_or(u64::from(self.retention.grace_s)), usage };
        let mut progress = Progress::default();
        let result = pass.go(&mut progress, &mut tell).await;
        pass.usage.collector().end();
        result?;
        if purpose == Purpose::Remove {
            let condemned = pass.usage.collector().condemned(pass.usage.now());
            self.saved.write(condemned).await;
        }
        let (paths, chunks) = pass.usage.collector().counts();
        progress.condemned = (paths + chunks) as u64;
        Ok(progress)
    }

    async fn needed(&self) -> Result<Needed, CollectError> {
        let shell = self.shell.upgrade().ok_or(CollectError::Stopping)?;
        let retention = Retention { runs: self.retention.runs, age_s: u64::from(self.retention.age_s) };
        let (reply, answer) = oneshot::channel();
        let asked = shell.send(Input::Roots(RootsInput::Needed(retention, reply))).await;
        asked.map_err(|_| CollectError::Stopping)?;
        answer.await.ok().and_then(Result::ok).ok_or(CollectError::Stopping)
    }
}

/// One pass.
struct Pass<'a> {
    of: &'a Collection,
    purpose: Purpose,
    grace_s: u64,
    usage: Usage,
}

impl Pass<'_> {
    async fn go(
        &self,
        progress: &mut Progress,
        tell: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), CollectError> {
        let mut needed = HashSet::new();
        for _ in 0..ATTEMPTS {
            let wanted = self.of.needed().await?;
            let paths;
            (needed, paths) = self.begin(wanted).await?;
            progress.looked_at = paths;
            if self.remove_paths(progress).await? {
                break;
            }
        }
        let left = self.keys_of(self.of.table.kept().into_iter().map(|(path, _)| path)).await?;
        self.remove_chunks(&needed, &left, progress, tell).await
    }

    /// Condemns paths; answers the chunks that are needed, and how many paths there are.
    async fn begin(&self, wanted: Needed) -> Result<(HashSet<ChunkKey>, u64), CollectError> {
        let all = self.of.table.kept().into_iter().map(|(path, _)| path);
        let found = futures::stream::iter(all).map(|path| async move {
            let summary = self.of.table.summary(&path).await?;
            Ok::<_, PathsError>(
                summary.map(|summary| KeptPath { path, references: summary.references.clone() }),
            )
        });
        let found = found.buffer_unordered(AT_ONCE).try_filter_map(|kept| std::future::ready(Ok(kept)));
        let kept: Vec<KeptPath> = found.try_collect().await?;
        let (usage, grace_s) = (self.usage.clone(), self.grace_s);
        let paths = kept.len() as u64;
        let marked = tokio::task::spawn_blocking(move || {
            let needed = usage.collector().begin(usage.now(), grace_s, &kept, &wanted.paths);
            let needed: Vec<StorePath> = needed.into_iter().cloned().collect();
            (needed, wanted.chunks)
        });
        let (needed, sources) = marked.await.map_err(|_| CollectError::Stopping)?;
        let mut keys = self.keys_of(needed.into_iter()).await?;
        keys.extend(sources.iter().map(key));
        Ok((keys, paths))
    }

    /// Chunks of these paths.
    async fn keys_of(
        &self,
        paths: impl Iterator<Item = StorePath> + Send,
    ) -> Result<HashSet<ChunkKey>, CollectError> {
        let mut keys = HashSet::new();
        for path in paths {
            if let Some(summary) = self.of.table.summary(&path).await? {
                keys.extend(summary.chunks.iter().copied());
            }
            if keys.len() > MAX_CHUNKS {
                return Err(CollectError::TooMany);
            }
        }
        Ok(keys)
    }

    /// Removes the paths whose time has come; false when somebody used one that was condemned.
    async fn remove_paths(&self, progress: &mut Progress) -> Result<bool, CollectError> {
        loop {
            let _alone = self.usage.alone().await;
            let Some(going) = self.usage.collector().take_going(BATCH) else { return Ok(false) };
            if going.is_empty() {
                return Ok(true);
            }
            if self.purpose == Purpose::Remove {
                self.of.table.remove(&going).await?;
            }
            progress.paths_removed += going.len() as u64;
        }
    }

    async fn remove_chunks(
        &self,
        needed: &HashSet<ChunkKey>,
        left: &HashSet<ChunkKey>,
        progress: &mut Progress,
        tell: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), CollectError> {
        let (mut seen, mut going) = (Seen::default(), Vec::with_capacity(BATCH));
        let mut all = self.of.chunks.list();
        while let Some(chunk) = all.try_next().await? {
            (seen.chunks, seen.bytes) = (seen.chunks + 1, seen.bytes + chunk.size);
            progress.looked_at += 1;
            let name = key(&chunk.name);
            let found = Found {
                needed: needed.contains(&name),
                referred: self.is_left(name, needed, left),
                young: self.usage.is_young(chunk.modified, SystemTime::now()),
            };
            let verdict = self.usage.collector().judge(self.usage.now(), self.grace_s, name, found);
            if verdict == Verdict::Goes {
                going.push((chunk.name, chunk.size));
            }
            if going.len() == BATCH {
                self.remove_batch(&mut going, progress).await?;
            }
            if seen.chunks.is_multiple_of(TELL_EVERY) {
                tell(*progress);
            }
        }
        self.remove_batch(&mut going, progress).await?;
        let gone = Seen { chunks: progress.chunks_removed, bytes: progress.bytes_removed };
        let rehearsed = self.purpose == Purpose::Rehearse;
        let gone = if rehearsed { Seen::default() } else { gone };
        let still = Seen { chunks: seen.chunks - gone.chunks, bytes: seen.bytes - gone.bytes };
        *self.of.seen.lock().unwrap_or_else(PoisonError::into_inner) = still;
        Ok(())
    }

    /// Whether a path that stays consists of it. In a rehearsal, the paths that would go are still there.
    fn is_left(&self, name: ChunkKey, needed: &HashSet<ChunkKey>, left: &HashSet<ChunkKey>) -> bool {
        match self.purpose {
            Purpose::Remove => left.contains(&name),
            Purpose::Rehearse => needed.contains(&name),
        }
    }

    async fn remove_batch(
        &self,
        going: &mut Vec<(Digest, u64)>,
        progress: &mut Progress,
    ) -> Result<(), CollectError> {
        let _alone = self.usage.alone().await;
        going.retain(|(name, _)| self.usage.collector().may_go(key(name)));
        progress.chunks_removed += going.len() as u64;
        progress.bytes_removed += going.iter().map(|(_, size)| size).sum::<u64>();
        let names: Vec<Digest> = going.drain(..).map(|(name, _)| name).collect();
        if self.purpose == Purpose::Remove && !names.is_empty() {
            self.of.chunks.delete(names).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
