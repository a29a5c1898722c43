//! A plain connection to the daemon behind the proxy: requests and replies as bytes, messages as frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    faults: Faults,
}

/// How often a daemon failed those behind the proxy.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<AtomicU64>);

impl Faults {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
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
    pub(super) async fn connect(address: &DaemonAddress, faults: &Faults) -> Result<Self, DaemonError> {
        let daemon = Daemon::connect_without_settings(address).await.inspect_err(|_| faults.add())?;
        let nix_version = daemon.nix_version().to_owned();
        let (reader, writer) = daemon.into_halves()?;
        Ok(Upstream { reader, writer, nix_version, given_up: false, faults: faults.clone() })
    }

    /// The daemon's version, for people.
    pub(super) fn nix_version(&self) -> &str {
        &self.nix_version
    }

    /// It is not in step any more.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
        self.faults.add();
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
