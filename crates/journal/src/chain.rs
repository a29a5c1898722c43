//! How damage is noticed: every entry carries a checksum over itself and the one before it, the head one over
//! itself, and the head knows the last entry. Pure; the same for every database.

use crate::entry::{Kind, Loaded};

/// The layout of the tables, raised with each change of them.
pub(crate) const SCHEMA: u32 = 2;
/// How the coordinator's entries are to be read, raised when older programs would misread new ones.
pub(crate) const FORMAT: u32 = 1;

/// A checksum against accidents, not against forgers.
pub(crate) type Sum = [u8; 16];

/// The one row about the whole journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) schema: u32,
    pub(crate) format: u32,
    /// The fencing term of the newest opening.
    pub(crate) epoch: u64,
    /// When that was, by the wall clock: milliseconds since 1970.
    pub(crate) opened_ms: u64,
    /// The number before the first entry.
    pub(crate) base_seq: u64,
    /// The number of the last entry, `base_seq` when there is none.
    pub(crate) last_seq: u64,
    /// The checksum of the last entry.
    pub(crate) last_sum: Sum,
}

impl Head {
    /// The head of a journal without entries, whose next number follows `base_seq`.
    pub(crate) fn empty(base_seq: u64, epoch: u64) -> Self {
        let last_sum = start(base_seq);
        Self { schema: SCHEMA, format: FORMAT, epoch, opened_ms: 0, base_seq, last_seq: base_seq, last_sum }
    }

    /// The head of a new history that follows this one: its numbers go on, nothing else of it is left.
    pub(crate) fn replaced(&self) -> Self {
        Self { opened_ms: self.opened_ms, ..Self::empty(self.last_seq, self.epoch) }
    }

    /// The checksum over all of it.
    pub(crate) fn seal(&self) -> Sum {
        let mut hasher = blake3::Hasher::new();
        for number in [
            u64::from(self.schema),
            u64::from(self.format),
            self.epoch,
            self.opened_ms,
            self.base_seq,
            self.last_seq,
        ] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&self.last_sum);
        shortened(&hasher)
    }
}

/// What the first entry after `base_seq` is chained to.
pub(crate) fn start(base_seq: u64) -> Sum {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"fleet-journal").update(&base_seq.to_le_bytes());
    shortened(&hasher)
}

/// The checksum of an entry that follows the one with `previous`.
pub(crate) fn link(previous: &Sum, seq: u64, kind: Kind, key: &str, body: &[u8]) -> Sum {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(&seq.to_le_bytes()).update(&kind.0.to_le_bytes());
    hasher.update(&(key.len() as u64).to_le_bytes()).update(key.as_bytes()).update(body);
    shortened(&hasher)
}

fn shortened(hasher: &blake3::Hasher) -> Sum {
    let mut sum = Sum::default();
    hasher.finalize_xof().fill(&mut sum);
    sum
}

/// Follows a chain, entry by entry.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    pub(crate) last_seq: u64,
    pub(crate) last_sum: Sum,
}

/// Where a chain breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The first entry that is lost or changed.
    pub(crate) seq: u64,
}

impl Follower {
    pub(crate) fn after(base_seq: u64) -> Self {
        Self { last_seq: base_seq, last_sum: start(base_seq) }
    }

    /// The break there is when the next entry cannot be read.
    pub(crate) fn expected(&self) -> Broken {
        Broken { seq: self.last_seq + 1 }
    }

    /// Takes the next entry with the checksum that was kept with it.
    pub(crate) fn follow(&mut self, loaded: &Loaded, kept: &[u8]) -> Result<(), Broken> {
        let (seq, entry) = (self.last_seq + 1, &loaded.entry);
        let sum = link(&self.last_sum, seq, entry.kind, &entry.key, &entry.body);
        if loaded.seq != seq || kept != sum {
            return Err(self.expected());
        }
        *self = Self { last_seq: seq, last_sum: sum };
        Ok(())
    }

    /// Says whether nothing is missing at the end.
    pub(crate) fn finish(&self, head: &Head) -> Result<(), Broken> {
        if (self.last_seq, self.last_sum) == (head.last_seq, head.last_sum) {
            Ok(())
        } else {
            Err(self.expected())
        }
    }
}
