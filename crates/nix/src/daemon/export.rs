//! Store paths out of the store, as NARs.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::codec;
use super::connection::Daemon;
use super::error::{DaemonError, Malformed};
use super::log::ignore;
use super::operation::Operation;
use super::stderr;
use crate::nar::{NarError, NarParser};
use crate::store_path::StorePath;

impl Daemon {
    /// Writes a valid path's NAR, and returns its size. Memory does not grow with it. The archive's form is
    /// checked, its hash is not.
    pub async fn nar_from_path<W>(&mut self, path: &StorePath, sink: &mut W) -> Result<u64, DaemonError>
    where
        W: AsyncWrite + Unpin + ?Sized,
    {
        // Daemons look for the path when they have begun to answer, and older ones then break off within the
        // archive.
        if !self.is_valid_path(path).await? {
            return Err(DaemonError::NotValid(path.clone()));
        }
        let request = self.about(Operation::NarFromPath, path);
        let mut answer = self.call(&request, &mut ignore).await?;
        let reader = answer.reader();
        // Files that are gone nevertheless are an error in the archive's place.
        let word = codec::read_u64(reader).await?;
        if let Some(error) = stderr::read_late_error(word, reader).await? {
            return Err(Box::new(error).into());
        }
        let beginning = word.to_le_bytes();
        let size = copy_nar(&mut (&beginning[..]).chain(reader), sink).await?;
        answer.end();
        sink.flush().await.map_err(DaemonError::Sink)?;
        Ok(size)
    }
}

/// Why a NAR could not be copied.
#[derive(Debug)]
enum CopyNarError {
    /// The stream failed, or ended within the archive.
    Stream(io::Error),
    /// What the stream holds is not an archive.
    Archive(NarError),
    /// The sink failed.
    Sink(io::Error),
}

impl From<CopyNarError> for DaemonError {
    fn from(error: CopyNarError) -> Self {
        match error {
            CopyNarError::Stream(error) => Self::Io(error),
            CopyNarError::Archive(error) => Malformed::Archive(error.to_string()).into(),
            CopyNarError::Sink(error) => Self::Sink(error),
        }
    }
}

/// Copies one archive, whose end only its own grammar tells, and leaves `reader` behind it. Nothing reaches
/// the sink that is not part of a well-formed archive so far.
async fn copy_nar<R, W>(reader: &mut R, sink: &mut W) -> Result<u64, CopyNarError>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin + ?Sized,
{
    let mut parser = NarParser::new();
    let mut size = 0;
    while !parser.is_finished() {
        let bytes = reader.fill_buf().await.map_err(CopyNarError::Stream)?;
        if bytes.is_empty() {
            return Err(CopyNarError::Stream(io::ErrorKind::UnexpectedEof.into()));
        }
        let taken = parser.feed(bytes, |_| Ok(())).map_err(CopyNarError::Archive)?;
        sink.write_all(&bytes[..taken]).await.map_err(CopyNarError::Sink)?;
        reader.consume(taken);
        size += taken as u64;
    }
    Ok(size)
}
