//! A plain connection to the daemon behind the proxy: requests and replies as bytes, messages as frames.

use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::StorePath;
use crate::daemon::codec::{self, Encoder};
use crate::daemon::handshake::greet_server;
use crate::daemon::stderr::{Frame, read_frame};
use crate::daemon::{DaemonAddress, DaemonError, Malformed, Operation, RemoteError};

/// How long the daemon may take to greet.
const GREETING: Duration = Duration::from_secs(30);

/// One connection; dropping it releases its roots and ends what it does.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
    address: DaemonAddress,
    nix_version: String,
}

/// What the daemon says between a request and its reply.
#[derive(Debug)]
pub(super) enum Told {
    /// Text for people.
    Text(Vec<u8>),
    /// The reply follows.
    Done,
    /// No reply follows.
    Failed(RemoteError),
}

impl Upstream {
    pub(super) async fn connect(address: &DaemonAddress) -> Result<Self, DaemonError> {
        let timed_out = || DaemonError::GreetingTimedOut { socket: address.socket.clone(), limit: GREETING };
        tokio::time::timeout(GREETING, Self::greet(address)).await.map_err(|_| timed_out())?
    }

    async fn greet(address: &DaemonAddress) -> Result<Self, DaemonError> {
        let stream = UnixStream::connect(&address.socket)
            .await
            .map_err(|source| DaemonError::Connect { socket: address.socket.clone(), source })?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let greeting = greet_server(&mut reader, &mut writer).await?;
        let mut upstream =
            Upstream { reader, writer, address: address.clone(), nix_version: greeting.nix_version };
        upstream.finish().await?.map_err(Box::new)?;
        Ok(upstream)
    }

    /// The daemon's version, for people.
    pub(super) fn nix_version(&self) -> &str {
        &self.nix_version
    }

    pub(super) async fn send(&mut self, request: &Encoder) -> Result<(), DaemonError> {
        Ok(codec::send(&mut self.writer, request).await?)
    }

    /// Keeps a path until the connection ends, whether it is valid yet or not.
    pub(super) async fn add_temp_root(&mut self, path: &StorePath) -> Result<(), DaemonError> {
        let mut request = Encoder::new();
        request.word(Operation::AddTempRoot.word()).path(&self.address.store_dir, path);
        self.send(&request).await?;
        if self.finish().await?.is_ok() {
            codec::read_u64(&mut self.reader).await?;
        }
        Ok(())
    }

    /// Passes over messages up to the end of the work. The outer error means a broken connection.
    async fn finish(&mut self) -> Result<Result<(), RemoteError>, DaemonError> {
        loop {
            match next(&mut self.reader).await? {
                Told::Done => return Ok(Ok(())),
                Told::Failed(error) => return Ok(Err(error)),
                Told::Text(_) => {}
            }
        }
    }
}

/// The next message that concerns a client; progress and activities concern nobody.
pub(super) async fn next(reader: &mut BufReader<OwnedReadHalf>) -> Result<Told, DaemonError> {
    loop {
        match read_frame(reader).await? {
            Frame::Last => return Ok(Told::Done),
            Frame::Error(error) => return Ok(Told::Failed(error)),
            Frame::Next(text) => return Ok(Told::Text(text)),
            Frame::Read(_) => return Err(Malformed::Unexpected("a demand for data").into()),
            Frame::Write(_) => return Err(Malformed::Unexpected("data").into()),
            Frame::StartActivity { .. } | Frame::StopActivity(_) | Frame::Result { .. } => {}
        }
    }
}
