//! Deletion of single paths.

use std::collections::BTreeSet;

use super::codec::{self, Encoder, LONG_TEXT};
use super::connection::Daemon;
use super::error::DaemonError;
use super::log::ignore;
use super::operation::Operation;
use crate::store_path::StorePath;

/// Delete exactly the paths given; the others list or delete what nothing needs.
const DELETE_SPECIFIC: u64 = 3;

impl Daemon {
    /// Deletes paths that nothing holds: a rooted one, or one that another refers to, is an error.
    pub async fn delete_paths(&mut self, paths: &BTreeSet<StorePath>) -> Result<(), DaemonError> {
        let mut request = Encoder::new();
        request.word(Operation::CollectGarbage.word()).word(DELETE_SPECIFIC);
        request.paths(self.store_dir(), paths);
        // Roots count; there is no limit; three words are obsolete.
        request.flag(false).word(u64::MAX).word(0).word(0).word(0);
        let mut answer = self.call(&request, &mut ignore).await?;
        let reader = answer.reader();
        for _ in 0..codec::read_count(reader, "a list of deleted paths").await? {
            codec::read_text(reader, "a deleted path", LONG_TEXT).await?;
        }
        // Bytes freed, and an obsolete word.
        codec::read_u64(reader).await?;
        codec::read_u64(reader).await?;
        answer.end();
        Ok(())
    }
}
