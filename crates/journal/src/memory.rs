//! A journal that is gone with the process: for embedded mode, and for tests that restart what stands on it.
//! Owns the entries; fences like PostgreSQL does, by epoch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::Journal;
use crate::chain::FORMAT;
use crate::entry::{Entry, Loaded, check_sizes};
use crate::error::JournalError;
use crate::report::Report;

/// Where [`Memory`] keeps its entries; clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    epoch: u64,
    last_seq: u64,
    entries: Vec<Entry>,
}

impl MemoryStore {
    /// Opens the journal anew; earlier openings are fenced.
    pub fn open(&self) -> Memory {
        let mut kept = self.lock();
        kept.epoch += 1;
        let epoch = kept.epoch;
        drop(kept);
        Memory { store: self.clone(), epoch }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // No holder of the lock panics half way through a change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One opening of a [`MemoryStore`].
#[derive(Debug)]
pub struct Memory {
    store: MemoryStore,
    epoch: u64,
}

impl Memory {
    fn kept(&self) -> Result<MutexGuard<'_, Kept>, JournalError> {
        let kept = self.store.lock();
        if kept.epoch == self.epoch { Ok(kept) } else { Err(JournalError::Fenced { epoch: self.epoch }) }
    }
}

#[async_trait]
impl Journal for Memory {
    async fn append(&mut self, batch: &[Entry]) -> Result<u64, JournalError> {
        check_sizes(batch)?;
        let mut kept = self.kept()?;
        kept.entries.extend_from_slice(batch);
        kept.last_seq += batch.len() as u64;
        Ok(kept.last_seq)
    }

    async fn load(
        &mut self,
        each: &mut (dyn FnMut(Loaded) -> Result<(), JournalError> + Send),
    ) -> Result<Report, JournalError> {
        let (entries, last_seq) = {
            let kept = self.kept()?;
            (kept.entries.clone(), kept.last_seq)
        };
        let count = entries.len() as u64;
        for (seq, entry) in (last_seq - count + 1..).zip(entries) {
            each(Loaded { seq, entry })?;
        }
        Ok(Report { entries: count, last_seq, format: FORMAT, ..Report::default() })
    }

    async fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        check_sizes(entries)?;
        let mut kept = self.kept()?;
        kept.entries = entries.to_vec();
        kept.last_seq += entries.len() as u64;
        Ok(())
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}
