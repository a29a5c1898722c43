//! Deletion: of single paths, and of what nothing needs.

use std::collections::BTreeSet;

use super::codec::{self, Encoder, LONG_TEXT};
use super::connection::Daemon;
use super::error::DaemonError;
use super::log::ignore;
use super::operation::Operation;
use crate::store_path::StorePath;

/// Delete what nothing needs.
const DELETE_DEAD: u64 = 2;
/// Delete exactly the paths given.
const DELETE_SPECIFIC: u64 = 3;

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Paths that are gone.
    pub deleted: u64,
    /// Bytes on the disk, as the daemon counts them.
    pub freed: u64,
}

impl Daemon {
    /// Deletes paths that nothing holds: a rooted one, or one that another refers to, is an error.
    pub async fn delete_paths(&mut self, paths: &BTreeSet<StorePath>) -> Result<(), DaemonError> {
        self.delete(DELETE_SPECIFIC, paths, u64::MAX).await.map(drop)
    }

    /// Deletes what no root holds, until about this many bytes are free that were not.
    pub async fn collect_garbage(&mut self, max_freed: u64) -> Result<Collected, DaemonError> {
        self.delete(DELETE_DEAD, &BTreeSet::new(), max_freed).await
    }

    async fn delete(
        &mut self,
        action: u64,
        paths: &BTreeSet<StorePath>,
        max_freed: u64,
    ) -> Result<Collected, DaemonError> {
        let mut request = Encoder::new();
        request.word(Operation::CollectGarbage.word()).word(action);
        request.paths(self.store_dir(), paths);
        // Roots count; three words are obsolete.
        request.flag(false).word(max_freed).word(0).word(0).word(0);
        let mut answer = self.call(&request, &mut ignore).await?;
        let reader = answer.reader();
        let deleted = codec::read_count(reader, "a list of deleted paths").await?;
        for _ in 0..deleted {
            codec::read_text(reader, "a deleted path", LONG_TEXT).await?;
        }
        let freed = codec::read_u64(reader).await?;
        // Obsolete.
        codec::read_u64(reader).await?;
        answer.end();
        Ok(Collected { deleted, freed })
    }
}
