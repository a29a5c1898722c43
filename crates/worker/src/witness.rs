//! What happened to this machine while a step was built: a failure then may not be the step's, and a success may not be
//! one.

use crate::machine::{self, Places};

/// Less than this many files left is a full disk as well.
const FEW_FILES: u64 = 64;

/// Watches one attempt.
#[derive(Debug)]
pub(crate) struct Witness {
    places: Places,
    /// Bytes free below which a disk counts as full.
    floor: u64,
    oom_kills: u64,
    saw_full_disk: bool,
}

impl Witness {
    pub(crate) fn new(places: Places, floor: u64) -> Self {
        Self { places, floor, oom_kills: machine::oom_kills(), saw_full_disk: false }
    }

    /// Takes note of how it is now.
    pub(crate) fn look(&mut self) {
        let is_full = |directory| {
            machine::disk(directory).is_some_and(|disk| {
                disk.free < self.floor || disk.free_files.is_some_and(|files| files < FEW_FILES)
            })
        };
        self.saw_full_disk |= is_full(&self.places.store) || is_full(&self.places.build);
    }

    /// Whether a disk was full at any look.
    pub(crate) fn saw_full_disk(&self) -> bool {
        self.saw_full_disk
    }

    /// Whether the kernel has killed something for want of memory since this began.
    pub(crate) fn saw_oom_kill(&self) -> bool {
        machine::oom_kills() > self.oom_kills
    }
}
