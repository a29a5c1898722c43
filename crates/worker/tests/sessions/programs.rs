//! Coordinator and worker as programs of their own, and a client of their services: three processes and two sockets.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fleet_testkit::{Lines, NixDaemon, Signal, kill_hard, send_signal, wait_until_gone};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::coordinator_message::Message;
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::worker_message::Message as FromWorker;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::scripted::{Gate, PATIENCE, Packed, Scripted, script, started, step, welcome, within};
use crate::{ENDLESS, hosts};

/// A program that was started; dropping it kills it.
struct Program {
    child: Child,
    said: Lines,
}

impl Program {
    /// Starts it and waits until it says that it is ready.
    fn start(daemon: &NixDaemon, program: &Path, arguments: &[&str], ready: &str) -> Self {
        let mut command = Command::new(program);
        daemon.configure(&mut command);
        let mut child = command.args(arguments).stderr(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("{} does not start ({error}): run scripts/test", program.display())
        });
        let (said, stderr) = (Lines::new(), child.stderr.take().expect("piped"));
        let reader = said.clone();
        std::thread::spawn(move || reader.read_from(stderr, |_| true));
        let started = Self { child, said };
        let line = started.said.wait_for(PATIENCE, |line| line.contains(ready));
        assert!(line.is_some(), "{} is not ready: {:#?}", program.display(), started.said.all());
        started
    }

    /// Ends it politely and says how it ended.
    fn terminate(&mut self) -> Option<i32> {
        send_signal(self.child.id(), Signal::TERM);
        assert!(wait_until_gone(self.child.id(), PATIENCE), "it does not end: {:#?}", self.said.all());
        self.child.wait().expect("it was ours").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn coordinator_program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_fleet-worker")).with_file_name("fleet-coordinator")
}

fn start_coordinator(daemon: &NixDaemon, socket: &Path) -> Program {
    let state = daemon.scratch().join("state");
    let arguments =
        ["--state-dir", &state.to_string_lossy(), "--socket", &socket.to_string_lossy()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Program::start(daemon, &coordinator_program(), &arguments, "listening")
}

fn start_worker(daemon: &NixDaemon, socket: &Path, ready: &str) -> Program {
    let (state, nix) = (daemon.scratch().join("worker"), daemon.nix_bin());
    let [state, nix] = [&state, &nix].map(|path| path.to_string_lossy().into_owned());
    let socket = format!("unix://{}", socket.display());
    let settings = daemon.scratch().join("worker.toml");
    std::fs::write(&settings, "min_free_bytes = 0\ncollect_below_bytes = 0\ndrain_timeout_s = 30\n")
        .expect("writes");
    let settings = settings.to_string_lossy().into_owned();
    let store = daemon.store_uri();
    let arguments = [
        "--coordinator",
        &socket,
        "--config",
        &settings,
        "--state-dir",
        &state,
        "--nix",
        &nix,
        "--store",
        &store,
        "--name",
        "alone",
    ];
    Program::start(daemon, Path::new(env!("CARGO_BIN_EXE_fleet-worker")), &arguments, ready)
}

async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    within(Endpoint::from_static("http://test").connect_with_connector(connector)).await.expect("it listens")
}

/// Uploads a tree, asks for all its hosts, and watches.
async fn submit(channel: &Channel, packed: &Packed) -> (String, Streaming<v1::RunEvent>) {
    let chunks: Vec<_> =
        packed.chunks.iter().cloned().map(|(digest, frame)| v1::Chunk { digest, frame }).collect();
    let mut store = v1::chunks_client::ChunksClient::new(channel.clone());
    within(store.put(futures::stream::iter(chunks))).await.expect("stored");
    let request = v1::SubmitRequest {
        idempotency_key: format!("{:?}", packed.source.nar_hash),
        after: Some(packed.source.clone()),
        ..v1::SubmitRequest::default()
    };
    let mut runs = v1::runs_client::RunsClient::new(channel.clone());
    let run = within(runs.submit(request)).await.expect("taken").into_inner().run;
    let watch = v1::EventsRequest { run: run.clone(), after_sequence: 0, logs: true };
    let events = within(runs.events(watch)).await.expect("known").into_inner();
    (run, events)
}

async fn until<T>(events: &mut Streaming<v1::RunEvent>, wanted: impl Fn(&Event) -> Option<T>) -> T {
    loop {
        let event = within(events.message()).await.expect("the stream goes on").expect("before the end");
        if let Some(found) = event.event.as_ref().and_then(&wanted) {
            return found;
        }
    }
}

fn outcome(event: &Event) -> Option<v1::RunOutcome> {
    match event {
        Event::RunFinished(finished) => Some(finished.outcome()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_build_a_fleet_and_survive_each_others_end() {
    let daemon = NixDaemon::start_default();
    let socket = daemon.scratch().join("coordinator");
    let mut coordinator = start_coordinator(&daemon, &socket);
    let mut worker = start_worker(&daemon, &socket, "session is open");
    let channel = connect(&socket).await;

    let good = Packed::flake(&daemon, &hosts(&[("a", &script("top-a", "echo said; echo a > $out"))]));
    let (_, mut events) = submit(&channel, &good).await;
    assert_eq!(until(&mut events, outcome).await, v1::RunOutcome::Succeeded);
    let mut runs = v1::runs_client::RunsClient::new(channel.clone());
    let request = v1::LogsRequest { selector: "a".to_owned(), ..v1::LogsRequest::default() };
    let mut log = within(runs.logs(request)).await.expect("kept").into_inner();
    let mut said = Vec::new();
    while let Some(chunk) = within(log.message()).await.expect("a log") {
        said.extend_from_slice(&chunk.data);
    }
    assert_eq!(said, b"said\n");

    let endless = Packed::flake(&daemon, &hosts(&[("a", &script("endless", ENDLESS))]));
    let (run, mut events) = submit(&channel, &endless).await;
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "started").is_some(), "the builder runs");
    let builders = daemon.builders();
    kill_hard(worker.child.id());
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "the builder outlives its worker");
    }
    drop(worker);
    worker = start_worker(&daemon, &socket, "session is open");
    let attempt = until(&mut events, |event| match event {
        Event::StepStarted(started) => (started.attempt > 1).then_some(started.attempt),
        _ => None,
    })
    .await;
    assert_eq!(attempt, 2, "the next worker takes over");
    within(runs.cancel(v1::CancelRequest { run })).await.expect("known");
    assert_eq!(until(&mut events, outcome).await, v1::RunOutcome::Cancelled);

    assert_eq!(worker.terminate(), Some(0));
    assert_eq!(coordinator.terminate(), Some(0));
    assert!(!socket.exists(), "the socket is removed");
}

/// A worker's program, and a coordinator that keeps to a script.
async fn program_and_script(daemon: &NixDaemon) -> (Program, Scripted) {
    let socket = daemon.scratch().join("scripted");
    let mut scripted = Scripted::listen(&socket);
    let worker = tokio::task::block_in_place(|| start_worker(daemon, &socket, "working"));
    scripted.meet(v1::Welcome { heartbeat_ms: 200, ..welcome() }).await;
    (worker, scripted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_stopped_asks_again_before_it_says_anything() {
    let (daemon, gate) = Gate::daemon();
    let (worker, mut scripted) = program_and_script(&daemon).await;
    let lease = scripted.lease(&Gate::step(&daemon, "paused")).await;
    started(&daemon).await;
    send_signal(worker.child.id(), Signal::STOP);
    gate.open();
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "over").is_some(), "the builder goes on");
    // Longer than a worker with quick beats may stand still.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    send_signal(worker.child.id(), Signal::CONT);
    let said = scripted.rest().await;
    let is_report =
        |said: &FromWorker| matches!(said, FromWorker::StepReported(_) | FromWorker::LeaseFinished(_));
    assert!(!said.iter().any(is_report), "said in a session that is over: {said:?}");
    scripted.knock().await;
    assert_eq!(scripted.holds(), [lease]);
    scripted.say(Message::Welcome(welcome())).await;
    assert_eq!(scripted.hear_lease(lease).await.outcome, OutcomeClass::Built);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_a_second_one_hands_back_and_both_end_well() {
    let (daemon, gate) = Gate::daemon();
    let (mut worker, mut scripted) = program_and_script(&daemon).await;
    let lease = scripted.lease(&Gate::step(&daemon, "last")).await;
    started(&daemon).await;
    send_signal(worker.child.id(), Signal::TERM);
    assert_eq!(scripted.beat(|beat| !beat.unwell.is_empty()).await.unwell, "draining");
    gate.open();
    assert_eq!(scripted.hear_lease(lease).await.outcome, OutcomeClass::Built);
    scripted.acknowledge().await;
    assert!(wait_until_gone(worker.child.id(), PATIENCE));
    assert_eq!(worker.child.wait().expect("it was ours").code(), Some(0));

    let daemon = NixDaemon::start_default();
    let (mut worker, mut scripted) = program_and_script(&daemon).await;
    let lease = scripted.lease(&step(&daemon, &script("endless", ENDLESS))).await;
    started(&daemon).await;
    let builders = daemon.builders();
    send_signal(worker.child.id(), Signal::TERM);
    scripted.beat(|beat| !beat.unwell.is_empty()).await;
    send_signal(worker.child.id(), Signal::TERM);
    let finished = loop {
        if let FromWorker::LeaseFinished(finished) = scripted.hear().await {
            break finished.lease;
        }
    };
    assert_eq!(finished, lease);
    scripted.acknowledge().await;
    assert!(wait_until_gone(worker.child.id(), PATIENCE));
    assert_eq!(worker.child.wait().expect("it was ours").code(), Some(0));
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "the builder outlives the worker");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_logs_are_cut_in_flat_memory_and_disturb_nobody() {
    let daemon = NixDaemon::start_default();
    let (worker, mut scripted) = program_and_script(&daemon).await;
    let small = step(&daemon, &script("small", "echo made > $out"));
    assert_eq!(scripted.build(&small).await.outcome, OutcomeClass::Built);
    let before = fleet_testkit::peak_memory_kib(worker.child.id()).expect("it runs");
    let body = "x=0123456789abcdef; for i in 1 2 3 4 5; do x=$x$x; done; while true; do echo $x; done";
    let endless = v1::StepWork { max_log_bytes: 24 << 20, ..step(&daemon, &script("yes", body)) };
    let lease = scripted.lease(&endless).await;
    let quiet = scripted.lease(&step(&daemon, &script("quiet", "echo made > $out"))).await;
    let mut outcomes = std::collections::BTreeMap::new();
    let (mut beats, mut bytes) = (0, 0);
    while outcomes.len() < 2 {
        match scripted.hear_any().await {
            FromWorker::StepReported(report) => drop(outcomes.insert(report.lease, report.outcome())),
            FromWorker::StepLogged(logged) => bytes += logged.data.len(),
            FromWorker::Heartbeat(_) => beats += 1,
            _ => {}
        }
    }
    assert_eq!(outcomes[&lease], OutcomeClass::LogLimit);
    assert_eq!(outcomes[&quiet], OutcomeClass::Built);
    assert!(beats > 0 && bytes <= 24 << 20 && bytes > 1 << 20, "{beats} beats, {bytes} bytes");
    let peak = fleet_testkit::peak_memory_kib(worker.child.id()).expect("it runs");
    assert!(peak < before + (16 << 10), "{before} KiB before, {peak} KiB at its peak");
}

#[test]
fn settings_that_are_wrong_end_with_two_and_name_their_place() {
    let directory = fleet_testkit::short_temp_dir();
    let file = directory.path().join("worker.toml");
    std::fs::write(&file, "coordinator = 'https://c'\nslotz = 3\n").expect("writes");
    let refused = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-worker"));
        let output = command.env("HOME", directory.path()).args(arguments).output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = refused(&["--config", &file.to_string_lossy()]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("slotz") && said.contains("line 2"), "{said}");
    let (code, said) = refused(&["--coordinator", "http://c"]);
    assert!(code == Some(2) && said.contains("https://HOST"), "{said}");
    let (code, said) =
        refused(&["--coordinator", "https://c", "--state-dir", &directory.path().to_string_lossy()]);
    assert!(code == Some(1) && said.contains("fleet-worker enroll"), "{said}");
    let state = directory.path().to_string_lossy().into_owned();
    let bad = ["--coordinator", "https://c", "--state-dir", &state, "enroll", "--token", "fleet-join-v1.x"];
    let (code, said) = refused(&bad);
    assert!(code == Some(1) && said.contains("token"), "{said}");
}
