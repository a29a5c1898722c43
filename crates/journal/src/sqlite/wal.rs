//! Reads SQLite's write-ahead log before SQLite does. Changes nothing.
//!
//! SQLite takes the first frame with a wrong checksum for the end of the log, silently. Two very different things
//! look like that: a batch that was being written when the machine stopped, which nobody was told of, and damage in
//! the middle, which hides batches that were acknowledged. A batch is only begun when the one before it is on the
//! disk, so what follows the wrong frame tells them apart: frames of one batch at most are a tear, frames of
//! another batch are damage. (File format: <https://www.sqlite.org/fileformat2.html#walformat>.)

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use crate::error::JournalError;
use crate::report::Torn;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The low bit says whether checksums read their words as big-endian.
const MAGIC: u32 = 0x377f_0682;
const PAGE_SIZES: std::ops::RangeInclusive<usize> = 512..=65536;

/// What stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wal {
    /// Whole batches up to the end, or nothing.
    Whole,
    /// Whole batches, then a part of one.
    Torn(Torn),
    /// Batches stand behind something that is not what was written at this byte.
    Damaged { at: u64 },
}

/// Reads the log at `path`; one that is absent is whole.
pub(super) fn examine(path: &Path) -> Result<Wal, JournalError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Wal::Whole),
        other => other.map_err(JournalError::io("open", path))?,
    };
    let length = file.metadata().map_err(JournalError::io("examine", path))?.len();
    read(&mut BufReader::with_capacity(1 << 18, file), length).map_err(JournalError::io("read", path))
}

/// Cuts off what follows the last whole batch.
pub(super) fn cut(path: &Path, torn: Torn) -> Result<(), JournalError> {
    let file = OpenOptions::new().write(true).open(path).map_err(JournalError::io("open", path))?;
    file.set_len(torn.at).and_then(|()| file.sync_all()).map_err(JournalError::io("cut", path))
}

pub(super) fn read(log: &mut impl Read, length: u64) -> std::io::Result<Wal> {
    let torn = |at: u64, frames: u64| Wal::Torn(Torn { at, bytes: length - at, frames });
    if length == 0 {
        return Ok(Wal::Whole);
    }
    let mut header = [0; HEADER];
    if !fill(log, &mut header)? {
        return Ok(torn(0, 0));
    }
    let Some(mut frames) = Frames::begin(&header) else {
        return Ok(Wal::Damaged { at: 0 });
    };
    let mut frame = vec![0; FRAME_HEADER + frames.page_size];
    while fill(log, &mut frame)? {
        if let Some(at) = frames.take(&frame) {
            return Ok(Wal::Damaged { at });
        }
    }
    let whole = frames.committed_end == length;
    Ok(if whole { Wal::Whole } else { torn(frames.committed_end, frames.uncommitted) })
}

/// Reads as much as `buffer` holds; false when the log ends before that.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Follows the frames from the log's header on.
#[derive(Debug)]
struct Frames {
    page_size: usize,
    big_endian: bool,
    salts: [u32; 2],
    sums: [u32; 2],
    /// Where the next frame stands.
    offset: u64,
    /// Where the last whole batch ends.
    committed_end: u64,
    /// Frames since then.
    uncommitted: u64,
    /// The pages in them: a batch writes each page once.
    pages: BTreeSet<u32>,
    first_wrong: Option<u64>,
    /// A wrong frame was followed by the end of its batch.
    batch_over: bool,
}

impl Frames {
    fn begin(header: &[u8; HEADER]) -> Option<Self> {
        let field = |index: usize| word(header, index);
        let big_endian = field(0) & 1 == 1;
        let sums = checksum([0, 0], &header[..24], big_endian);
        let page_size = field(2) as usize;
        let sound = field(0) & !1 == MAGIC
            && sums == [field(6), field(7)]
            && page_size.is_power_of_two()
            && PAGE_SIZES.contains(&page_size);
        sound.then(|| Self {
            page_size,
            big_endian,
            salts: [field(4), field(5)],
            sums,
            offset: HEADER as u64,
            committed_end: HEADER as u64,
            uncommitted: 0,
            pages: BTreeSet::new(),
            first_wrong: None,
            batch_over: false,
        })
    }

    /// Takes the next frame; tells where the damage is when this frame proves one.
    fn take(&mut self, frame: &[u8]) -> Option<u64> {
        let (page, ends_batch) = (word(frame, 0), word(frame, 1) != 0);
        let here = self.offset;
        self.offset += frame.len() as u64;
        self.uncommitted += 1;
        if self.first_wrong.is_none() && self.follows(frame) {
            self.pages.insert(page);
            if ends_batch {
                self.committed_end = self.offset;
                self.uncommitted = 0;
                self.pages.clear();
            }
            return None;
        }
        let wrong = *self.first_wrong.get_or_insert(here);
        if !self.is_ours(frame) {
            return None;
        }
        if self.batch_over || !self.pages.insert(page) {
            return Some(wrong);
        }
        self.batch_over = ends_batch;
        None
    }

    /// Whether the frame is of this log, and not one that an earlier log left further back in the file.
    fn is_ours(&self, frame: &[u8]) -> bool {
        [word(frame, 2), word(frame, 3)] == self.salts
    }

    fn follows(&mut self, frame: &[u8]) -> bool {
        let sums = checksum(self.sums, &frame[..8], self.big_endian);
        let sums = checksum(sums, &frame[FRAME_HEADER..], self.big_endian);
        let follows =
            [word(frame, 2), word(frame, 3)] == self.salts && [word(frame, 4), word(frame, 5)] == sums;
        if follows {
            self.sums = sums;
        }
        follows
    }
}

/// SQLite's checksum of `bytes`, a multiple of 8, continued from `sums`.
fn checksum([mut first, mut second]: [u32; 2], bytes: &[u8], big_endian: bool) -> [u32; 2] {
    for pair in bytes.chunks_exact(8) {
        let words = [word(pair, 0), word(pair, 1)];
        let [left, right] = if big_endian { words } else { words.map(u32::swap_bytes) };
        first = first.wrapping_add(left).wrapping_add(second);
        second = second.wrapping_add(right).wrapping_add(first);
    }
    [first, second]
}

/// The big-endian word at `index`; the callers' buffers hold it.
fn word(bytes: &[u8], index: usize) -> u32 {
    let at = index * 4;
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
