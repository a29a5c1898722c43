//! The primitives of the worker protocol: words, byte strings, framed bodies.
//!
//! Everything is a little-endian 64-bit word or bytes padded to a multiple of eight. Reading is async, and
//! bounded by the place a value stands in; memory grows with what has arrived, never with what a length
//! claims. Writing goes to memory ([`Encoder`]) and from there to the stream in one piece. Both halves of
//! the protocol use these: no knowledge of any operation is here.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::{Malformed, ReadError};

/// Longest store path, name or short text.
pub const SHORT_TEXT: u64 = 8 * 1024;
/// Longest text that is a document of its own: a realisation may name every output of a closure.
pub const LONG_TEXT: u64 = 16 * 1024 * 1024;
/// Most elements of a list; no store has more paths.
pub const LIST: u64 = 4 * 1024 * 1024;
/// Frames that we write; frames that we read may be larger.
pub const FRAME: usize = 64 * 1024;

/// How many bytes are asked of the stream at a time while a length is unproven.
const STEP: u64 = 64 * 1024;

/// One word.
pub async fn read_u64<R: AsyncRead + Unpin>(reader: &mut R) -> Result<u64, ReadError> {
    Ok(reader.read_u64_le().await?)
}

/// A word that is 0 or 1; as Nix has it, every other value counts as 1.
pub async fn read_bool<R: AsyncRead + Unpin>(reader: &mut R) -> Result<bool, ReadError> {
    Ok(read_u64(reader).await? != 0)
}

/// A byte string of at most `limit` bytes.
pub async fn read_bytes<R: AsyncRead + Unpin>(
    reader: &mut R,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>, ReadError> {
    let length = read_u64(reader).await?;
    if length > limit {
        return Err(Malformed::TooLong { what, length, limit }.into());
    }
    let bytes = read_exactly(reader, length).await?;
    read_padding(reader, length).await?;
    Ok(bytes)
}

/// A byte string of any length, of which at most `keep` bytes are kept.
pub async fn read_bytes_cut<R: AsyncRead + Unpin>(reader: &mut R, keep: u64) -> Result<Vec<u8>, ReadError> {
    let length = read_u64(reader).await?;
    let bytes = read_exactly(reader, length.min(keep)).await?;
    skip(reader, length - length.min(keep)).await?;
    read_padding(reader, length).await?;
    Ok(bytes)
}

/// A byte string that must be UTF-8.
pub async fn read_text<R: AsyncRead + Unpin>(
    reader: &mut R,
    what: &'static str,
    limit: u64,
) -> Result<String, ReadError> {
    let bytes = read_bytes(reader, what, limit).await?;
    String::from_utf8(bytes).map_err(|_| Malformed::NotText(what).into())
}

/// The number of elements that follow.
pub async fn read_count<R: AsyncRead + Unpin>(reader: &mut R, what: &'static str) -> Result<u64, ReadError> {
    read_count_within(reader, what, LIST).await
}

/// The number of elements that follow, at most `limit`.
pub async fn read_count_within<R: AsyncRead + Unpin>(
    reader: &mut R,
    what: &'static str,
    limit: u64,
) -> Result<u64, ReadError> {
    let length = read_u64(reader).await?;
    if length > limit {
        return Err(Malformed::TooLong { what, length, limit }.into());
    }
    Ok(length)
}

/// Writes what was encoded, and flushes.
pub async fn send<W: AsyncWrite + Unpin>(writer: &mut W, encoder: &Encoder) -> std::io::Result<()> {
    writer.write_all(encoder.as_bytes()).await?;
    writer.flush().await
}

async fn read_exactly<R: AsyncRead + Unpin>(reader: &mut R, length: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let mut missing = length;
    while missing > 0 {
        let step = missing.min(STEP);
        let before = bytes.len();
        bytes.resize(before + usize_of(step), 0);
        reader.read_exact(&mut bytes[before..]).await?;
        missing -= step;
    }
    Ok(bytes)
}

async fn skip<R: AsyncRead + Unpin>(reader: &mut R, length: u64) -> Result<(), ReadError> {
    let skipped = tokio::io::copy(&mut reader.take(length), &mut tokio::io::sink()).await?;
    if skipped == length { Ok(()) } else { Err(ReadError::Io(std::io::ErrorKind::UnexpectedEof.into())) }
}

async fn read_padding<R: AsyncRead + Unpin>(reader: &mut R, length: u64) -> Result<(), ReadError> {
    let mut padding = [0; 8];
    let count = usize_of(padding_of(length));
    reader.read_exact(&mut padding[..count]).await?;
    if padding == [0; 8] { Ok(()) } else { Err(Malformed::Padding.into()) }
}

/// How many zero bytes follow a byte string of this length.
pub const fn padding_of(length: u64) -> u64 {
    (8 - length % 8) % 8
}

#[expect(clippy::cast_possible_truncation, reason = "callers pass at most STEP")]
const fn usize_of(length: u64) -> usize {
    length as usize
}

/// A request or reply under construction.
#[derive(Clone, Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was put.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was put.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// One word.
    pub fn word(&mut self, word: u64) -> &mut Self {
        self.bytes.extend_from_slice(&word.to_le_bytes());
        self
    }

    /// A word, 0 or 1.
    pub fn flag(&mut self, flag: bool) -> &mut Self {
        self.word(u64::from(flag))
    }

    /// A byte string.
    pub fn bytes(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        let length = bytes.len() as u64;
        self.word(length).raw(bytes);
        let padded = self.bytes.len() as u64 + padding_of(length);
        self.bytes.resize(usize_of(padded), 0);
        self
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The number of elements, then each as `put` writes it.
    pub fn list<I>(
        &mut self,
        items: I,
        mut put: impl for<'a> FnMut(&'a mut Self, I::Item) -> &'a mut Self,
    ) -> &mut Self
    where
        I: IntoIterator<IntoIter: ExactSizeIterator>,
    {
        let items = items.into_iter();
        self.word(items.len() as u64);
        for item in items {
            put(self, item);
        }
        self
    }
}
