//! One accepted connection: bytes, who is at the other end, and what ends it from our side. Knows HTTP/2 only as
//! far as `frames` does, and HTTP/1.1 not at all.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fleet_identity::Identity;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::admission::Ticket;
use super::frames::FrameMeter;

/// Who is at the other end of a connection, as far as the connection itself says.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it is and what it has shown.
    pub(crate) origin: PeerOrigin,
    /// Cancelled to cut the connection.
    pub(crate) cut: CancellationToken,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// One request at a time; pages only. What its peer may take its time for is watched by whoever reads requests.
    Http1,
    /// Everything.
    Http2,
}

/// Where a peer is and what it has shown.
#[derive(Clone, Debug)]
pub(crate) enum PeerOrigin {
    /// This process, or this user on this machine.
    Here,
    /// Over TLS.
    Remote {
        /// From where.
        address: IpAddr,
        /// What its certificate says, if it has one.
        identity: Option<Arc<Identity>>,
    },
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// An accepted connection.
pub(crate) struct Connection {
    transport: Box<dyn Transport>,
    protocol: Protocol,
    peer: Peer,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    watch: Option<Watch>,
    /// Runs while the peer takes nothing of what we write.
    untaken: Option<Pin<Box<Sleep>>>,
    /// Given back when the connection ends.
    _ticket: Option<Ticket>,
}

/// How the bytes of a stranger's HTTP/2 are watched.
struct Watch {
    frames: FrameMeter,
    since: Instant,
    /// Until its first frame.
    greeting: Option<Pin<Box<Sleep>>>,
}

/// How long a peer may leave what we write untaken.
const TAKEN_WITHIN: Duration = Duration::from_mins(2);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    /// Of this process.
    pub(crate) fn in_memory(stream: DuplexStream) -> Self {
        Self::new(Box::new(stream), Protocol::Http2, PeerOrigin::Here, None, None)
    }

    /// Of this user on this machine.
    pub(crate) fn unix(stream: UnixStream, ticket: Ticket) -> Self {
        Self::new(Box::new(stream), Protocol::Http2, PeerOrigin::Here, None, Some(ticket))
    }

    /// Of another machine, after its handshake; with HTTP/2 it has `greeting_within` for its first frame.
    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        address: IpAddr,
        identity: Option<Identity>,
        greeting_within: Duration,
        ticket: Ticket,
    ) -> Self {
        // HTTP/2 over TLS is agreed upon in the handshake; who says nothing means the older one.
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        let watch = (protocol == Protocol::Http2).then(|| Watch {
            frames: FrameMeter::new(0),
            since: Instant::now(),
            greeting: Some(Box::pin(tokio::time::sleep(greeting_within))),
        });
        let origin = PeerOrigin::Remote { address, identity: identity.map(Arc::new) };
        Self::new(Box::new(stream), protocol, origin, watch, Some(ticket))
    }

    fn new(
        transport: Box<dyn Transport>,
        protocol: Protocol,
        origin: PeerOrigin,
        watch: Option<Watch>,
        ticket: Option<Ticket>,
    ) -> Self {
        let cut = CancellationToken::new();
        let cancelled = Box::pin(cut.clone().cancelled_owned());
        let peer = Peer { origin, cut };
        Self { transport, protocol, peer, cut: cancelled, watch, untaken: None, _ticket: ticket }
    }

    /// What is spoken here.
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Who is at the other end.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Nothing is written to a connection that was cut.
    fn not_cut(&self) -> io::Result<()> {
        if self.peer.cut.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut"));
        }
        Ok(())
    }

    /// What became of an attempt to write; an end, if the peer takes nothing for too long.
    fn written<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.untaken = None;
            return done;
        }
        let patience = || Box::pin(tokio::time::sleep(TAKEN_WITHIN));
        if self.untaken.get_or_insert_with(patience).as_mut().poll(context).is_ready() {
            tracing::info!(peer = ?self.peer.origin, "connection ended: the peer takes nothing");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")));
        }
        Poll::Pending
    }
}

impl Watch {
    fn poll_patience(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(greeting) = &mut self.greeting else { return Ok(()) };
        if greeting.as_mut().poll(context).is_ready() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer did not begin HTTP/2 in time"));
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.frames
            .take(bytes, now_ms)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the peer floods us with idle frames"))?;
        if self.frames.greeted() {
            self.greeting = None;
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut")));
        }
        if let Some(watch) = &mut this.watch {
            watch.poll_patience(context)?;
        }
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut this.transport).poll_read(context, buffer))?;
        if let Some(watch) = &mut this.watch
            && let Err(error) = watch.take(&buffer.filled()[before..])
        {
            tracing::warn!(peer = ?this.peer.origin, "connection ended: {error}");
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.not_cut()?;
        let done = Pin::new(&mut self.transport).poll_write(context, bytes);
        self.written(context, done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.not_cut()?;
        let done = Pin::new(&mut self.transport).poll_flush(context);
        self.written(context, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.not_cut()?;
        let done = Pin::new(&mut self.transport).poll_shutdown(context);
        self.written(context, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.not_cut()?;
        let done = Pin::new(&mut self.transport).poll_write_vectored(context, pieces);
        self.written(context, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}
