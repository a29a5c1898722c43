//! Reads one log for one reader, at the reader's pace: a slow one slows nobody, and one that follows a log which
//! runs away from it loses the middle, with a mark.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};

use bytes::Bytes;
use tokio::sync::watch;

use super::{KeptLog, Progress, sealed};

/// Bytes read at a time.
const PIECE: usize = 64 << 10;
/// How far a follower that was at the end once may fall behind before it skips, bytes.
const MAX_LAG: u64 = 8 << 20;
/// What it still sees of the newest bytes then.
const AFTER_SKIP: u64 = 64 << 10;

/// A log being read.
#[derive(Debug)]
pub(crate) struct LogReader {
    content: Option<Content>,
    offset: u64,
    growth: Option<watch::Receiver<Progress>>,
    /// Whether it has been at the end of a log that still grows.
    caught_up: bool,
}

enum Content {
    Growing(File),
    Sealed(Box<dyn Read + Send>),
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Growing(_)) { "Growing" } else { "Sealed" })
    }
}

/// Some bytes of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pull {
    /// Where they begin.
    pub(crate) offset: u64,
    /// Bytes left out before them.
    pub(crate) skipped: u64,
    pub(crate) data: Bytes,
}

impl LogReader {
    pub(super) fn open(
        log: &KeptLog,
        from: u64,
        growth: Option<watch::Receiver<Progress>>,
    ) -> std::io::Result<Self> {
        let content = match if log.is_sealed() { None } else { open_growing(log, from)? } {
            Some(file) => Content::Growing(file),
            None if log.is_sealed() => Content::Sealed(sealed::open(&log.path, from)?),
            // It was sealed since it was found.
            None => Content::Sealed(sealed::open(&sealed::sealed_path(&log.path), from)?),
        };
        Ok(Self { content: Some(content), offset: from, growth, caught_up: false })
    }

    /// The next bytes; none at the end. Cancelling this loses at most what was not answered yet.
    pub(crate) async fn pull(&mut self) -> std::io::Result<Option<Pull>> {
        loop {
            // Looked at before reading: what was written until then is read.
            let progress = self.growth.as_mut().map(|growth| *growth.borrow_and_update());
            let skipped = progress.map_or(0, |progress| self.lag(progress));
            let data = self.read(skipped).await?;
            if !data.is_empty() {
                let offset = self.offset;
                self.offset += data.len() as u64;
                return Ok(Some(Pull { offset, skipped, data }));
            }
            let Some(growth) = self.growth.as_mut() else { return Ok(None) };
            self.caught_up = true;
            if progress.is_none_or(|progress| progress.ended) || growth.changed().await.is_err() {
                // Whatever came with the end is read in one more round.
                self.growth = None;
            }
        }
    }

    /// How much to leave out.
    fn lag(&mut self, progress: Progress) -> u64 {
        let lag = progress.written.saturating_sub(self.offset);
        if !self.caught_up || lag <= MAX_LAG {
            return 0;
        }
        self.offset += lag - AFTER_SKIP;
        lag - AFTER_SKIP
    }

    async fn read(&mut self, skip: u64) -> std::io::Result<Bytes> {
        let Some(mut content) = self.content.take() else {
            return Err(std::io::Error::other("an earlier read was cancelled"));
        };
        let (content, data) = tokio::task::spawn_blocking(move || {
            let data = content.read_piece(skip);
            (content, data)
        })
        .await
        .map_err(std::io::Error::other)?;
        self.content = Some(content);
        data
    }
}

fn open_growing(log: &KeptLog, from: u64) -> std::io::Result<Option<File>> {
    match File::open(&log.path) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(from))?;
            Ok(Some(file))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Content {
    fn read_piece(&mut self, skip: u64) -> std::io::Result<Bytes> {
        let mut data = Vec::with_capacity(PIECE);
        match self {
            Self::Growing(file) => {
                if let Ok(skip @ 1..) = i64::try_from(skip) {
                    file.seek(SeekFrom::Current(skip))?;
                }
                file.take(PIECE as u64).read_to_end(&mut data)?;
            }
            Self::Sealed(reader) => {
                reader.take(PIECE as u64).read_to_end(&mut data)?;
            }
        }
        Ok(data.into())
    }
}
