//! A coordinator that says exactly what a test tells it, and steps of a real daemon's store for it to lease.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fleet_nix::NarHash;
use fleet_nix::daemon::DaemonAddress;
use fleet_nix::derivation::Derivation;
use fleet_nix::nar_dump::dump_path;
use fleet_nix::store_path::{StoreDir, StorePath};
use fleet_store::{Digest, cut, seal_frame};
use fleet_testkit::NixDaemon;
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message;
use fleet_wire::v1::worker_message::Message as FromWorker;
use fleet_worker::{Config, Worker, WorkerError};
use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Fails a test that would wait for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// One worker at a real daemon, and this end of its session.
pub(crate) struct Driven {
    pub(crate) hello: v1::Hello,
    outbox: Option<mpsc::Sender<Result<v1::CoordinatorMessage, Status>>>,
    inbound: Streaming<v1::WorkerMessage>,
    worker: JoinHandle<Result<(), WorkerError>>,
    stop: CancellationToken,
    leases: u64,
    _server: DropGuard,
}

impl Driven {
    pub(crate) async fn start(daemon: &NixDaemon, sources: &[&Packed]) -> Self {
        let address = DaemonAddress::from_store_uri(&daemon.store_uri()).expect("a daemon's address");
        let mut config = Config::new("w".to_owned(), daemon.scratch().join("cache"), address);
        config.nix = daemon.nix_bin();
        (config.slots, config.eval_slots) = (2, 1);
        let socket = daemon.scratch().join("c");
        let server = CancellationToken::new();
        let mut sessions = serve(&socket, sources, server.clone());
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://scripted").connect_with_connector_lazy(connector);
        let prepared = within(Worker::prepare(config)).await.expect("the worker finds its daemon");
        let stop = CancellationToken::new();
        let worker = tokio::spawn(prepared.run(channel, stop.clone()));
        let (hello, inbound, outbox) = within(sessions.recv()).await.expect("a session");
        let outbox = Some(outbox);
        Self { hello, outbox, inbound, worker, stop, leases: 0, _server: server.drop_guard() }
    }

    pub(crate) async fn say(&self, message: Message) {
        let outbox = self.outbox.as_ref().expect("an open session");
        let message = v1::CoordinatorMessage { message: Some(message) };
        within(outbox.send(Ok(message))).await.expect("the worker listens");
    }

    /// The next message, heartbeats and phases left out.
    pub(crate) async fn hear(&mut self) -> FromWorker {
        loop {
            let heard =
                within(self.inbound.message()).await.expect("the session goes on").expect("a message");
            match heard.message.expect("a message") {
                FromWorker::Heartbeat(_) | FromWorker::StepPhased(_) => {}
                message => return message,
            }
        }
    }

    /// Leases one step and gives the lease's number.
    pub(crate) async fn lease(&mut self, work: &v1::StepWork) -> u64 {
        self.leases += 1;
        let (lease, steps) = (self.leases, vec![work.clone()]);
        self.say(Message::Lease(v1::Lease { lease, epoch: 9, steps })).await;
        lease
    }

    /// Leases one step and hears all of it.
    pub(crate) async fn build(&mut self, work: &v1::StepWork) -> Built {
        let lease = self.lease(work).await;
        let (mut log, mut begun, mut report) = (Vec::new(), false, None);
        loop {
            match self.hear().await {
                FromWorker::StepBegun(_) => begun = true,
                FromWorker::StepLogged(logged) => log.extend_from_slice(&logged.data),
                FromWorker::StepReported(reported) => report = Some(reported),
                FromWorker::LeaseFinished(finished) => {
                    assert_eq!((finished.lease, finished.epoch), (lease, 9));
                    let report = report.expect("a report before the lease's end");
                    let log = String::from_utf8_lossy(&log).into_owned();
                    return Built { outcome: report.outcome(), report, begun, log };
                }
                other => panic!("not of a lease: {other:?}"),
            }
        }
    }

    /// Gives an eval job and hears all of it.
    pub(crate) async fn evaluate(
        &mut self,
        job: u64,
        source: &Packed,
        task: v1::eval_job::Task,
    ) -> Evaluation {
        let source = Some(source.source.clone());
        self.say(Message::EvalJob(v1::EvalJob { job, epoch: 3, source, task: Some(task) })).await;
        let mut heard = Evaluation::default();
        loop {
            match self.hear().await {
                FromWorker::HostsDiscovered(found) => heard.hosts = found.hosts,
                FromWorker::HostStarted(_) => {}
                FromWorker::DerivationsSeen(seen) => heard.derivations.extend(seen.derivations),
                FromWorker::HostEvaluated(host) => {
                    let name = host.host.clone().expect("a host").name;
                    heard.results.push((name, host.result.expect("a result")));
                }
                FromWorker::EvalFinished(finished) => {
                    assert_eq!((finished.job, finished.epoch), (job, 3));
                    heard.finished = finished;
                    return heard;
                }
                other => panic!("not of an eval job: {other:?}"),
            }
        }
    }

    pub(crate) async fn realise(&mut self, job: u64, path: &str, run: &str) -> v1::PathsRealised {
        let realise =
            v1::Realise { job, epoch: 4, path: path.to_owned(), closure: true, run: run.to_owned() };
        self.say(Message::Realise(realise)).await;
        let mut infos = Vec::new();
        loop {
            match self.hear().await {
                FromWorker::PathsRealised(mut realised) => {
                    infos.append(&mut realised.infos);
                    if realised.done {
                        return v1::PathsRealised { infos, ..realised };
                    }
                }
                other => panic!("not of a realise job: {other:?}"),
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// Closes the coordinator's half without a word.
    pub(crate) fn close(&mut self) {
        self.outbox = None;
    }

    /// How the worker ended.
    pub(crate) async fn ended(self) -> Result<(), WorkerError> {
        within(self.worker).await.expect("no panic")
    }
}

/// What came of a step.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) outcome: v1::OutcomeClass,
    pub(crate) report: v1::StepReported,
    pub(crate) begun: bool,
    pub(crate) log: String,
}

/// What came of an eval job.
#[derive(Debug, Default)]
pub(crate) struct Evaluation {
    pub(crate) hosts: Vec<v1::Host>,
    pub(crate) derivations: Vec<v1::Derivation>,
    pub(crate) results: Vec<(String, v1::host_evaluated::Result)>,
    pub(crate) finished: v1::EvalFinished,
}

/// A derivation whose builder runs a shell script.
pub(crate) fn script(name: &str, script: &str) -> String {
    format!(
        r#"derivation {{ name = "{name}"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" ''{script}'' ]; }}"#
    )
}

/// The step that a coordinator would lease for an expression.
pub(crate) fn step(daemon: &NixDaemon, expression: &str) -> v1::StepWork {
    let store = StoreDir::default();
    let (path, derivation) = read(daemon, &daemon.instantiate(expression));
    let output_of = |drv: &StorePath, output: &fleet_nix::OutputName| {
        read(daemon, &store.print(drv)).1.output_path(output).cloned()
    };
    let basic = derivation.resolve(&store, output_of).expect("inputs are known");
    v1::StepWork {
        drv: path.to_string(),
        attempt: 1,
        basic_derivation: basic.to_aterm(&store).into(),
        inputs: basic.input_srcs.iter().map(ToString::to_string).collect(),
        output_names: basic.outputs.keys().map(ToString::to_string).collect(),
        timeout_s: 60,
        max_silent_s: 60,
        max_log_bytes: 1 << 20,
        max_output_bytes: 0,
    }
}

fn read(daemon: &NixDaemon, drv: &str) -> (StorePath, Derivation) {
    let store = StoreDir::default();
    let path = store.parse(drv).expect("a store path");
    let aterm = std::fs::read(daemon.physical(drv)).expect("the derivation is in the store");
    let name = path.derivation_name().expect("a derivation").to_owned();
    (path, Derivation::parse(&store, &name, &aterm).expect("parses"))
}

/// A tree as a client uploads it.
pub(crate) struct Packed {
    pub(crate) source: v1::Source,
    pub(crate) chunks: Vec<(Bytes, Bytes)>,
}

impl Packed {
    /// A flake with these outputs.
    pub(crate) fn flake(daemon: &NixDaemon, outputs: &str) -> Self {
        let tree = daemon.scratch().join("tree");
        std::fs::create_dir_all(&tree).expect("a directory");
        std::fs::write(tree.join("flake.nix"), format!("{{ outputs = {{ self }}: {outputs}; }}"))
            .expect("writes");
        let nar = dump_path(&tree, Vec::new()).expect("packs");
        let (mut refs, mut chunks) = (Vec::new(), Vec::new());
        for chunk in cut(&nar[..]) {
            let chunk = chunk.expect("cuts");
            let digest = Bytes::copy_from_slice(&chunk.digest.0);
            let size = u32::try_from(chunk.data.len()).expect("small");
            refs.push(v1::ChunkRef { digest: digest.clone(), size });
            chunks.push((digest, seal_frame(&chunk).expect("compresses")));
        }
        let source = v1::Source {
            nar_hash: NarHash::of(&nar).0.to_vec().into(),
            nar_size: nar.len() as u64,
            last_modified: 1_700_000_000,
            manifest: Some(v1::Manifest { chunks: refs }),
            ..v1::Source::default()
        };
        Self { source, chunks }
    }
}

type Opened = (v1::Hello, Streaming<v1::WorkerMessage>, mpsc::Sender<Result<v1::CoordinatorMessage, Status>>);

fn serve(socket: &std::path::Path, sources: &[&Packed], stop: CancellationToken) -> mpsc::Receiver<Opened> {
    let (sender, sessions) = mpsc::channel(4);
    let listener = UnixListener::bind(socket).expect("binds");
    let chunks = sources.iter().flat_map(|packed| packed.chunks.iter().cloned()).collect();
    let server = Server::builder()
        .add_service(v1::workers_server::WorkersServer::new(Sessions(sender)))
        .add_service(v1::chunks_server::ChunksServer::new(Chunks(Arc::new(chunks))))
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(async move { stop.run_until_cancelled(server).await });
    sessions
}

struct Sessions(mpsc::Sender<Opened>);

#[tonic::async_trait]
impl v1::workers_server::Workers for Sessions {
    type SessionStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let hello = match inbound.message().await?.and_then(|message| message.message) {
            Some(FromWorker::Hello(hello)) => hello,
            other => panic!("not a hello: {other:?}"),
        };
        let (outbox, messages) = mpsc::channel(64);
        self.0.send((hello, inbound, outbox)).await.expect("the test listens");
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

struct Chunks(Arc<BTreeMap<Bytes, Bytes>>);

#[tonic::async_trait]
impl v1::chunks_server::Chunks for Chunks {
    async fn find_missing(
        &self,
        _: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingReply>, Status> {
        panic!("a worker does not ask this")
    }

    async fn put(&self, _: Request<Streaming<v1::Chunk>>) -> Result<Response<v1::PutReply>, Status> {
        panic!("a worker does not send chunks")
    }

    type GetStream = Pin<Box<dyn Stream<Item = Result<v1::Chunk, Status>> + Send>>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let chunks = self.0.clone();
        let found = request.into_inner().digests.into_iter().map(move |digest| {
            let name =
                Digest::try_from(&*digest).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let frame = chunks.get(&digest).cloned();
            let frame = frame.ok_or_else(|| Status::not_found(format!("chunk {name} is not here")))?;
            Ok(v1::Chunk { digest, frame })
        });
        Ok(Response::new(Box::pin(futures::stream::iter(found))))
    }
}
