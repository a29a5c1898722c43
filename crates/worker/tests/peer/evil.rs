//! A worker of the fleet that gives what it should not. Its certificate is good.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use fleet_identity::{Credentials, tls};
use fleet_store::{Digest, RawChunk, seal_frame};
use fleet_wire::v1;
use fleet_wire::v1::fetch_reply::Reply;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::hall::{Hall, Machine, file_nar, noise};

/// What it says, whatever it is asked.
struct Evil(Vec<Reply>);

#[tonic::async_trait]
impl v1::peer_server::Peer for Evil {
    type FetchStream = BoxStream<'static, Result<v1::FetchReply, Status>>;

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        request.into_inner().message().await?;
        let replies: Vec<_> =
            self.0.iter().map(|reply| Ok(v1::FetchReply { reply: Some(reply.clone()) })).collect();
        // It does not hang up.
        Ok(Response::new(futures::stream::iter(replies).chain(futures::stream::pending()).boxed()))
    }
}

async fn listen(machine: &Machine, replies: Vec<Reply>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let credentials = Credentials::read(&machine.credentials).expect("a certificate");
    let acceptor = TlsAcceptor::from(tls::peer_server_config(&credentials).expect("usable"));
    let incoming = futures::stream::unfold((listener, acceptor), |(listener, acceptor)| async move {
        let (stream, _) = listener.accept().await.ok()?;
        let stream = acceptor.accept(stream).await.map(Wire);
        Some((stream, (listener, acceptor)))
    });
    let service = v1::peer_server::PeerServer::new(Evil(replies));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    address
}

struct Wire(TlsStream<TcpStream>);

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn chunk(digest: Digest, frame: Bytes) -> Reply {
    Reply::Chunk(v1::FetchChunk { path: 0, digest: digest.0.to_vec().into(), frame })
}

fn honest(data: &[u8]) -> Reply {
    let raw = RawChunk { digest: Digest::of(data), data: data.to_vec() };
    chunk(raw.digest, seal_frame(&raw).expect("seals"))
}

const END: Reply = Reply::End(v1::FetchEnd { path: 0 });

/// Whatever the evil one says, the path comes from somebody else, as it should be.
async fn is_survived(replies: impl FnOnce(&[u8]) -> Vec<Reply>) {
    let hall = Hall::open();
    let (evil, good, here) = (hall.machine("evil"), hall.machine("good"), hall.machine("here"));
    let nar = file_nar(&noise(1, 200_000));
    let info = good.add(&hall.path("a"), &nar, &[]).await;
    let server = good.serve(&hall).await;
    let desk = hall.desk(&[&info]);
    let replies = replies(&nar);
    desk.tell("evil", listen(&evil, replies).await, "here", &[&info]);
    desk.tell("good", server.address(), "here", &[&info]);
    here.fetch(&hall, &desk).await.expect("fetched");
    assert!(here.nar(&info).await == nar);
    assert!(desk.relays().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_under_a_false_name_is_noticed() {
    is_survived(|nar| {
        let other = RawChunk { digest: Digest::of(b"x"), data: b"x".to_vec() };
        vec![chunk(Digest::of(nar), seal_frame(&other).expect("seals")), END]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_in_place_of_a_frame_is_noticed() {
    is_survived(|nar| vec![chunk(Digest::of(nar), Bytes::from(noise(3, 1000))), END]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_under_true_names_are_noticed_by_the_daemon() {
    is_survived(|nar| vec![honest(&file_nar(&noise(2, 200_000))[..nar.len()]), END]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_archive_are_noticed() {
    is_survived(|nar| vec![honest(&noise(3, nar.len())), END]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_bytes_are_noticed() {
    is_survived(|nar| vec![honest(&nar[..1000]), END]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_bytes_are_noticed() {
    is_survived(|nar| vec![honest(nar), honest(b"more"), END]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_other_questions_are_noticed() {
    is_survived(|_| vec![Reply::End(v1::FetchEnd { path: 7 })]).await;
    is_survived(|_| vec![Reply::Manifest(v1::FetchManifest { path: 0, manifest: None })]).await;
    is_survived(|_| vec![Reply::Gone(v1::FetchGone { path: 9 })]).await;
}
