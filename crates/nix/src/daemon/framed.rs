//! Bodies of unknown length inside a request: frames of a length and as many bytes, ended by length zero.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::codec::FRAME;

/// A frame's length stands before its bytes.
const HEADER: usize = 8;

/// Which side of a copy into frames failed.
#[derive(Debug)]
pub enum FramedError {
    /// What was to be sent could not be read, or has another length than announced.
    Body(io::Error),
    /// The peer does not take it.
    Stream(io::Error),
}

/// Cuts what is written into frames. [`FramedWriter::finish`] must follow, or the peer waits for more.
#[derive(Debug)]
pub struct FramedWriter<'a, W> {
    writer: &'a mut W,
    // Length and bytes share a buffer, so that a frame is one write.
    buffer: Vec<u8>,
    filled: usize,
}

impl<'a, W: AsyncWrite + Unpin> FramedWriter<'a, W> {
    /// `writer` stands where the body begins.
    pub fn new(writer: &'a mut W) -> Self {
        Self { writer, buffer: vec![0; HEADER + FRAME], filled: HEADER }
    }

    /// Adds bytes to the body.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), FramedError> {
        while !bytes.is_empty() {
            self.make_room().await?;
            let count = bytes.len().min(self.buffer.len() - self.filled);
            self.buffer[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Adds all of `body`, which must have exactly `length` bytes.
    pub async fn copy<B>(&mut self, body: &mut B, length: u64) -> Result<(), FramedError>
    where
        B: AsyncRead + Unpin + ?Sized,
    {
        // One byte more than announced is enough to know.
        let mut body = body.take(length.saturating_add(1));
        let mut copied = 0;
        loop {
            self.make_room().await?;
            let count = body.read(&mut self.buffer[self.filled..]).await.map_err(FramedError::Body)?;
            self.filled += count;
            copied += count as u64;
            if count == 0 && copied == length {
                return Ok(());
            }
            if count == 0 || copied > length {
                return Err(FramedError::Body(wrong_length(copied, length)));
            }
        }
    }

    /// Ends the body, and flushes.
    pub async fn finish(mut self) -> Result<(), FramedError> {
        if self.filled > HEADER {
            self.emit().await?;
        }
        self.emit().await?;
        self.writer.flush().await.map_err(FramedError::Stream)
    }

    async fn make_room(&mut self) -> Result<(), FramedError> {
        if self.filled == self.buffer.len() { self.emit().await } else { Ok(()) }
    }

    async fn emit(&mut self) -> Result<(), FramedError> {
        let length = (self.filled - HEADER) as u64;
        self.buffer[..HEADER].copy_from_slice(&length.to_le_bytes());
        self.writer.write_all(&self.buffer[..self.filled]).await.map_err(FramedError::Stream)?;
        self.filled = HEADER;
        Ok(())
    }
}

fn wrong_length(copied: u64, length: u64) -> io::Error {
    let found = if copied > length { "more than".to_owned() } else { format!("{copied} of") };
    io::Error::new(io::ErrorKind::InvalidData, format!("it has {found} the {length} bytes announced"))
}

/// The body inside frames, as a stream that ends where the body does. Frames may be of any size: nothing is
/// buffered here.
#[derive(Debug)]
pub struct FramedReader<R> {
    inner: R,
    state: FrameState,
}

#[derive(Debug)]
enum FrameState {
    Length { word: [u8; HEADER], filled: usize },
    Bytes(u64),
    End,
}

const NEXT_FRAME: FrameState = FrameState::Length { word: [0; HEADER], filled: 0 };

impl<R: AsyncRead + Unpin> FramedReader<R> {
    /// `inner` stands before the first frame.
    pub fn new(inner: R) -> Self {
        Self { inner, state: NEXT_FRAME }
    }

    /// Reads to the end mark, so that `inner` stands behind the body.
    pub async fn drain(&mut self) -> io::Result<()> {
        tokio::io::copy(self, &mut tokio::io::sink()).await.map(|_| ())
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for FramedReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, state } = &mut *self;
        loop {
            match state {
                FrameState::End => return Poll::Ready(Ok(())),
                FrameState::Length { word, filled } => {
                    *filled += ready!(poll_some(inner, cx, &mut word[*filled..]))?;
                    if *filled == HEADER {
                        let length = u64::from_le_bytes(*word);
                        *state = if length == 0 { FrameState::End } else { FrameState::Bytes(length) };
                    }
                }
                FrameState::Bytes(_) if out.remaining() == 0 => return Poll::Ready(Ok(())),
                FrameState::Bytes(left) => {
                    let limit = usize::try_from(*left).unwrap_or(usize::MAX).min(out.remaining());
                    let count = ready!(poll_some(inner, cx, out.initialize_unfilled_to(limit)))?;
                    out.advance(count);
                    *left -= count as u64;
                    if *left == 0 {
                        *state = NEXT_FRAME;
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// Reads at least one byte; a body does not end within a frame.
fn poll_some<R: AsyncRead + Unpin>(
    inner: &mut R,
    cx: &mut Context<'_>,
    bytes: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(bytes);
    ready!(Pin::new(inner).poll_read(cx, &mut buffer))?;
    match buffer.filled().len() {
        0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        count => Poll::Ready(Ok(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn frame(body: &[u8], length: u64) -> Result<Vec<u8>, FramedError> {
        let mut stream = Vec::new();
        let mut writer = FramedWriter::new(&mut stream);
        writer.copy(&mut &body[..], length).await?;
        writer.finish().await?;
        Ok(stream)
    }

    #[tokio::test]
    async fn bodies_of_any_length_come_back_and_what_follows_is_untouched() {
        for length in [0, 1, 7, FRAME - 1, FRAME, FRAME + 1, 3 * FRAME] {
            let body = vec![7; length];
            let mut stream = frame(&body, length as u64).await.expect("in memory");
            stream.extend_from_slice(b"next");
            let mut rest = &stream[..];
            let mut read = Vec::new();
            FramedReader::new(&mut rest).read_to_end(&mut read).await.expect("whole");
            assert!(read == body);
            assert_eq!(rest, b"next");
        }
    }

    #[tokio::test]
    async fn a_body_of_another_length_than_announced_is_refused() {
        for length in [0, 4, 6, u64::MAX] {
            assert!(matches!(frame(b"12345", length).await, Err(FramedError::Body(_))), "{length}");
        }
    }

    #[tokio::test]
    async fn a_body_cut_anywhere_is_an_unexpected_end() {
        let stream = frame(b"12345", 5).await.expect("in memory");
        for cut in 0..stream.len() {
            let error = FramedReader::new(&stream[..cut]).drain().await.expect_err("cut");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test]
    async fn draining_stands_behind_the_body() {
        let mut stream = frame(b"12345", 5).await.expect("in memory");
        stream.push(9);
        let mut rest = &stream[..];
        FramedReader::new(&mut rest).drain().await.expect("whole");
        assert_eq!(rest, [9]);
    }
}
