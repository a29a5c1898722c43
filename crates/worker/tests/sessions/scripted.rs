//! A coordinator that says exactly what a test tells it, and steps of a real daemon's store for it to lease.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fleet_nix::NarHash;
use fleet_nix::daemon::DaemonAddress;
use fleet_nix::derivation::Derivation;
use fleet_nix::nar_dump::dump_path;
use fleet_nix::store_path::{StoreDir, StorePath};
use fleet_store::{cut, seal_frame};
use fleet_testkit::{DaemonOptions, NixDaemon};
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message;
use fleet_wire::v1::worker_message::Message as FromWorker;
use fleet_worker::{Config, Endpoint, Link, Pings, Stop, Worker, WorkerError};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status, Streaming};

use crate::keeper::Keeper;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Fails a test that would wait for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// A coordinator that has met one worker.
pub(crate) struct Scripted {
    pub(crate) hello: v1::Hello,
    /// The number of the message heard last.
    pub(crate) sequence: u64,
    outbox: Option<mpsc::Sender<Result<v1::CoordinatorMessage, Status>>>,
    inbound: Option<Streaming<v1::WorkerMessage>>,
    sessions: mpsc::Receiver<Opened>,
    leases: u64,
    pub(crate) keeper: Keeper,
    _server: DropGuard,
}

/// The same, with the worker in this process.
pub(crate) struct Driven {
    scripted: Scripted,
    worker: JoinHandle<Result<(), WorkerError>>,
    pub(crate) stop: Stop,
}

impl std::ops::Deref for Driven {
    type Target = Scripted;

    fn deref(&self) -> &Scripted {
        &self.scripted
    }
}

impl std::ops::DerefMut for Driven {
    fn deref_mut(&mut self) -> &mut Scripted {
        &mut self.scripted
    }
}

/// What a worker of tests is set to.
pub(crate) fn config(daemon: &NixDaemon) -> Config {
    let address = DaemonAddress::from_store_uri(&daemon.store_uri()).expect("a daemon's address");
    let mut config = Config::new("w".to_owned(), daemon.scratch().join("cache"), address);
    config.state_dir = Some(daemon.scratch().join("worker"));
    config.nix = daemon.nix_bin();
    (config.slots, config.eval_slots) = (2, 1);
    // Tests' stores stand on small disks.
    config.min_free_bytes = 0;
    config.collect_below_bytes = 0;
    config.daemon_patience = Duration::from_millis(500);
    config
}

/// Beats quickly enough for tests; leases outlast any of them.
pub(crate) fn welcome() -> v1::Welcome {
    v1::Welcome { epoch: 1, heartbeat_ms: 1000, away_ms: 600_000, ..v1::Welcome::default() }
}

impl Driven {
    pub(crate) async fn start(daemon: &NixDaemon, sources: &[&Packed]) -> Self {
        Self::start_as(daemon, sources, config(daemon)).await
    }

    /// Starts a worker and welcomes it.
    pub(crate) async fn start_as(daemon: &NixDaemon, sources: &[&Packed], config: Config) -> Self {
        Self::start_on(&daemon.scratch().join("c"), sources, config).await
    }

    /// The same, with the coordinator's socket named.
    pub(crate) async fn start_on(socket: &Path, sources: &[&Packed], config: Config) -> Self {
        let scripted = Scripted::serve(socket, sources);
        Self::start_over(link_to(socket), scripted, config).await
    }

    /// The same, over any link that leads to this coordinator.
    pub(crate) async fn start_over(link: Link, mut scripted: Scripted, config: Config) -> Self {
        let prepared = within(Worker::prepare(config)).await.expect("the worker finds its daemon");
        let stop = Stop::default();
        let worker = tokio::spawn(prepared.run(link, stop.clone()));
        scripted.meet(welcome()).await;
        Self { scripted, worker, stop }
    }

    /// Ends the worker without a word.
    pub(crate) fn stop(&self) {
        self.stop.at_once.cancel();
    }

    /// How the worker ended.
    pub(crate) async fn ended(self) -> Result<(), WorkerError> {
        within(self.worker).await.expect("no panic")
    }
}

impl Scripted {
    /// Waits for workers on a socket.
    pub(crate) fn listen(socket: &Path) -> Self {
        Self::serve(socket, &[])
    }

    /// The same, with enrolment beside its own.
    pub(crate) fn listen_with<E: v1::enrolment_server::Enrolment>(
        socket: &Path,
        service: v1::enrolment_server::EnrolmentServer<E>,
    ) -> Self {
        let (sender, sessions) = mpsc::channel(64);
        let routes = Server::builder().add_service(v1::workers_server::WorkersServer::new(Sessions(sender)));
        Self::over(socket, routes.add_service(service), sessions)
    }

    fn serve(socket: &Path, sources: &[&Packed]) -> Self {
        let (sender, sessions) = mpsc::channel(64);
        let keeper = Keeper::of(sources.iter().flat_map(|packed| packed.chunks.iter().cloned()));
        let routes = Server::builder()
            .add_service(v1::workers_server::WorkersServer::new(Sessions(sender)))
            .add_service(v1::chunks_server::ChunksServer::new(keeper.clone()))
            .add_service(v1::paths_server::PathsServer::new(keeper.clone()));
        Self { keeper, ..Self::over(socket, routes, sessions) }
    }

    fn over(socket: &Path, router: Router, sessions: mpsc::Receiver<Opened>) -> Self {
        let server = CancellationToken::new();
        let listener = UnixListener::bind(socket).expect("binds");
        let (stop, serving) = (server.clone(), router.serve_with_incoming(UnixListenerStream::new(listener)));
        tokio::spawn(async move { stop.run_until_cancelled(serving).await });
        let hello = v1::Hello::default();
        Self {
            hello,
            sequence: 0,
            outbox: None,
            inbound: None,
            sessions,
            leases: 0,
            keeper: Keeper::default(),
            _server: server.drop_guard(),
        }
    }

    /// Everything that is still heard of a session that ends.
    pub(crate) async fn rest(&mut self) -> Vec<FromWorker> {
        let mut inbound = self.inbound.take().expect("a session");
        let mut heard = Vec::new();
        while let Ok(Some(said)) = within(inbound.message()).await {
            heard.extend(said.message);
        }
        heard
    }

    /// Ends the session with a status, as a coordinator that has a reason.
    pub(crate) async fn end(&mut self, status: Status) {
        let outbox = self.outbox.take().expect("an open session");
        within(outbox.send(Err(status))).await.expect("the worker listens");
    }

    /// Waits for the worker's next session, and welcomes it.
    pub(crate) async fn meet(&mut self, welcome: v1::Welcome) {
        self.knock().await;
        self.say(Message::Welcome(welcome)).await;
    }

    /// Waits for the worker's next session, and says nothing.
    pub(crate) async fn knock(&mut self) {
        let (hello, inbound, outbox) = within(self.sessions.recv()).await.expect("a session");
        (self.hello, self.inbound, self.outbox) = (hello, Some(inbound), Some(outbox));
    }

    /// Leases that the worker said it holds.
    pub(crate) fn holds(&self) -> Vec<u64> {
        self.hello.holds.iter().map(|held| held.lease).collect()
    }

    /// Everything heard so far is safe.
    pub(crate) async fn acknowledge(&self) {
        self.say(Message::Acknowledged(v1::Acknowledged { through: self.sequence })).await;
    }

    pub(crate) async fn say(&self, message: Message) {
        let outbox = self.outbox.as_ref().expect("an open session");
        let message = v1::CoordinatorMessage { message: Some(message) };
        within(outbox.send(Ok(message))).await.expect("the worker listens");
    }

    /// The next message, heartbeats and phases left out.
    pub(crate) async fn hear(&mut self) -> FromWorker {
        loop {
            match self.hear_any().await {
                FromWorker::Heartbeat(_) | FromWorker::StepPhased(_) => {}
                message => return message,
            }
        }
    }

    /// The next heartbeat that is as wanted.
    pub(crate) async fn beat(&mut self, wanted: impl Fn(&v1::Heartbeat) -> bool) -> v1::Heartbeat {
        within(async {
            loop {
                match self.hear_any().await {
                    FromWorker::Heartbeat(beat) if wanted(&beat) => return beat,
                    _ => {}
                }
            }
        })
        .await
    }

    /// The next message, whatever it is.
    pub(crate) async fn hear_any(&mut self) -> FromWorker {
        let inbound = self.inbound.as_mut().expect("a session");
        let heard = within(inbound.message()).await.expect("the session goes on").expect("a message");
        self.sequence = self.sequence.max(heard.sequence);
        heard.message.expect("a message")
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
        self.hear_lease(lease).await
    }

    /// Hears a lease to its end.
    pub(crate) async fn hear_lease(&mut self, lease: u64) -> Built {
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
        let (path, run) = (path.to_owned(), run.to_owned());
        self.realise_as(v1::Realise { job, epoch: 4, path, closure: true, run, publish: false }).await
    }

    pub(crate) async fn realise_as(&mut self, job: v1::Realise) -> v1::PathsRealised {
        self.say(Message::Realise(job)).await;
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

    /// Closes the coordinator's half without a word.
    pub(crate) fn close(&mut self) {
        self.outbox = None;
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

/// The way to a scripted coordinator, whose silence is noticed quickly.
pub(crate) fn link_to(socket: &Path) -> Link {
    let pings = Pings { every: Duration::from_secs(1), within: Duration::from_secs(1) };
    Link::open(&Endpoint::Unix(socket.to_owned()), None, pings)
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

/// Builders that wait until the test lets them go on.
pub(crate) struct Gate(tempfile::TempDir);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(fleet_testkit::short_temp_dir())
    }

    /// A daemon whose builders see the gate.
    pub(crate) fn daemon() -> (NixDaemon, Self) {
        let gate = Self::closed();
        (gate.daemon_with(DaemonOptions::default()), gate)
    }

    /// The same, otherwise as asked for.
    pub(crate) fn daemon_with(&self, mut options: DaemonOptions) -> NixDaemon {
        let sandbox_paths = format!("/gate={}", self.0.path().display());
        options.settings.push(("extra-sandbox-paths".to_owned(), sandbox_paths));
        NixDaemon::start(&options)
    }

    /// A step that says `started` and waits; then says `over` and succeeds.
    pub(crate) fn step(daemon: &NixDaemon, name: &str) -> v1::StepWork {
        let body = "echo before; echo started > /journal; \
                    while ! [ -e /gate/open ]; do read -t 1 x <&2; done; \
                    echo after; echo over > /journal; echo made > $out";
        step(daemon, &script(name, body))
    }

    pub(crate) fn open(&self) {
        std::fs::write(self.0.path().join("open"), "").expect("writes");
    }
}

/// Waits until a builder says that it runs.
pub(crate) async fn started(daemon: &NixDaemon) {
    let wait = || daemon.journal().wait_for(PATIENCE, |line| line == "started");
    assert!(tokio::task::block_in_place(wait).is_some(), "the builder runs");
}
