//! Coordinator and worker as programs of their own, and a client of their services: three processes and two sockets.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fleet_testkit::{Lines, NixDaemon, Signal, kill_hard, send_signal, wait_until_gone};
use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::scripted::{PATIENCE, Packed, script, within};
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
        ["--state-dir", &state.to_string_lossy(), "--listen", &socket.to_string_lossy()].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Program::start(daemon, &coordinator_program(), &arguments, "listening")
}

fn start_worker(daemon: &NixDaemon, socket: &Path) -> Program {
    let (cache, nix) = (daemon.scratch().join("cache"), daemon.nix_bin());
    let [socket, cache, nix] = [socket, &cache, &nix].map(|path| path.to_string_lossy().into_owned());
    let store = daemon.store_uri();
    let arguments = [
        "--coordinator",
        &socket,
        "--cache-dir",
        &cache,
        "--nix",
        &nix,
        "--store",
        &store,
        "--name",
        "alone",
    ];
    Program::start(daemon, Path::new(env!("CARGO_BIN_EXE_fleet-worker")), &arguments, "session is open")
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
    let mut worker = start_worker(&daemon, &socket);
    let channel = connect(&socket).await;

    let good = Packed::flake(&daemon, &hosts(&[("a", &script("top-a", "echo said; echo a > $out"))]));
    let (_, mut events) = submit(&channel, &good).await;
    assert_eq!(until(&mut events, outcome).await, v1::RunOutcome::Succeeded);
    let mut runs = v1::runs_client::RunsClient::new(channel.clone());
    let request = v1::LogsRequest { selector: "a".to_owned(), ..v1::LogsRequest::default() };
    let mut log = within(runs.logs(request)).await.expect("kept").into_inner();
    assert_eq!(within(log.message()).await.expect("a chunk").expect("a chunk").data, "said\n");

    let endless = Packed::flake(&daemon, &hosts(&[("a", &script("endless", ENDLESS))]));
    let (run, mut events) = submit(&channel, &endless).await;
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "started").is_some(), "the builder runs");
    let builders = daemon.builders();
    kill_hard(worker.child.id());
    until(&mut events, |event| match event {
        Event::Notice(notice) => notice.text.contains("worker alone left").then_some(()),
        _ => None,
    })
    .await;
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "the builder outlives its worker");
    }
    drop(worker);
    worker = start_worker(&daemon, &socket);
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

#[test]
fn a_second_coordinator_on_a_socket_and_one_without_a_place_for_its_state_say_why() {
    let daemon = NixDaemon::start_default();
    let socket = daemon.scratch().join("coordinator");
    let _first = start_coordinator(&daemon, &socket);
    let refused = |state: &Path| {
        let mut command = Command::new(coordinator_program());
        daemon.configure(&mut command);
        let output = command.arg("--state-dir").arg(state).arg("--listen").arg(&socket).output();
        let output = output.expect("it starts");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let second = refused(&daemon.scratch().join("other"));
    assert!(second.contains("another coordinator listens on"), "{second}");
    let file = daemon.scratch().join("file");
    std::fs::write(&file, "").expect("writes");
    let nowhere = refused(&file.join("state"));
    assert!(nowhere.contains("cannot create") && nowhere.contains("Not a directory"), "{nowhere}");
}
