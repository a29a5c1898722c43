//! What opening and repairing a journal found, and how that is said to people. Data only.

use std::fmt;
use std::path::PathBuf;

/// What opening and loading a journal found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries given.
    pub entries: u64,
    /// The last sequence number ever given; entries that were replaced count.
    pub last_seq: u64,
    /// The format that the entries were written in. An older one is kept until the history is replaced.
    pub format: u32,
    /// The end of the file was never completely written, and was cut off.
    pub torn: Option<Torn>,
    /// The layout of an older program, migrated by this opening.
    pub migrated_from: Option<u32>,
    /// The files are older than what this place has seen: a backup was put back, or they were removed.
    pub restored: Option<Restored>,
    /// The wall clock stands before the last opening, by this many milliseconds.
    pub clock_back_ms: Option<u64>,
}

/// What was cut off a file's end: a batch whose append never returned, or whose last part was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// Where the whole batches ended.
    pub at: u64,
    /// Bytes dropped.
    pub bytes: u64,
    /// Whole frames (pages of the database) among them.
    pub frames: u64,
}

/// The epoch of the files is behind what was remembered beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The epoch in the files.
    pub found_epoch: u64,
    /// The highest epoch given out here. The new one is above it.
    pub known_epoch: u64,
}

impl Report {
    /// What an operator must hear, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let torn = self.torn.map(|Torn { at, bytes, frames }| {
            format!(
                "the journal's last batch was not completely written: {bytes} bytes ({frames} whole frames) \
                 after byte {at} of its WAL were cut off"
            )
        });
        let restored = self.restored.map(|Restored { found_epoch, known_epoch }| {
            format!(
                "the journal is older than this place has seen (epoch {found_epoch}, known {known_epoch}): \
                 what happened since that copy was made is gone from it"
            )
        });
        let clock = self.clock_back_ms.map(|back| {
            format!("the wall clock stands {} s before the journal's last opening", back.div_ceil(1000))
        });
        [torn, restored, clock].into_iter().flatten().collect()
    }
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Entries that are in the journal now.
    pub kept: u64,
    /// The sequence number of the last of them.
    pub last_seq: u64,
    /// What is lost; none when the journal was sound and nothing was changed.
    pub lost: Option<Lost>,
}

/// What a repair could not keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where the damage is.
    pub place: String,
    /// The last entry known to have been there; those after the kept ones are lost. None when that is unknown.
    pub until_seq: Option<u64>,
    /// Where the damaged files were moved.
    pub aside: Vec<PathBuf>,
}

impl fmt::Display for RepairReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kept, last_seq, lost } = self;
        let Some(Lost { place, until_seq, aside }) = lost else {
            return write!(f, "the journal is sound: {kept} entries, the last is number {last_seq}");
        };
        writeln!(f, "damaged: {place}")?;
        writeln!(f, "kept: {kept} entries, the last is number {last_seq}")?;
        match until_seq {
            Some(until) if until > last_seq => {
                writeln!(
                    f,
                    "lost: entries {} to {until}, and what the damaged files may hold beyond",
                    last_seq + 1
                )?;
            }
            _ => writeln!(f, "lost: everything after that; how much is not known")?,
        }
        write!(f, "the damaged files are kept:")?;
        aside.iter().try_for_each(|path| write!(f, " {}", path.display()))
    }
}
