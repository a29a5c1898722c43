//! One connection to a daemon, and the rule that keeps it in step: an operation takes the connection out, and
//! puts it back only when the daemon's answer has been read to its last byte.
//!
//! So a cancelled future, an error of the protocol or a stop asked for by an observer drops the connection
//! with the operation. The daemon notices and stops what it did for us.

use std::pin::pin;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::address::DaemonAddress;
use super::codec::{self, Encoder};
use super::error::{DaemonError, RemoteError};
use super::framed::FramedError;
use super::handshake::{self, Greeting};
use super::log::{Observer, ignore};
use super::settings::Settings;
use super::stderr;
use super::version::{Dialect, Protocol, Trust};
use crate::store_path::StoreDir;

/// A socket-activated daemon on a busy machine needs seconds; one that needs more does not work.
const GREETING_LIMIT: Duration = Duration::from_secs(30);

/// A connection to a Nix daemon. Dropping it ends whatever the daemon does for it.
#[derive(Debug)]
pub struct Daemon {
    greeting: Greeting,
    store: StoreDir,
    connection: Option<Connection>,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: OwnedWriteHalf,
}

pub(crate) type Reader = BufReader<OwnedReadHalf>;

impl Daemon {
    /// Connects, greets, and sets [`Settings::default`].
    pub async fn connect(address: &DaemonAddress) -> Result<Self, DaemonError> {
        Self::connect_within(address, GREETING_LIMIT).await
    }

    /// Connects, with a limit for everything up to the first request.
    pub async fn connect_within(address: &DaemonAddress, limit: Duration) -> Result<Self, DaemonError> {
        let attempt = async {
            let mut daemon = Self::open(address).await?;
            daemon.set_options(&Settings::default()).await?;
            Ok(daemon)
        };
        in_time(address, limit, attempt).await
    }

    /// Connects and greets, and leaves the daemon's settings its own.
    pub(crate) async fn connect_without_settings(address: &DaemonAddress) -> Result<Self, DaemonError> {
        in_time(address, GREETING_LIMIT, Self::open(address)).await
    }

    async fn open(address: &DaemonAddress) -> Result<Self, DaemonError> {
        let socket = || address.socket.clone();
        let stream = UnixStream::connect(&address.socket)
            .await
            .map_err(|source| DaemonError::Connect { socket: socket(), source })?;
        Self::greet(stream, address.store_dir.clone()).await.map_err(|error| match error {
            DaemonError::Io(_) => DaemonError::HungUp { socket: socket() },
            error => error,
        })
    }

    /// Greets the daemon at the other end of a stream. Its settings are still its own.
    pub async fn greet(stream: UnixStream, store: StoreDir) -> Result<Self, DaemonError> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::with_capacity(codec::FRAME, reader);
        let greeting = handshake::greet_server(&mut reader, &mut writer).await?;
        stderr::listen(&mut reader, &mut ignore).await?.map_err(Box::new)?;
        Ok(Self { greeting, store, connection: Some(Connection { reader, writer }) })
    }

    /// The daemon's version, for people: Lix and others have names of their own.
    pub fn nix_version(&self) -> &str {
        &self.greeting.nix_version
    }

    /// The protocol both ends speak.
    pub fn protocol(&self) -> Protocol {
        self.greeting.dialect.protocol
    }

    /// Whether the daemon lets us build input-addressed derivations, import unsigned paths and change all
    /// settings.
    pub fn trust(&self) -> Trust {
        self.greeting.trust
    }

    /// The store directory of all paths.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store
    }

    /// Whether an operation was cut short: then every other fails too.
    pub fn is_poisoned(&self) -> bool {
        self.connection.is_none()
    }

    /// The two ends of the stream, for one who writes requests of others.
    pub(crate) fn into_halves(self) -> Result<(Reader, OwnedWriteHalf), DaemonError> {
        let Connection { reader, writer } = self.connection.ok_or(DaemonError::Poisoned)?;
        Ok((reader, writer))
    }

    pub(super) fn dialect(&self) -> &Dialect {
        &self.greeting.dialect
    }

    pub(super) fn take(&mut self) -> Result<Connection, DaemonError> {
        self.connection.take().ok_or(DaemonError::Poisoned)
    }

    pub(super) fn put_back(&mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    /// Sends a request and hears the daemon out up to its answer.
    pub(super) async fn call(
        &mut self,
        request: &Encoder,
        observer: Observer<'_>,
    ) -> Result<Answer<'_>, DaemonError> {
        let mut connection = self.take()?;
        let Connection { reader, writer } = &mut connection;
        let sending = async { codec::send(writer, request).await.map_err(FramedError::Stream) };
        let outcome = exchange(reader, observer, sending).await?;
        self.settle(connection, outcome)
    }

    /// After an error that the daemon reports in the right place, both ends are still in step.
    pub(super) fn settle(
        &mut self,
        connection: Connection,
        outcome: Result<(), RemoteError>,
    ) -> Result<Answer<'_>, DaemonError> {
        match outcome {
            Ok(()) => Ok(Answer {
                connection,
                slot: &mut self.connection,
                store: &self.store,
                dialect: &self.greeting.dialect,
            }),
            Err(error) => {
                self.put_back(connection);
                Err(Box::new(error).into())
            }
        }
    }
}

async fn in_time(
    address: &DaemonAddress,
    limit: Duration,
    attempt: impl Future<Output = Result<Daemon, DaemonError>>,
) -> Result<Daemon, DaemonError> {
    let timed_out = || DaemonError::GreetingTimedOut { socket: address.socket.clone(), limit };
    tokio::time::timeout(limit, attempt).await.map_err(|_| timed_out())?
}

/// An answer about to be read. Dropping it before [`Answer::end`] closes the connection.
pub(super) struct Answer<'a> {
    connection: Connection,
    slot: &'a mut Option<Connection>,
    pub(super) store: &'a StoreDir,
    pub(super) dialect: &'a Dialect,
}

impl Answer<'_> {
    pub(super) fn reader(&mut self) -> &mut Reader {
        &mut self.connection.reader
    }

    /// All has been read.
    pub(super) fn end(self) {
        *self.slot = Some(self.connection);
    }

    /// The answer is a single word that says nothing.
    pub(super) async fn end_with_word(mut self) -> Result<(), DaemonError> {
        codec::read_u64(self.reader()).await?;
        self.end();
        Ok(())
    }
}

/// Sends while listening: a daemon that talks before it has read everything must not wait for us, nor we for
/// it. The outer error closes the connection; so does an error of the daemon before everything was sent, for
/// it may take the rest of a body for its next request.
pub(super) async fn exchange(
    reader: &mut Reader,
    observer: Observer<'_>,
    sending: impl Future<Output = Result<(), FramedError>>,
) -> Result<Result<(), RemoteError>, DaemonError> {
    let mut sending = pin!(sending);
    let mut listening = pin!(stderr::listen(reader, observer));
    tokio::select! {
        biased;
        sent = &mut sending => match sent {
            Ok(()) => listening.await,
            Err(FramedError::Body(error)) => Err(DaemonError::Source(error)),
            // A daemon that closes the connection has often said why.
            Err(FramedError::Stream(error)) => match listening.await {
                Ok(Err(remote)) => Err(Box::new(remote).into()),
                _ => Err(DaemonError::Io(error)),
            },
        },
        heard = &mut listening => match heard? {
            Ok(()) => match sending.await {
                Ok(()) => Ok(Ok(())),
                Err(FramedError::Body(error)) => Err(DaemonError::Source(error)),
                Err(FramedError::Stream(error)) => Err(DaemonError::Io(error)),
            },
            Err(remote) => Err(Box::new(remote).into()),
        },
    }
}
