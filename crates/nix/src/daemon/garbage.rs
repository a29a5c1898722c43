//! Garbage collection.

use std::collections::BTreeSet;

use super::codec::{self, Encoder, SHORT_TEXT};
use super::connection::Daemon;
use super::error::DaemonError;
use super::log::Observer;
use super::operation::Operation;
use super::version::FEATURE_SPECIFIC_GC;
use crate::store_path::StorePath;

const DELETE_DEAD: u64 = 2;
const DELETE_SPECIFIC: u64 = 3;

/// What to delete. Nothing that a root keeps is ever deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// All garbage, until so many bytes are free.
    Dead {
        /// `u64::MAX` for all.
        max_freed: u64,
    },
    /// These paths; alive ones are an error.
    Paths(BTreeSet<StorePath>),
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Full paths, as the daemon writes them.
    pub paths: Vec<String>,
    /// Freed on disk.
    pub bytes: u64,
}

impl Daemon {
    /// Deletes garbage.
    pub async fn collect_garbage(
        &mut self,
        garbage: &Garbage,
        observer: Observer<'_>,
    ) -> Result<Collected, DaemonError> {
        let none = BTreeSet::new();
        let (action, paths, max_freed) = match garbage {
            Garbage::Dead { max_freed } => (DELETE_DEAD, &none, *max_freed),
            Garbage::Paths(paths) => (DELETE_SPECIFIC, paths, u64::MAX),
        };
        let mut request = Encoder::new();
        request.word(Operation::CollectGarbage.word()).word(action);
        match (self.dialect().has(FEATURE_SPECIFIC_GC), garbage) {
            (true, Garbage::Dead { .. }) => _ = request.word(1),
            (true, Garbage::Paths(paths)) => _ = request.word(0).paths(self.store_dir(), paths).flag(false),
            (false, _) => _ = request.paths(self.store_dir(), paths),
        }
        // Never against roots; three words are obsolete.
        request.flag(false).word(max_freed).word(0).word(0).word(0);
        let mut answer = self.call(&request, observer).await?;
        let reader = answer.reader();
        let mut collected = Collected::default();
        for _ in 0..codec::read_count(reader, "a list of deleted paths").await? {
            collected.paths.push(codec::read_text(reader, "a deleted path", SHORT_TEXT).await?);
        }
        collected.bytes = codec::read_u64(reader).await?;
        codec::read_u64(reader).await?;
        answer.end();
        Ok(collected)
    }
}
