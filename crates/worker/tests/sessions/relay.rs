//! A relay between a worker and its coordinator: carries bytes until it is frozen, ends TLS where there is some.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fleet_identity::tls::ServerTls;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Accepts until the test ends.
pub(crate) struct Relay {
    /// How often it was frozen: connections that are older carry nothing.
    frozen: watch::Sender<usize>,
    accepted: Arc<AtomicUsize>,
}

impl Relay {
    /// From one socket to another.
    pub(crate) fn unix(near: &Path, far: &Path) -> Self {
        let (relay, far) = (Self::new(), far.to_owned());
        let listener = UnixListener::bind(near).expect("binds");
        let (frozen, accepted) = (relay.frozen.clone(), relay.accepted.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(carry(stream, far.clone(), frozen.subscribe()));
            }
        });
        relay
    }

    /// From a TLS port of this machine to a socket.
    pub(crate) async fn tls(tls: Arc<ServerTls>, far: &Path) -> (Self, SocketAddr) {
        let (relay, far) = (Self::new(), far.to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (frozen, accepted) = (relay.frozen.clone(), relay.accepted.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, far, frozen) =
                    (TlsAcceptor::from(tls.config()), far.clone(), frozen.subscribe());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        carry(stream, far, frozen).await;
                    }
                });
            }
        });
        (relay, address)
    }

    /// What is connected now carries nothing any more, and stays open.
    pub(crate) fn freeze(&self) {
        self.frozen.send_modify(|times| *times += 1);
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn new() -> Self {
        Self { frozen: watch::Sender::new(0), accepted: Arc::default() }
    }
}

async fn carry(
    mut near: impl AsyncRead + AsyncWrite + Unpin,
    far: std::path::PathBuf,
    mut frozen: watch::Receiver<usize>,
) {
    let Ok(mut far) = UnixStream::connect(far).await else { return };
    tokio::select! {
        // Both ends stay open in here.
        _ = frozen.changed() => std::future::pending().await,
        _ = copy_bidirectional(&mut near, &mut far) => {}
    }
}
