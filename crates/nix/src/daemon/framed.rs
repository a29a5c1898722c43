//! Bodies of unknown length inside a request: frames of a length and as many bytes, ended by length zero.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::codec::FRAME;

/// Copies all of `body` as frames, with the end mark, and flushes.
pub async fn write_framed<B, W>(body: &mut B, writer: &mut W) -> Result<(), FramedError>
where
    B: AsyncRead + Unpin + ?Sized,
    W: AsyncWrite + Unpin,
{
    // Length and bytes share a buffer, so that a frame is one write.
    let mut buffer = vec![0; 8 + FRAME];
    loop {
        let filled = fill(body, &mut buffer[8..]).await.map_err(FramedError::Body)?;
        buffer[..8].copy_from_slice(&(filled as u64).to_le_bytes());
        writer
            .write_all(&buffer[..8 + filled])
            .await
            .map_err(FramedError::Stream)?;
        if filled == 0 {
            return writer.flush().await.map_err(FramedError::Stream);
        }
    }
}

/// Which side of a framed copy failed.
#[derive(Debug)]
pub enum FramedError {
    /// What was to be sent could not be read.
    Body(io::Error),
    /// The peer does not take it.
    Stream(io::Error),
}

async fn fill<B: AsyncRead + Unpin + ?Sized>(body: &mut B, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match body.read(&mut buffer[filled..]).await? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
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
    Length { word: [u8; 8], filled: usize },
    Bytes(u64),
    End,
}

const NEXT_FRAME: FrameState = FrameState::Length {
    word: [0; 8],
    filled: 0,
};

impl<R: AsyncRead + Unpin> FramedReader<R> {
    /// `inner` stands before the first frame.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            state: NEXT_FRAME,
        }
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
        let this = &mut *self;
        loop {
            match &mut this.state {
                FrameState::End => return Poll::Ready(Ok(())),
                FrameState::Length { word, filled } => {
                    let mut rest = ReadBuf::new(&mut word[*filled..]);
                    ready!(Pin::new(&mut this.inner).poll_read(cx, &mut rest))?;
                    if rest.filled().is_empty() {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    *filled += rest.filled().len();
                    if *filled == word.len() {
                        this.state = match u64::from_le_bytes(*word) {
                            0 => FrameState::End,
                            length => FrameState::Bytes(length),
                        };
                    }
                }
                FrameState::Bytes(left) => {
                    if out.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    let limit = usize::try_from(*left).unwrap_or(usize::MAX).min(out.remaining());
                    let mut part = ReadBuf::new(out.initialize_unfilled_to(limit));
                    ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
                    let count = part.filled().len();
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    out.advance(count);
                    *left -= count as u64;
                    if *left == 0 {
                        this.state = NEXT_FRAME;
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}
