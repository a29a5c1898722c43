//! The log of one attempt, each byte once and in order, across broken streams and outages.

use bytes::Bytes;
use fleet_wire::v1::{self, runs_client::RunsClient};
use tonic::{Status, Streaming};

use crate::contact::{Contact, News};
use crate::remote::Link;

/// Reads one log.
#[derive(Debug)]
pub struct LogTail {
    client: RunsClient<Link>,
    request: v1::LogsRequest,
    stream: Option<Streaming<v1::LogChunk>>,
    contact: Contact,
    held: Option<v1::LogChunk>,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the log.
    Bytes(Bytes),
    /// So many bytes are missing here, because this reader was too slow.
    Skipped(u64),
    /// Contact is lost, or there again.
    News(News),
}

impl LogTail {
    /// From the request's offset on.
    pub fn new(client: RunsClient<Link>, request: v1::LogsRequest, contact: Contact) -> Self {
        Self { client, request, stream: None, contact, held: None }
    }

    /// What comes next; nothing at the end of the log.
    pub async fn next(&mut self) -> Result<Option<Piece>, Status> {
        loop {
            if let Some(chunk) = self.held.take()
                && let Some(piece) = self.accept(chunk)
            {
                return Ok(Some(piece));
            }
            let received = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.client.logs(self.request.clone()).await {
                    Ok(response) => {
                        self.stream = Some(response.into_inner());
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            match received {
                Ok(Some(chunk)) => {
                    self.held = Some(chunk);
                    if let Some(news) = self.contact.made() {
                        return Ok(Some(Piece::News(news)));
                    }
                }
                Ok(None) => return Ok(None),
                Err(status) => {
                    self.stream = None;
                    let retry = self.contact.lost(&status).ok_or(status)?;
                    if let Some(news) = retry.news {
                        return Ok(Some(Piece::News(news)));
                    }
                    tokio::time::sleep(retry.pause).await;
                }
            }
        }
    }

    fn accept(&mut self, chunk: v1::LogChunk) -> Option<Piece> {
        if !chunk.drv.is_empty() {
            // A later stream must go on with the very attempt that this one began.
            self.request.selector.clone_from(&chunk.drv);
            self.request.attempt = chunk.attempt;
        }
        let expected = self.request.offset;
        if chunk.offset > expected {
            self.request.offset = chunk.offset;
            let skipped = chunk.offset - expected;
            self.held = Some(chunk);
            return Some(Piece::Skipped(skipped));
        }
        let known = usize::try_from(expected - chunk.offset).unwrap_or(usize::MAX).min(chunk.data.len());
        let new = chunk.data.slice(known..);
        self.request.offset += new.len() as u64;
        (!new.is_empty()).then_some(Piece::Bytes(new))
    }
}
