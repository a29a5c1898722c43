//! What a journal keeps: opaque bodies with a kind and a key. Decides nothing.

use bytes::Bytes;

use crate::error::JournalError;

/// Largest key of an entry, bytes.
pub(crate) const MAX_KEY: usize = 64 << 10;
/// Largest body of an entry, bytes.
pub(crate) const MAX_BODY: usize = 64 << 20;
/// Most bytes of keys and bodies in a batch.
pub(crate) const MAX_BATCH: usize = 512 << 20;

/// What an entry is about; the writer gives the numbers their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(pub u16);

/// One entry, not yet kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is about.
    pub kind: Kind,
    /// What it belongs to, such as the name of a run; may be empty. At most 64 KiB.
    pub key: String,
    /// What it says. At most 64 MiB.
    pub body: Bytes,
}

/// An entry that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its place: each is one above the entry before it.
    pub seq: u64,
    /// The entry.
    pub entry: Entry,
}

/// Refuses a batch above the limits, before anything of it is written.
pub(crate) fn check_sizes(batch: &[Entry]) -> Result<(), JournalError> {
    let bytes = batch.iter().map(|entry| entry.key.len() + entry.body.len()).sum();
    if bytes > MAX_BATCH {
        return Err(JournalError::TooLarge { what: "entries of a batch", bytes, limit: MAX_BATCH });
    }
    for entry in batch {
        for (what, bytes, limit) in
            [("key of an entry", entry.key.len(), MAX_KEY), ("body of an entry", entry.body.len(), MAX_BODY)]
        {
            if bytes > limit {
                return Err(JournalError::TooLarge { what, bytes, limit });
            }
        }
    }
    Ok(())
}
