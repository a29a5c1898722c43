//! The frames in which chunks travel and rest: one plain zstd frame a chunk. Pure. Whatever comes from elsewhere is
//! looked at before the library sees it, so that nothing it declares decides how much memory is taken.

use bytes::Bytes;
use thiserror::Error;
use zstd::zstd_safe;

use crate::chunk::{ChunkError, Digest, MAX_CHUNK, RawChunk};

/// Largest frame: zstd adds little to what it cannot compress.
pub const MAX_FRAME: usize = MAX_CHUNK + (64 << 10);
/// Largest window that a reader of the frame must provide (RFC 8878 asks all readers for that much).
const MAX_WINDOW: u64 = 8 << 20;
const MAGIC: u32 = 0xFD2F_B528;
/// The low four bits are free for anybody's use.
const SKIPPABLE: u32 = 0x184D_2A50;

/// How much work goes into making a frame small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For a frame that is sent once, over a fast network.
    Fast,
    /// For a frame that is kept.
    Dense,
}

impl Level {
    fn number(self) -> i32 {
        match self {
            Self::Fast => 1,
            Self::Dense => 3,
        }
    }
}

/// What is wrong with a frame.
#[derive(Debug, Error)]
pub enum FrameFault {
    /// More bytes than any frame of a chunk has.
    #[error("it has {0} bytes, more than {MAX_FRAME}")]
    TooLong(usize),
    /// It does not begin as a zstd frame does.
    #[error("it is not a zstd frame")]
    NotZstd,
    /// A skippable frame holds nothing.
    #[error("it is a skippable frame")]
    Skippable,
    /// It ends too early.
    #[error("it is cut short")]
    Truncated,
    /// A bit is set that must not be.
    #[error("it is of an unknown kind")]
    Unknown,
    /// It needs a dictionary.
    #[error("it needs dictionary {0}")]
    Dictionary(u32),
    /// It needs more memory to be read than anybody must have.
    #[error("it needs a window of {0} bytes, more than {MAX_WINDOW}")]
    Window(u64),
    /// It does not say how much it holds.
    #[error("it does not declare its size")]
    Undeclared,
    /// It holds nothing.
    #[error("it is empty")]
    Empty,
    /// It holds more than a chunk.
    #[error("it holds {0} bytes, more than {MAX_CHUNK}")]
    TooLarge(u64),
    /// Something follows it.
    #[error("something follows the frame")]
    Trailing,
    /// The library cannot make or read it.
    #[error("zstd says: {0}")]
    Zstd(&'static str),
}

/// Makes frames one after the other, with the memory of the one before.
pub struct Sealer {
    context: zstd_safe::CCtx<'static>,
    level: Level,
}

impl Sealer {
    /// Of this level. Takes a few megabytes.
    pub fn new(level: Level) -> Result<Self, FrameFault> {
        let context = zstd_safe::CCtx::try_create().ok_or(FrameFault::Zstd("no memory"))?;
        Ok(Self { context, level })
    }

    /// The frame of a chunk.
    pub fn seal(&mut self, chunk: &RawChunk) -> Result<Bytes, ChunkError> {
        let mut frame = Vec::with_capacity(zstd_safe::compress_bound(chunk.data.len()));
        self.context
            .compress(&mut frame, &chunk.data, self.level.number())
            .map_err(|code| bad_frame(chunk.digest)(FrameFault::Zstd(zstd_safe::get_error_name(code))))?;
        // What did not need the room gives it back: frames wait in queues.
        frame.shrink_to_fit();
        Ok(frame.into())
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("level", &self.level).finish_non_exhaustive()
    }
}

/// The frame of one chunk, as it is kept.
pub fn seal_frame(chunk: &RawChunk) -> Result<Bytes, ChunkError> {
    Sealer::new(Level::Dense).map_err(bad_frame(chunk.digest))?.seal(chunk)
}

/// The bytes of a frame, checked against its name. Never allocates more than [`MAX_CHUNK`].
pub fn open_frame(digest: Digest, frame: &[u8]) -> Result<Vec<u8>, ChunkError> {
    let data = unpack(frame).map_err(bad_frame(digest))?;
    let actual = Digest::of(&data);
    if actual == digest { Ok(data) } else { Err(ChunkError::Mismatch { expected: digest, actual }) }
}

fn bad_frame(digest: Digest) -> impl FnOnce(FrameFault) -> ChunkError {
    move |source| ChunkError::BadFrame { digest, source }
}

fn unpack(frame: &[u8]) -> Result<Vec<u8>, FrameFault> {
    if frame.len() > MAX_FRAME {
        return Err(FrameFault::TooLong(frame.len()));
    }
    let size = content_size(frame)?;
    match zstd_safe::find_frame_compressed_size(frame) {
        Ok(length) if length == frame.len() => {}
        // The library would go on with whatever follows, and skip what it does not know.
        Ok(_) => return Err(FrameFault::Trailing),
        Err(_) => return Err(FrameFault::Truncated),
    }
    let mut data = Vec::with_capacity(size);
    zstd_safe::decompress(&mut data, frame)
        .map_err(|code| FrameFault::Zstd(zstd_safe::get_error_name(code)))?;
    Ok(data)
}

/// Reads the header of a frame (RFC 8878, 3.1.1.1) and answers what it holds: at most [`MAX_CHUNK`] bytes.
fn content_size(frame: &[u8]) -> Result<usize, FrameFault> {
    let (magic, rest) = frame.split_first_chunk().ok_or(FrameFault::NotZstd)?;
    match u32::from_le_bytes(*magic) {
        MAGIC => {}
        other if other & !0xF == SKIPPABLE => return Err(FrameFault::Skippable),
        _ => return Err(FrameFault::NotZstd),
    }
    let (&descriptor, mut rest) = rest.split_first().ok_or(FrameFault::Truncated)?;
    if descriptor & 0b1000 != 0 {
        return Err(FrameFault::Unknown);
    }
    let is_single_segment = descriptor & 0b10_0000 != 0;
    if !is_single_segment {
        let window = take(&mut rest, 1)?;
        let base = 1_u64 << (10 + (window >> 3));
        let window = base + base / 8 * (window & 0b111);
        if window > MAX_WINDOW {
            return Err(FrameFault::Window(window));
        }
    }
    let dictionary = take(&mut rest, [0, 1, 2, 4][usize::from(descriptor & 0b11)])?;
    if dictionary != 0 {
        // At most four bytes.
        return Err(FrameFault::Dictionary(u32::try_from(dictionary).unwrap_or(u32::MAX)));
    }
    let size = match descriptor >> 6 {
        0 if !is_single_segment => return Err(FrameFault::Undeclared),
        0 => take(&mut rest, 1)?,
        1 => take(&mut rest, 2)? + 256,
        2 => take(&mut rest, 4)?,
        _ => take(&mut rest, 8)?,
    };
    match usize::try_from(size) {
        Ok(0) => Err(FrameFault::Empty),
        Ok(size) if size <= MAX_CHUNK => Ok(size),
        _ => Err(FrameFault::TooLarge(size)),
    }
}

/// The next `count` bytes, at most eight, as a number.
fn take(rest: &mut &[u8], count: usize) -> Result<u64, FrameFault> {
    let (bytes, after) = rest.split_at_checked(count).ok_or(FrameFault::Truncated)?;
    *rest = after;
    Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests;
