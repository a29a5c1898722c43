//! The connection to one evaluator: the server's half of the protocol.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Take};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::daemon::codec::{self, Encoder};
use crate::daemon::handshake::{Greeting, greet_client};
use crate::daemon::stderr::Frame;
use crate::daemon::{Dialect, NEWEST, ReadError, RemoteError, Trust};

/// How long a client may take to greet, or to hang up after a refusal.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest request, without the body of an addition.
const REQUEST: u64 = 16 * 1024 * 1024;
/// What a client may still send after a refusal.
const LEFTOVERS: u64 = 256 * 1024 * 1024;

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
}

impl Client {
    /// Greets; afterwards the client waits for the end of our start-up, or an error.
    pub(super) async fn greet(stream: UnixStream, nix_version: &str) -> Result<Client, ReadError> {
        let (reader, writer) = stream.into_split();
        let mut client = Client { reader: BufReader::new(reader), writer };
        let greeting = Greeting {
            dialect: Dialect::plain(NEWEST),
            nix_version: nix_version.to_owned(),
            trust: Trust::NotTrusted,
        };
        let greeted = greet_client(&mut client.reader, &mut client.writer, &greeting);
        timeout(PATIENCE, greeted).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(client)
    }

    /// The number of the next operation; nothing when the client hung up.
    pub(super) async fn next_operation(&mut self) -> Result<Option<u64>, ReadError> {
        if self.reader.fill_buf().await?.is_empty() {
            return Ok(None);
        }
        codec::read_u64(&mut self.reader).await.map(Some)
    }

    /// The request that begins here. It ends where the longest one would.
    pub(super) fn request(&mut self) -> Take<&mut BufReader<OwnedReadHalf>> {
        (&mut self.reader).take(REQUEST)
    }

    /// Says that the work is done, and what came of it.
    pub(super) async fn reply(&mut self, reply: &Encoder) -> io::Result<()> {
        let mut message = Encoder::new();
        message.frame(&Frame::Last).raw(reply.as_bytes());
        codec::send(&mut self.writer, &message).await
    }

    /// Says that the work failed; the connection stays in step.
    pub(super) async fn fail(&mut self, error: RemoteError) -> io::Result<()> {
        codec::send(&mut self.writer, Encoder::new().frame(&Frame::Error(error))).await
    }

    /// Says why nothing more is answered, and gives the client time to read it.
    pub(super) async fn dismiss(mut self, message: &str) -> io::Result<()> {
        self.fail(refusal(message.to_owned())).await?;
        self.writer.shutdown().await?;
        let mut leftovers = self.reader.take(LEFTOVERS);
        let _ = timeout(PATIENCE, tokio::io::copy(&mut leftovers, &mut tokio::io::sink())).await;
        Ok(())
    }
}

/// Waits until the client hangs up; never ends while it has more to say.
pub(super) async fn gone(reader: &mut BufReader<OwnedReadHalf>) {
    match reader.fill_buf().await {
        Ok(bytes) if !bytes.is_empty() => std::future::pending().await,
        _ => {}
    }
}

/// An error of ours.
pub(super) fn refusal(message: String) -> RemoteError {
    RemoteError { level: 0, message, traces: Vec::new() }
}
