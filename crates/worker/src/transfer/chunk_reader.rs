//! The coordinator's chunks as one stream of bytes, from which several archives are read one after the other. Each
//! chunk is checked against its name.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use fleet_store::{ChunkError, Digest, open_frame};
use fleet_wire::v1;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use thiserror::Error;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::StreamReader;
use tonic::{Status, Streaming};

use super::Transfer;

/// Digests in one request.
const MAX_ASKED: usize = 65_536;
/// A coordinator that sends nothing for so long, while we wait, has stalled.
const STALLED_AFTER: Duration = Duration::from_mins(2);

/// Why the stream ends early. Travels inside an [`io::Error`].
#[derive(Debug, Error)]
pub(crate) enum ChunkReadError {
    #[error("the coordinator did not serve: {}", .0.message())]
    Coordinator(Box<Status>),
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error("instead of chunk {0} the coordinator sent another")]
    Other(Digest),
    #[error("the coordinator stopped sending before chunk {0}")]
    Ended(Digest),
}

impl ChunkReadError {
    /// The reason inside of an error of the stream.
    pub(super) fn find(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}

/// Clones share the stream's position.
#[derive(Clone)]
pub(super) struct ChunkReader {
    stream: Arc<Mutex<Pin<Box<dyn AsyncRead + Send>>>>,
}

impl ChunkReader {
    /// The contents of `digests`, in order; asked for when they are first read.
    pub(super) fn new(transfer: &Transfer, digests: &[Digest]) -> Self {
        let client = transfer.chunks();
        let parts: Vec<Vec<Digest>> = digests.chunks(MAX_ASKED).map(<[_]>::to_vec).collect();
        let parts = futures::stream::iter(parts).then(move |part| {
            let mut client = client.clone();
            async move {
                let digests = part.iter().map(|digest| digest.0.to_vec().into()).collect();
                match client.get(v1::GetRequest { digests, ..v1::GetRequest::default() }).await {
                    Ok(reply) => contents(reply.into_inner(), part.into()),
                    Err(status) => failed(ChunkReadError::Coordinator(Box::new(status))),
                }
            }
        });
        let stream = StreamReader::new(parts.flatten().map_err(io::Error::other).boxed());
        Self { stream: Arc::new(Mutex::new(Box::pin(stream))) }
    }
}

impl AsyncRead for ChunkReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.as_mut().poll_read(cx, buffer)
    }
}

type Contents = BoxStream<'static, Result<Bytes, ChunkReadError>>;

fn failed(error: ChunkReadError) -> Contents {
    futures::stream::once(async { Err(error) }).boxed()
}

fn contents(stream: Streaming<v1::Chunk>, expected: VecDeque<Digest>) -> Contents {
    futures::stream::try_unfold((stream, expected), |(mut stream, mut expected)| async move {
        let Some(digest) = expected.pop_front() else { return Ok(None) };
        let next = tokio::time::timeout(STALLED_AFTER, stream.message()).await;
        let next = next.unwrap_or_else(|_| Err(Status::deadline_exceeded("it stalled")));
        let chunk = next.map_err(|status| ChunkReadError::Coordinator(Box::new(status)))?;
        let chunk = chunk.ok_or(ChunkReadError::Ended(digest))?;
        if *chunk.digest != digest.0 {
            return Err(ChunkReadError::Other(digest));
        }
        let data = open_frame(digest, &chunk.frame)?;
        Ok(Some((Bytes::from(data), (stream, expected))))
    })
    .boxed()
}
