//! A worker and a client that say exactly what a test tells them, over the real services.

use std::collections::BTreeSet;
use std::time::Duration;

use fleet_coordinator::config::JournalChoice;
use fleet_coordinator::{Config, Coordinator};
use fleet_core::FleetConfig;
use fleet_nix::derivation::derivation_path;
use fleet_nix::store_path::{StoreDir, StorePath};
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::worker_message::Message;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(20);

/// Fails a test that would wait for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// A coordinator with a state directory of its own.
pub(crate) struct Served {
    pub(crate) channel: Channel,
    pub(crate) state: TempDir,
    config: Config,
    coordinator: Coordinator,
    stop: tokio_util::sync::DropGuard,
}

/// As embedded mode has it: what no connected worker can do fails at once.
pub(crate) async fn serve() -> Served {
    serve_with(|config| config.fleet.unplaceable_after_ms = 0).await
}

pub(crate) async fn serve_with(adjust: impl FnOnce(&mut Config)) -> Served {
    let state = tempfile::tempdir().expect("a state directory");
    let mut config = Config::new(state.path().join("state"));
    adjust(&mut config);
    serve_in(state, config).await
}

/// As the program has it: with a journal on disk, and patience.
pub(crate) async fn serve_durably() -> Served {
    serve_with(|config| {
        config.journal = JournalChoice::Sqlite;
        config.fleet = FleetConfig::default();
        // The one before may need a moment to let go of the journal.
        config.standby = true;
    })
    .await
}

async fn serve_in(state: TempDir, config: Config) -> Served {
    let stop = CancellationToken::new();
    let coordinator = within(Coordinator::start(config.clone())).await.expect("the coordinator starts");
    let channel = coordinator.serve_in_memory(stop.clone());
    Served { channel, state, config, coordinator, stop: stop.drop_guard() }
}

impl Served {
    /// Ends the coordinator between two words, and starts another from what it left.
    pub(crate) async fn crash(self) -> Self {
        let Self { channel, state, config, coordinator, stop } = self;
        coordinator.halt();
        drop((channel, coordinator, stop));
        serve_in(state, config).await
    }

    /// Ends this one, and starts another from a copy of the state directory that was made before.
    pub(crate) async fn crash_and_restore(self, copy: TempDir) -> Self {
        let Self { channel, config, coordinator, .. } = self;
        coordinator.halt();
        drop((channel, coordinator));
        let config = Config { state_dir: copy.path().join("state"), ..config };
        serve_in(copy, config).await
    }
}

/// One session, driven by hand.
pub(crate) struct ScriptedWorker {
    outbox: mpsc::Sender<v1::WorkerMessage>,
    inbound: Streaming<v1::CoordinatorMessage>,
}

impl ScriptedWorker {
    pub(crate) async fn join(channel: &Channel, name: &str, slots: u32, eval_slots: u32) -> Self {
        let hello = v1::Hello {
            name: name.to_owned(),
            systems: vec!["x86_64-linux".to_owned()],
            slots,
            eval_slots,
            ..v1::Hello::default()
        };
        let mut worker = Self::open(channel, Message::Hello(hello)).await.expect("the hello is taken");
        match worker.hear().await {
            FromCoordinator::Welcome(_) => worker,
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// A session that begins with this hello, if it is let in.
    pub(crate) async fn greet(channel: &Channel, hello: v1::Hello) -> Result<(Self, v1::Welcome), Status> {
        let mut worker = Self::open(channel, Message::Hello(hello)).await?;
        match worker.hear().await {
            FromCoordinator::Welcome(welcome) => Ok((worker, welcome)),
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// A session that begins with any message.
    pub(crate) async fn open(channel: &Channel, first: Message) -> Result<Self, Status> {
        let (outbox, messages) = mpsc::channel(64);
        let first = v1::WorkerMessage { message: Some(first), sequence: 0 };
        outbox.send(first).await.expect("there is room");
        let mut client = v1::workers_client::WorkersClient::new(channel.clone());
        let inbound = within(client.session(ReceiverStream::new(messages))).await?.into_inner();
        Ok(Self { outbox, inbound })
    }

    pub(crate) async fn say(&self, message: Message) {
        self.say_numbered(0, message).await;
    }

    /// Says what is kept until it is acknowledged.
    pub(crate) async fn say_numbered(&self, sequence: u64, message: Message) {
        // A session that has ended is seen by what is heard.
        let _ = within(self.outbox.send(v1::WorkerMessage { message: Some(message), sequence })).await;
    }

    /// A message without content.
    pub(crate) async fn say_nothing(&self) {
        let _ = within(self.outbox.send(v1::WorkerMessage::default())).await;
    }

    /// What comes next, or that the session is over.
    pub(crate) async fn hear_or_end(&mut self) -> Option<FromCoordinator> {
        within(self.inbound.message()).await.ok().flatten().and_then(|message| message.message)
    }

    pub(crate) async fn hear(&mut self) -> FromCoordinator {
        let heard = within(self.inbound.message()).await.expect("the session goes on");
        heard.and_then(|message| message.message).expect("a message")
    }

    /// How the session ended; what was said before its end is skipped.
    pub(crate) async fn end(mut self) -> Result<(), Status> {
        while within(self.inbound.message()).await?.is_some() {}
        Ok(())
    }

    pub(crate) async fn hear_eval(&mut self) -> v1::EvalJob {
        match self.hear().await {
            FromCoordinator::EvalJob(job) => job,
            other => panic!("not an eval job: {other:?}"),
        }
    }

    pub(crate) async fn hear_lease(&mut self) -> v1::Lease {
        match self.hear().await {
            FromCoordinator::Lease(lease) => lease,
            other => panic!("not a lease: {other:?}"),
        }
    }

    pub(crate) async fn hear_realise(&mut self) -> v1::Realise {
        match self.hear().await {
            FromCoordinator::Realise(job) => job,
            other => panic!("not a realise job: {other:?}"),
        }
    }

    /// Answers the discovery that comes first, and gives the eval job that follows.
    pub(crate) async fn discover(&mut self, hosts: &[&str]) -> v1::EvalJob {
        let job = self.hear_eval().await;
        let hosts = hosts.iter().map(|name| host(name)).collect();
        self.say(Message::HostsDiscovered(v1::HostsDiscovered { job: job.job, epoch: job.epoch, hosts }))
            .await;
        self.hear_eval().await
    }

    /// Says that a host needs these steps, the last of which is its toplevel.
    pub(crate) async fn evaluated(&self, job: &v1::EvalJob, name: &str, steps: &[&Step]) {
        let derivations = steps.iter().map(|step| step.derivation.clone()).collect();
        self.say(Message::DerivationsSeen(v1::DerivationsSeen { derivations })).await;
        self.evaluated_without_telling(job, name, steps).await;
    }

    pub(crate) async fn evaluated_without_telling(&self, job: &v1::EvalJob, name: &str, steps: &[&Step]) {
        let top = steps.last().expect("a toplevel");
        let evaluated = v1::Evaluated {
            drv: top.drv().to_owned(),
            output_name: "out".to_owned(),
            output: top.output.clone(),
            wanted: steps.iter().map(|step| step.drv().to_owned()).collect(),
            substitutable_new: 0,
        };
        let (id, epoch) = (job.job, job.epoch);
        let result = Some(v1::host_evaluated::Result::Evaluated(evaluated));
        self.say(Message::HostEvaluated(v1::HostEvaluated {
            job: id,
            epoch,
            host: Some(host(name)),
            result,
        }))
        .await;
        let finished = v1::EvalFinished { job: id, epoch, failure: None, unstarted: Vec::new() };
        self.say(Message::EvalFinished(finished)).await;
    }

    /// From the submission of a run with one host `a` to the lease of its only step.
    pub(crate) async fn until_lease(&mut self, step: &Step) -> v1::Lease {
        let job = self.discover(&["a"]).await;
        self.evaluated(&job, "a", &[step]).await;
        self.hear_lease().await
    }

    pub(crate) async fn log(&self, lease: &v1::Lease, data: &[u8]) {
        let drv = lease.steps[0].drv.clone();
        let (lease, epoch, data) = (lease.lease, lease.epoch, data.to_vec().into());
        self.say(Message::StepLogged(v1::StepLogged { lease, epoch, drv, data, offset: 0 })).await;
    }

    pub(crate) async fn report(&self, lease: &v1::Lease, outcome: v1::OutcomeClass, step: &Step) {
        self.say(Message::StepReported(reported(lease, outcome, step))).await;
        let finished = v1::LeaseFinished { lease: lease.lease, epoch: lease.epoch };
        self.say(Message::LeaseFinished(finished)).await;
    }

    pub(crate) async fn realise(&mut self) {
        let job = self.hear_realise().await;
        self.say(Message::PathsRealised(v1::PathsRealised {
            job: job.job,
            epoch: job.epoch,
            done: true,
            ..v1::PathsRealised::default()
        }))
        .await;
    }
}

pub(crate) fn reported(lease: &v1::Lease, outcome: v1::OutcomeClass, step: &Step) -> v1::StepReported {
    v1::StepReported {
        lease: lease.lease,
        epoch: lease.epoch,
        drv: step.drv().to_owned(),
        outcome: outcome.into(),
        message: String::new(),
        duration_ms: 5,
        outputs: vec![v1::BuiltOutput { name: "out".to_owned(), path: step.output.clone(), info: None }],
        missing: Vec::new(),
    }
}

pub(crate) fn host(name: &str) -> v1::Host {
    v1::Host { name: name.to_owned(), kind: v1::HostKind::Nixos.into() }
}

/// A derivation as a worker sends it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) derivation: v1::Derivation,
    pub(crate) output: String,
}

impl Step {
    /// Nothing real stands behind it, but its path follows from its bytes.
    pub(crate) fn new(name: &str, inputs: &[&Step]) -> Self {
        let digest = fleet_nix::NarHash::of(name.as_bytes()).to_hash().to_nix32();
        let output = format!("{}-{name}", &digest[..32]);
        let mut inputs: Vec<&str> = inputs.iter().map(|input| input.drv()).collect();
        inputs.sort_unstable();
        let listed: Vec<String> =
            inputs.iter().map(|drv| format!("(\"/nix/store/{drv}\",[\"out\"])")).collect();
        let aterm = format!(
            "Derive([(\"out\",\"/nix/store/{output}\",\"\",\"\")],[{}],[],\"x86_64-linux\",\"/bin/sh\",[],[(\"name\",\"{name}\"),(\"out\",\"/nix/store/{output}\")])",
            listed.join(",")
        );
        let references: BTreeSet<StorePath> =
            inputs.iter().map(|drv| drv.parse().expect("a store path")).collect();
        let drv = derivation_path(&StoreDir::default(), name, aterm.as_bytes(), &references);
        let derivation = v1::Derivation {
            drv: drv.expect("a derivation path").to_string(),
            aterm: aterm.into_bytes().into(),
            references: inputs.into_iter().map(str::to_owned).collect(),
            inputs: Vec::new(),
        };
        Self { derivation, output }
    }

    pub(crate) fn drv(&self) -> &str {
        &self.derivation.drv
    }
}

pub(crate) fn source() -> v1::Source {
    let chunk = v1::ChunkRef { digest: vec![7; 32].into(), size: 100 };
    v1::Source {
        nar_hash: vec![1; 32].into(),
        nar_size: 100,
        manifest: Some(v1::Manifest { chunks: vec![chunk] }),
        ..v1::Source::default()
    }
}

pub(crate) fn request(key: &str) -> v1::SubmitRequest {
    v1::SubmitRequest {
        idempotency_key: key.to_owned(),
        after: Some(source()),
        ..v1::SubmitRequest::default()
    }
}

pub(crate) async fn submit(channel: &Channel, request: v1::SubmitRequest) -> Result<String, Status> {
    let mut client = v1::runs_client::RunsClient::new(channel.clone());
    Ok(within(client.submit(request)).await?.into_inner().run)
}

pub(crate) async fn cancel(channel: &Channel, run: &str) -> Result<(), Status> {
    let mut client = v1::runs_client::RunsClient::new(channel.clone());
    within(client.cancel(v1::CancelRequest { run: run.to_owned() })).await.map(drop)
}

/// A watcher of a run.
pub(crate) struct Watcher(pub(crate) Streaming<v1::RunEvent>);

impl Watcher {
    pub(crate) async fn new(channel: &Channel, run: &str, after_sequence: u64, logs: bool) -> Self {
        let mut client = v1::runs_client::RunsClient::new(channel.clone());
        let request = v1::EventsRequest { run: run.to_owned(), after_sequence, logs };
        Self(within(client.events(request)).await.expect("the run is known").into_inner())
    }

    pub(crate) async fn next(&mut self) -> Option<v1::RunEvent> {
        within(self.0.message()).await.expect("the stream goes on")
    }

    pub(crate) async fn rest(&mut self) -> Vec<v1::RunEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// Skips to the first event that `wanted` accepts.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().await.expect("it comes before the run's end");
            match event.event {
                Some(event) if wanted(&event) => return event,
                _ => {}
            }
        }
    }
}

/// How a run ended.
pub(crate) fn finished(events: &[v1::RunEvent]) -> &v1::RunFinished {
    match events.last().and_then(|event| event.event.as_ref()) {
        Some(Event::RunFinished(finished)) => finished,
        other => panic!("not the end of a run: {other:?}"),
    }
}

/// Why targets failed.
pub(crate) fn failures(events: &[v1::RunEvent]) -> Vec<&v1::Failure> {
    let settled = events.iter().filter_map(|event| match &event.event {
        Some(Event::TargetSettled(settled)) => settled.failure.as_ref(),
        _ => None,
    });
    settled.collect()
}

pub(crate) async fn logs(channel: &Channel, run: &str, selector: &str, attempt: u32) -> Result<Log, Status> {
    let request = v1::LogsRequest {
        run: run.to_owned(),
        selector: selector.to_owned(),
        attempt,
        offset: 0,
        follow: false,
    };
    let mut client = v1::runs_client::RunsClient::new(channel.clone());
    let mut chunks = within(client.logs(request)).await?.into_inner();
    let mut log = Log::default();
    while let Some(chunk) = within(chunks.message()).await? {
        if !chunk.drv.is_empty() {
            (log.drv, log.attempt) = (chunk.drv, chunk.attempt);
        }
        log.data.extend_from_slice(&chunk.data);
    }
    Ok(log)
}

/// A kept log.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) drv: String,
    pub(crate) attempt: u32,
    pub(crate) data: Vec<u8>,
}
