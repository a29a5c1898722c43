//! A plain connection to the daemon behind the proxy: requests and replies as bytes, messages as frames.

use futures::FutureExt as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::daemon::codec::{self, Encoder};
use crate::daemon::stderr::{Frame, read_frame};
use crate::daemon::{Daemon, DaemonAddress, DaemonError, Malformed, RemoteError};

/// One connection; dropping it releases its roots and ends what it does.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
    nix_version: String,
    given_up: bool,
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
        let daemon = Daemon::connect_without_settings(address).await?;
        let nix_version = daemon.nix_version().to_owned();
        let (reader, writer) = daemon.into_halves()?;
        Ok(Upstream { reader, writer, nix_version, given_up: false })
    }

    /// The daemon's version, for people.
    pub(super) fn nix_version(&self) -> &str {
        &self.nix_version
    }

    /// It is not in step any more.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Whether another connection is needed: between two requests a daemon has nothing to say.
    pub(super) fn is_lost(&mut self) -> bool {
        self.given_up || self.reader.fill_buf().now_or_never().is_some()
    }

    pub(super) async fn send(&mut self, request: &Encoder) -> Result<(), DaemonError> {
        Ok(codec::send(&mut self.writer, request).await?)
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
