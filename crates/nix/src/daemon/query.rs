//! Questions about what is in the store and what is not.

use std::collections::{BTreeMap, BTreeSet};

use super::codec::{self, Encoder, SHORT_TEXT};
use super::connection::{Connection, Daemon};
use super::error::{DaemonError, RemoteError};
use super::log::{Observer, ignore};
use super::operation::Operation;
use super::stderr;
use super::values;
use crate::derived_path::DerivedPath;
use crate::path_info::PathInfo;
use crate::store_path::{OutputName, StorePath};

/// Requests sent before the first answer is read: enough to hide the round trip, and few enough that they
/// and their answers fit any socket's buffer.
pub(super) const WINDOW: usize = 64;

/// Whether a question about validity may be answered by substituting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Substitute {
    /// Fetch what is missing and a substituter has.
    Yes,
    /// Only look.
    No,
}

/// What it would take to make paths valid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Derivations.
    pub will_build: BTreeSet<StorePath>,
    /// Paths.
    pub will_substitute: BTreeSet<StorePath>,
    /// Paths that nothing makes: a derivation that is not there, an output that nobody serves. Not empty
    /// means that the answer is incomplete.
    pub unknown: BTreeSet<StorePath>,
    /// Compressed bytes to be fetched.
    pub download_size: u64,
    /// The same, unpacked.
    pub nar_size: u64,
}

impl Daemon {
    /// Whether a path is valid.
    pub async fn is_valid_path(&mut self, path: &StorePath) -> Result<bool, DaemonError> {
        let request = self.about(Operation::IsValidPath, path);
        let mut answer = self.call(&request, &mut ignore).await?;
        let is_valid = codec::read_bool(answer.reader()).await?;
        answer.end();
        Ok(is_valid)
    }

    /// Those of `paths` that are valid.
    pub async fn query_valid_paths(
        &mut self,
        paths: &BTreeSet<StorePath>,
        substitute: Substitute,
    ) -> Result<BTreeSet<StorePath>, DaemonError> {
        let mut request = Encoder::new();
        request.word(Operation::QueryValidPaths.word()).paths(self.store_dir(), paths);
        request.flag(substitute == Substitute::Yes);
        let mut answer = self.call(&request, &mut ignore).await?;
        let store = answer.store;
        let valid = values::read_paths(answer.reader(), store).await?;
        answer.end();
        Ok(valid)
    }

    /// Those of `paths` that a substituter has, whether or not they are valid. Only substituters are asked that
    /// want to be asked for many paths at once.
    pub async fn query_substitutable_paths(
        &mut self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, DaemonError> {
        let mut request = Encoder::new();
        request.word(Operation::QuerySubstitutablePaths.word()).paths(self.store_dir(), paths);
        let mut answer = self.call(&request, &mut ignore).await?;
        let store = answer.store;
        let substitutable = values::read_paths(answer.reader(), store).await?;
        answer.end();
        Ok(substitutable)
    }

    /// What is known of a path; none if it is not valid.
    pub async fn query_path_info(&mut self, path: &StorePath) -> Result<Option<PathInfo>, DaemonError> {
        Ok(self.query_path_infos([path]).await?.pop().flatten())
    }

    /// As [`Daemon::query_path_info`] for many, in the same order and in few round trips.
    pub async fn query_path_infos<'p>(
        &mut self,
        paths: impl IntoIterator<Item = &'p StorePath>,
    ) -> Result<Vec<Option<PathInfo>>, DaemonError> {
        let paths: Vec<&StorePath> = paths.into_iter().collect();
        let mut infos = Vec::with_capacity(paths.len());
        for window in paths.chunks(WINDOW) {
            let mut request = Encoder::new();
            for path in window {
                request.word(Operation::QueryPathInfo.word()).path(self.store_dir(), path);
            }
            let mut connection = self.take()?;
            let Connection { reader, writer } = &mut connection;
            codec::send(writer, &request).await?;
            let mut refusal = None;
            for path in window {
                if !first_refusal(&mut refusal, stderr::listen(reader, &mut ignore).await?) {
                    continue;
                }
                infos.push(if codec::read_bool(reader).await? {
                    let path = StorePath::clone(path);
                    Some(values::read_unkeyed_path_info(reader, self.store_dir(), path).await?)
                } else {
                    None
                });
            }
            self.put_back(connection);
            refusal.map_or(Ok(()), |error| Err(Box::new(error)))?;
        }
        Ok(infos)
    }

    /// Path infos of `roots` and of everything they refer to, each once, sorted by path. All must be valid.
    pub async fn query_closure(
        &mut self,
        roots: impl IntoIterator<Item = StorePath>,
    ) -> Result<Vec<PathInfo>, DaemonError> {
        let mut closure = BTreeMap::new();
        let mut wanted: BTreeSet<StorePath> = roots.into_iter().collect();
        while !wanted.is_empty() {
            let infos = self.query_path_infos(&wanted).await?;
            let mut referred = BTreeSet::new();
            for (path, info) in wanted.into_iter().zip(infos) {
                let info = info.ok_or_else(|| DaemonError::NotValid(path.clone()))?;
                referred.extend(info.references.iter().cloned());
                closure.insert(path, info);
            }
            referred.retain(|path| !closure.contains_key(path));
            wanted = referred;
        }
        Ok(closure.into_values().collect())
    }

    /// What would have to be built and substituted for `targets`, as this daemon sees it: what is valid
    /// already is in no set, and derivations that forbid substitution are among the builds unless
    /// [`Settings::for_substituting`](super::Settings::for_substituting) applies.
    pub async fn query_missing(&mut self, targets: &[DerivedPath]) -> Result<Missing, DaemonError> {
        let mut request = Encoder::new();
        request.word(Operation::QueryMissing.word()).derived_paths(self.store_dir(), targets);
        let mut answer = self.call(&request, &mut ignore).await?;
        let store = answer.store;
        let reader = answer.reader();
        let missing = Missing {
            will_build: values::read_paths(reader, store).await?,
            will_substitute: values::read_paths(reader, store).await?,
            unknown: values::read_paths(reader, store).await?,
            download_size: codec::read_u64(reader).await?,
            nar_size: codec::read_u64(reader).await?,
        };
        answer.end();
        Ok(missing)
    }

    /// The outputs of a valid derivation, with the paths of those that are known.
    pub async fn query_derivation_output_map(
        &mut self,
        drv: &StorePath,
    ) -> Result<BTreeMap<OutputName, Option<StorePath>>, DaemonError> {
        let request = self.about(Operation::QueryDerivationOutputMap, drv);
        let mut answer = self.call(&request, &mut ignore).await?;
        let store = answer.store;
        let reader = answer.reader();
        let mut outputs = BTreeMap::new();
        for _ in 0..codec::read_count(reader, "a map of outputs").await? {
            let name = codec::read_text(reader, "an output's name", SHORT_TEXT).await?;
            let name = values::parse("an output's name", &name)?;
            outputs.insert(name, values::read_optional_path(reader, store).await?);
        }
        answer.end();
        Ok(outputs)
    }

    /// Makes a path valid by substitution, if it is not valid.
    pub async fn ensure_path(&mut self, path: &StorePath, observer: Observer<'_>) -> Result<(), DaemonError> {
        let request = self.about(Operation::EnsurePath, path);
        self.call(&request, observer).await?.end_with_word().await
    }

    pub(super) fn about(&self, operation: Operation, path: &StorePath) -> Encoder {
        let mut request = Encoder::new();
        request.word(operation.word()).path(self.store_dir(), path);
        request
    }
}

/// Of several answers, keeps the first that is an error; the others are still to be read. True if a reply
/// follows.
pub(super) fn first_refusal(first: &mut Option<RemoteError>, answer: Result<(), RemoteError>) -> bool {
    match answer {
        Ok(()) => true,
        Err(error) => {
            first.get_or_insert(error);
            false
        }
    }
}
