//! A coordinator as its own process, and ways to reach it.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use fleet_identity::tls::client_config;
use fleet_identity::{Authority, ClientToken, Credentials, NewKey, PublicKey, unix_now};
use fleet_wire::v1;
use fleet_wire::v1::admin_client::AdminClient;
use fleet_wire::v1::enrolment_client::EnrolmentClient;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Fails a test that would wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// A program with nothing of ours in its environment.
pub(crate) fn program(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-coordinator"));
    command.env_clear().env("HOME", directory).current_dir(directory).stdin(Stdio::null());
    command
}

/// Code and what was said of a program that ends by itself.
pub(crate) fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A coordinator that runs.
pub(crate) struct Running {
    pub(crate) directory: TempDir,
    child: Child,
    lines: Receiver<String>,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::start_with("", |_| {})
    }

    /// With more lines in its file, and a change of its command.
    pub(crate) fn start_with(more: &str, change: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::start_in(directory, more, change)
    }

    pub(crate) fn start_in(directory: TempDir, more: &str, change: impl FnOnce(&mut Command)) -> Self {
        Self::start_until("listening", directory, more, change)
    }

    /// One that waits for another.
    pub(crate) fn standing_by(more: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self::start_until("standing by", directory, more, |_| {})
    }

    fn start_until(text: &str, directory: TempDir, more: &str, change: impl FnOnce(&mut Command)) -> Self {
        write_file(directory.path(), more);
        let mut command = program(directory.path());
        command.arg("--config").arg(directory.path().join("coordinator.toml"));
        change(&mut command);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = lines_of(child.stderr.take().expect("it is piped"));
        let mut running = Self { directory, child, lines, address: ([127, 0, 0, 1], 0).into() };
        let line = running.wait_for(text);
        let address = line.split("address=").nth(1).expect("it listens on TCP").trim();
        running.address = address.parse().expect("an address");
        running
    }

    /// The next line with this text.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        let mut said = String::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => said = said + &line + "\n",
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("it does not say {text:?}, but:\n{said}")
                }
            }
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.state().join("coordinator.sock")
    }

    /// Writes its configuration file again.
    pub(crate) fn configure(&self, more: &str) {
        write_file(self.directory.path(), more);
    }

    /// What it has said and nobody waited for.
    pub(crate) fn said_so_far(&self) -> String {
        self.lines.try_iter().map(|line| line + "\n").collect()
    }

    /// The most memory that it ever had, KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill runs");
        assert!(sent.success());
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        // The lines end when the program does.
        let until = Instant::now() + PATIENCE;
        while self.lines.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
        self.child.wait().expect("it ends")
    }

    /// A channel over the Unix socket.
    pub(crate) fn local(&self) -> Channel {
        let socket = self.socket();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://coordinator").connect_with_connector_lazy(connector)
    }

    /// The CA that its port shows.
    pub(crate) fn authority(&self) -> Authority {
        Authority::open(&self.state().join("ca"), unix_now()).expect("the coordinator made it")
    }

    /// What a client trusts, and shows if anything.
    pub(crate) fn tls(&self, shown: Option<&Credentials>) -> Arc<rustls::ClientConfig> {
        client_config(&self.authority().certificates(), shown).expect("good credentials")
    }

    /// A channel over TLS.
    pub(crate) fn remote(&self, shown: Option<&Credentials>) -> Channel {
        dial(self.address, self.tls(shown))
    }

    /// A TLS connection, for bytes.
    pub(crate) async fn raw(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        connect(self.address, self.tls(None)).await.expect("a handshake")
    }

    /// A new join token.
    pub(crate) async fn join_token(&self, name: &str) -> String {
        let request = v1::CreateJoinTokenRequest { name: name.to_owned(), ..Default::default() };
        let reply = within(AdminClient::new(self.local()).create_join_token(request)).await;
        reply.expect("this user may").into_inner().token
    }

    /// A new client token.
    pub(crate) async fn client_token(&self, name: &str, role: v1::Role) -> String {
        let request = v1::CreateClientTokenRequest { name: name.to_owned(), role: role.into(), ttl_s: 0 };
        let reply = within(AdminClient::new(self.local()).create_client_token(request)).await;
        let token = reply.expect("this user may").into_inner().token;
        assert!(token.parse::<ClientToken>().is_ok());
        token
    }

    /// An enrolled worker's credentials.
    pub(crate) async fn enrolled(&self, name: &str) -> Credentials {
        let token = self.join_token(name).await;
        let key = NewKey::generate();
        let reply = enrol(self.remote(None), &token, &key).await.expect("a good token");
        credentials(&key, &reply)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What came for a key.
pub(crate) fn credentials(key: &NewKey, reply: &v1::EnrolReply) -> Credentials {
    let der = |bytes: &bytes::Bytes| bytes.to_vec().into();
    Credentials {
        chain: reply.chain.iter().map(der).collect(),
        key: key.private(),
        authorities: reply.authorities.iter().map(der).collect(),
    }
}

pub(crate) async fn enrol(channel: Channel, token: &str, key: &NewKey) -> Result<v1::EnrolReply, Status> {
    let request = v1::EnrolRequest { token: token.to_owned(), request: key.request().into() };
    within(EnrolmentClient::new(channel).enrol(request)).await.map(tonic::Response::into_inner)
}

/// A certificate of a CA, made at any time for any client.
pub(crate) fn client(
    authority: &Authority,
    name: &str,
    role: fleet_identity::Role,
    made: u64,
) -> Credentials {
    let name = name.parse().expect("a name");
    authority.make_client(made, 3600, &name, role).expect("a certificate")
}

/// A worker's certificate that no enrolment stands behind.
pub(crate) fn worker(authority: &Authority, name: &str, made: u64) -> Credentials {
    let key = NewKey::generate();
    let grant = fleet_identity::Grant {
        name: name.parse().expect("a name"),
        enrolment: fleet_identity::TokenId::random(),
    };
    let public = PublicKey::from_request(&key.request()).expect("a good request");
    let issued = authority.sign_worker(made, &grant, &public).expect("a certificate");
    let chain = vec![issued.certificate.into()];
    Credentials { chain, key: key.private(), authorities: authority.certificates() }
}

pub(crate) async fn connect(
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(tls).connect(name, stream).await
}

pub(crate) fn dial(address: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move { connect(address, tls).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://coordinator").connect_with_connector_lazy(connector)
}

/// A request with a bearer token.
pub(crate) fn bearing<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", header);
    request
}

/// Asks whether the coordinator is in order.
pub(crate) async fn check_health(channel: Channel) -> Result<i32, Status> {
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let reply = within(client.check(tonic_health::pb::HealthCheckRequest::default())).await?;
    Ok(reply.into_inner().status)
}

/// A procedure of no arguments that readers may call.
pub(crate) async fn list_runs(channel: Channel, token: Option<&str>) -> Code {
    let request = v1::ListRunsRequest::default();
    let request = token.map_or_else(|| Request::new(request), |token| bearing(request, token));
    let answer = within(v1::runs_client::RunsClient::new(channel).list(request)).await;
    answer.err().map_or(Code::Ok, |status| status.code())
}

/// A socket as a service manager has it.
pub(crate) struct Manager {
    socket: UnixDatagram,
    pub(crate) path: PathBuf,
}

impl Manager {
    pub(crate) fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        Self { socket, path }
    }

    /// Waits until it is told this.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|_| panic!("nobody says {text}"));
            let told = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if told.lines().any(|line| line.contains(text)) {
                return told;
            }
        }
    }
}

fn write_file(directory: &Path, more: &str) {
    let state = directory.join("state");
    let text = format!("state_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n{more}", state.display());
    std::fs::write(directory.join("coordinator.toml"), text).expect("a file");
}

fn lines_of(stderr: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
