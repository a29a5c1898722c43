//! A server of a test's own that speaks S3, on a loopback port, with its one bucket in a temporary directory.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

const BUCKET: &str = "fleet-test";
const ACCESS_KEY: &str = "an-access-key";
const SECRET_KEY: &str = "a-secret-key";

/// A running server; dropping it ends it and removes its data.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    running: Option<Running>,
    directory: TempDir,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server with an empty bucket.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("the bucket");
        let (address, running) = serve(&directory, (Ipv4Addr::LOCALHOST, 0).into());
        Self { address, running: Some(running), directory }
    }

    /// The variables that lead a client to it.
    pub fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("http://{}", self.address);
        [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// A place in its bucket: `s3://BUCKET/PREFIX`.
    pub fn place(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// The files of its bucket; each has the name of its key.
    pub fn bucket(&self) -> PathBuf {
        self.directory.path().join(BUCKET)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it in the middle of whatever it does.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            // It may have ended.
            let _ = running.stop.send(());
            running.thread.join().expect("the server's thread");
        }
    }

    /// Starts it where it was, with the data it had.
    pub fn start_again(&mut self) {
        self.stop();
        let (address, running) = serve(&self.directory, self.address);
        (self.address, self.running) = (address, Some(running));
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(directory: &TempDir, address: SocketAddr) -> (SocketAddr, Running) {
    let files = FileSystem::new(directory.path()).expect("a server on a directory");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = service.build();
    let listener = TcpListener::bind(address).expect("a loopback port");
    let address = listener.local_addr().expect("its address");
    let (stop, stopped) = oneshot::channel();
    let (started, starts) = mpsc::channel();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(accept(listener, service, started, stopped));
    });
    starts.recv().expect("the server starts");
    (address, Running { stop, thread })
}

async fn accept(
    listener: TcpListener,
    service: S3Service,
    started: mpsc::Sender<()>,
    mut stopped: oneshot::Receiver<()>,
) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    started.send(()).expect("whoever started it waits");
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let service = service.clone();
        connections.spawn(async move {
            // The other end knows how it went.
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
