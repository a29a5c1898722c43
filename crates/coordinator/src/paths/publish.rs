//! What is served to everybody: a path when it is marked, which it is only after all it refers to. Taking a mark away
//! goes the other way round.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fleet_nix::{PathInfo, StorePath};
use fleet_store::{Manifest, StoreError};
use futures::{StreamExt, TryStreamExt};

use super::index::Summary;
use super::{PathTable, PathsError};

/// Manifests read, and marks set, at a time.
const AT_ONCE: usize = 16;

impl PathTable {
    /// Serves these paths to everybody, once they are kept. What they refer to is among them, published before, or one
    /// of `upstream`. Doing so twice is nothing; after a failure what is published has all its references.
    pub(crate) async fn publish(
        &self,
        paths: &[StorePath],
        upstream: &HashSet<StorePath>,
    ) -> Result<(), PathsError> {
        self.usage.use_paths(paths);
        let mut news = paths.to_vec();
        news.retain(|path| !self.index.is_published(path));
        let summaries = futures::stream::iter(news).map(|path| async move {
            let summary = self.summary(&path).await?;
            let summary = summary.ok_or_else(|| PathsError::NotKept { path: path.to_string() })?;
            Ok::<_, PathsError>((path, summary))
        });
        let mut waiting: HashMap<StorePath, Arc<Summary>> =
            summaries.buffer_unordered(AT_ONCE).try_collect().await?;
        while !waiting.is_empty() {
            let _entered = self.usage.enter().await;
            let _marking = self.marking.lock().await;
            let is_there = |path: &StorePath, reference: &StorePath| {
                reference == path || upstream.contains(reference) || self.index.is_published(reference)
            };
            let ready: Vec<StorePath> = waiting
                .iter()
                .filter(|(path, summary)| summary.references.iter().all(|other| is_there(path, other)))
                .map(|(path, _)| path.clone())
                .collect();
            if ready.is_empty() {
                return Err(unready(&waiting, is_there));
            }
            if let Some(lost) = ready.iter().find(|path| !self.index.has(path)) {
                return Err(PathsError::NotKept { path: lost.to_string() });
            }
            let mut marks = Vec::with_capacity(ready.len());
            for path in &ready {
                marks.push(self.published.set(path.as_str()));
            }
            futures::stream::iter(marks).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            for path in &ready {
                waiting.remove(path);
                self.index.publish(path, true);
            }
        }
        Ok(())
    }

    /// The published path with this hash part: what it is (without signatures of ours) and where its bytes are.
    pub(crate) async fn published(
        &self,
        hash_part: &str,
    ) -> Result<Option<(PathInfo, Manifest)>, PathsError> {
        let Some(path) = self.index.published(hash_part) else { return Ok(None) };
        self.usage.use_paths([&path]);
        self.read(&path).await
    }

    /// Takes the marks of these, and of all that refers to them, away: first of what refers to others.
    pub(super) async fn unpublish(&self, paths: &[StorePath]) -> Result<(), PathsError> {
        let mut users: HashMap<StorePath, Vec<StorePath>> = HashMap::new();
        for (path, published) in self.index.all() {
            // One that cannot be read is forgotten when somebody asks for it.
            let known = self.index.summary(&path);
            let summary = match known.filter(|_| published) {
                None if published => {
                    self.load(&path).await?.map(|(info, read)| self.summarise(&path, info, &read))
                }
                known => known,
            };
            if let Some(summary) = summary {
                for reference in summary.references.iter().filter(|reference| **reference != path) {
                    users.entry(reference.clone()).or_default().push(path.clone());
                }
            }
        }
        for path in users_first(paths, &users) {
            if self.index.is_published(&path) {
                // From here on nobody is told of it.
                self.index.publish(&path, false);
                self.published.clear(&[path.hash_part().to_owned()]).await?;
            }
        }
        Ok(())
    }

    /// What a path refers to and consists of.
    pub(crate) async fn summary(&self, path: &StorePath) -> Result<Option<Arc<Summary>>, PathsError> {
        if let Some(known) = self.index.summary(path) {
            return Ok(Some(known));
        }
        let Some((info, manifest)) = self.read(path).await? else { return Ok(None) };
        Ok(Some(self.summarise(path, info, &manifest)))
    }

    fn summarise(&self, path: &StorePath, info: PathInfo, manifest: &Manifest) -> Arc<Summary> {
        let summary = Summary::new(info.references.into_iter().collect(), info.nar_size, manifest);
        let summary = Arc::new(summary);
        self.index.note(path, Arc::clone(&summary));
        summary
    }

    /// A kept path as it was noted. One whose manifest is damaged is kept no more.
    pub(super) async fn read(&self, path: &StorePath) -> Result<Option<(PathInfo, Manifest)>, PathsError> {
        let found = self.load(path).await?;
        if found.is_none() {
            self.forget(path, "its manifest is damaged or gone").await?;
        }
        Ok(found)
    }

    async fn load(&self, path: &StorePath) -> Result<Option<(PathInfo, Manifest)>, StoreError> {
        let read = match self.manifests.read(path.as_str()).await {
            Ok(Some(manifest)) => super::note(path.as_str(), &manifest).map(|info| Some((info, manifest))),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match read {
            Err(StoreError::DamagedManifest(_)) => Ok(None),
            other => other,
        }
    }
}

/// These and all that leads to them, each after what refers to it.
fn users_first(paths: &[StorePath], users: &HashMap<StorePath, Vec<StorePath>>) -> Vec<StorePath> {
    enum Visit<'a> {
        Enter(&'a StorePath),
        Leave(&'a StorePath),
    }
    let (mut seen, mut order) = (HashSet::new(), Vec::new());
    let mut stack: Vec<Visit<'_>> = paths.iter().map(Visit::Enter).collect();
    while let Some(visit) = stack.pop() {
        match visit {
            Visit::Leave(path) => order.push(path.clone()),
            Visit::Enter(path) if seen.insert(path) => {
                stack.push(Visit::Leave(path));
                stack.extend(users.get(path).into_iter().flatten().map(Visit::Enter));
            }
            Visit::Enter(_) => {}
        }
    }
    order
}

/// Which reference keeps something from being published; the least, so that one fault is always told alike.
fn unready(
    waiting: &HashMap<StorePath, Arc<Summary>>,
    is_there: impl Fn(&StorePath, &StorePath) -> bool,
) -> PathsError {
    let lacking = waiting.iter().flat_map(|(path, summary)| {
        let absent = summary.references.iter().filter(|other| !waiting.contains_key(*other));
        absent
            .filter(|other| !is_there(path, other))
            .map(|other| (path.to_string(), other.to_string()))
            .collect::<Vec<_>>()
    });
    // Without one, they refer to each other in a circle, which no store can.
    let (path, reference) = lacking.min().unwrap_or_default();
    PathsError::NoReference { path, reference }
}
