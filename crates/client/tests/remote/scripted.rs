//! A coordinator that does what a test tells it: behind a socket or a TLS port, in a runtime of its own that can be
//! taken away and given back.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fleet_identity::tls::ServerTls;
use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use futures::{Stream, StreamExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What it will say, and what it was told.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// Of every run.
    pub(crate) events: Vec<v1::RunEvent>,
    /// How many of them may be told by now.
    pub(crate) released: usize,
    /// Answers to submits that get lost, the next ones.
    pub(crate) lose_submits: u32,
    /// Submits that get no answer at all.
    pub(crate) hold_submits: bool,
    /// What every request gets.
    pub(crate) refuse: Option<Status>,
    /// Of the one log that there is.
    pub(crate) log: Vec<u8>,
    /// The first stream of a log breaks after so many bytes.
    pub(crate) break_log_at: Option<usize>,
    /// Bytes that the first stream leaves out in its middle.
    pub(crate) skip_log: usize,
    pub(crate) status: v1::StatusReply,
    pub(crate) why: v1::WhyReply,
    pub(crate) submits: Vec<v1::SubmitRequest>,
    pub(crate) cancelled: Vec<String>,
    pub(crate) asked_events: Vec<v1::EventsRequest>,
    pub(crate) asked_logs: Vec<v1::LogsRequest>,
    pub(crate) orders: Vec<v1::OrderWorkerRequest>,
    pub(crate) tokens: Vec<v1::CreateJoinTokenRequest>,
    pub(crate) client_tokens: Vec<v1::CreateClientTokenRequest>,
    pub(crate) authorization: Vec<Option<String>>,
    pub(crate) stored_chunks: usize,
    /// Names of the chunks it has.
    pub(crate) chunks: std::collections::BTreeSet<Vec<u8>>,
    pub(crate) collects: Vec<v1::CollectRequest>,
    pub(crate) pins: Vec<v1::PinRequest>,
    pub(crate) roots: Vec<v1::Root>,
    pub(crate) damaged: Vec<v1::DamagedPath>,
    keys: Vec<String>,
}

/// Shared with the services.
#[derive(Clone, Debug)]
pub(crate) struct State {
    script: Arc<(Mutex<Script>, Condvar)>,
    changed: watch::Sender<u64>,
}

/// The coordinator; it serves until it is stopped.
#[derive(Debug)]
pub(crate) struct Scripted {
    pub(crate) state: State,
    directory: tempfile::TempDir,
    runtime: Option<Runtime>,
}

impl State {
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.0.lock().expect("no test panicked")
    }

    /// Changes the script, and tells those who wait for it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script());
        self.script.1.notify_all();
        self.changed.send_modify(|count| *count += 1);
    }

    /// Waits until something holds.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, holds: impl Fn(&Script) -> bool) {
        let until = Instant::now() + PATIENCE;
        let mut script = self.script();
        while !holds(&script) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never: {what}; {script:#?}");
            script = self.script.1.wait_timeout(script, left).expect("no test panicked").0;
        }
    }
}

impl Scripted {
    /// One that serves a run of one host, built by one step.
    pub(crate) fn start() -> Self {
        let script = Script { events: one_host(), released: usize::MAX, ..Script::default() };
        let state =
            State { script: Arc::new((Mutex::new(script), Condvar::new())), changed: watch::channel(0).0 };
        let directory = tempfile::tempdir().expect("a directory");
        let mut scripted = Self { state, directory, runtime: None };
        scripted.go_on();
        scripted
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Ends all connections, and answers no more.
    pub(crate) fn stop(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Serves again.
    pub(crate) fn go_on(&mut self) {
        let runtime = Runtime::new().expect("threads");
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(self.socket()).expect("a socket")
        };
        runtime.spawn(services(&self.state).serve_with_incoming(UnixListenerStream::new(listener)));
        self.runtime = Some(runtime);
    }

    /// Serves a TLS port, too; answers its number.
    pub(crate) fn serve_tls(&self, tls: Arc<ServerTls>) -> u16 {
        let runtime = self.runtime.as_ref().expect("it serves");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = self.state.clone();
        runtime.spawn(async move {
            let (sender, streams) = mpsc::channel(8);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, sender) = (TlsAcceptor::from(tls.config()), sender.clone());
                    tokio::spawn(async move {
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        let (mut near, far) = tokio::io::duplex(1 << 16);
                        let _ = sender.send(Ok::<_, std::io::Error>(far)).await;
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut near).await;
                    });
                }
            });
            services(&state).serve_with_incoming(ReceiverStream::new(streams)).await
        });
        port
    }

    pub(crate) fn scratch(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop();
    }
}

fn services(state: &State) -> tonic::transport::server::Router {
    Server::builder()
        .add_service(v1::runs_server::RunsServer::new(state.clone()))
        .add_service(v1::chunks_server::ChunksServer::new(state.clone()))
        .add_service(v1::admin_server::AdminServer::new(state.clone()))
        .add_service(v1::cache_server::CacheServer::new(state.clone()))
}

/// The events of a run of one host.
pub(crate) fn one_host() -> Vec<v1::RunEvent> {
    let host = v1::Host { name: "web".to_owned(), kind: v1::HostKind::Nixos.into() };
    let drv = "00000000000000000000000000000000-web.drv".to_owned();
    let events = [
        Event::HostsFound(v1::HostsFound { side: v1::Side::After.into(), hosts: vec![host.clone()] }),
        Event::TargetEvaluated(v1::TargetEvaluated {
            host: host.name.clone(),
            side: v1::Side::After.into(),
            drv: drv.clone(),
            steps: 1,
            kind: host.kind,
            ..Default::default()
        }),
        Event::StepStarted(v1::StepStarted {
            drv: drv.clone(),
            name: "web".to_owned(),
            worker: "b1".to_owned(),
            attempt: 1,
            ..Default::default()
        }),
        Event::StepFinished(v1::StepFinished {
            drv: drv.clone(),
            name: "web".to_owned(),
            status: v1::StepStatus::Built.into(),
            attempt: 1,
            duration_ms: 20_000,
            failure: None,
        }),
        Event::TargetSettled(v1::TargetSettled {
            host: host.name,
            side: v1::Side::After.into(),
            status: v1::TargetStatus::Built.into(),
            drv,
            toplevel: "/nix/store/00000000000000000000000000000000-web".to_owned(),
            failure: None,
            kind: host.kind,
        }),
        finished(v1::RunOutcome::Succeeded),
    ];
    let numbered = events.into_iter().zip(1..);
    numbered.map(|(event, sequence)| v1::RunEvent { sequence, at_ms: sequence, event: Some(event) }).collect()
}

fn finished(outcome: v1::RunOutcome) -> Event {
    Event::RunFinished(v1::RunFinished { outcome: outcome.into(), total_ms: 21_000, ..Default::default() })
}

impl State {
    pub(crate) fn begin<T>(&self, request: &Request<T>) -> Result<MutexGuard<'_, Script>, Status> {
        let header = request.metadata().get("authorization");
        let header = header.map(|header| header.to_str().expect("ASCII").to_owned());
        let mut script = self.script();
        script.authorization.push(header);
        match &script.refuse {
            Some(status) => Err(status.clone()),
            None => Ok(script),
        }
    }

    fn summary(script: &Script, run: &str) -> v1::RunSummary {
        let ended = script.released >= script.events.len();
        let finished = script.events.last().and_then(|event| match &event.event {
            Some(Event::RunFinished(finished)) if ended => Some(finished.clone()),
            _ => None,
        });
        v1::RunSummary {
            run: run.to_owned(),
            client: "ci".to_owned(),
            submitted_unix_ms: 1_000,
            targets: 1,
            settled: u32::from(ended),
            finished,
            ..Default::default()
        }
    }

    fn told(&self) {
        self.script.1.notify_all();
    }
}

pub(crate) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::runs_server::Runs for State {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let (answer, held) = {
            let mut script = self.begin(&request)?;
            let request = request.into_inner();
            let key = request.idempotency_key.clone();
            script.submits.push(request);
            if !script.keys.contains(&key) {
                script.keys.push(key.clone());
            }
            let number = script.keys.iter().position(|known| *known == key).expect("it was put there") + 1;
            let lost = script.lose_submits > 0;
            script.lose_submits = script.lose_submits.saturating_sub(1);
            let reply = Ok(Response::new(v1::SubmitReply { run: format!("run-{number}") }));
            (if lost { Err(Status::unavailable("the answer was lost")) } else { reply }, script.hold_submits)
        };
        self.told();
        let mut changed = self.changed.subscribe();
        while held && self.script().hold_submits {
            let _ = changed.changed().await;
        }
        answer
    }

    type EventsStream = Streamed<v1::RunEvent>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        self.begin(&request)?.asked_events.push(request.get_ref().clone());
        self.told();
        let (sender, receiver) = mpsc::channel(8);
        let (state, mut seen) = (self.clone(), request.into_inner().after_sequence);
        tokio::spawn(async move {
            let mut changed = state.changed.subscribe();
            loop {
                let (due, ended) = {
                    let script = state.script();
                    let released = script.released.min(script.events.len());
                    let due = script.events[..released].iter().filter(|event| event.sequence > seen);
                    (due.cloned().collect::<Vec<_>>(), released == script.events.len())
                };
                for event in due {
                    seen = event.sequence;
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                if ended || changed.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        drop(self.begin(&request)?);
        let run = request.into_inner().run;
        if !run.starts_with("run-") {
            return Err(Status::not_found("no such run"));
        }
        self.change(|script| {
            script.cancelled.push(run);
            let released = script.released.min(script.events.len());
            script.events.truncate(released);
            let sequence = released as u64 + 1;
            let event = Some(finished(v1::RunOutcome::Cancelled));
            script.events.push(v1::RunEvent { sequence, at_ms: sequence, event });
            script.released = usize::MAX;
        });
        Ok(Response::new(v1::CancelReply {}))
    }

    type LogsStream = Streamed<v1::LogChunk>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let mut script = self.begin(&request)?;
        let request = request.into_inner();
        let first = script.asked_logs.is_empty();
        let offset = usize::try_from(request.offset).expect("a small log");
        script.asked_logs.push(request);
        let mut items = Vec::new();
        let drv = "00000000000000000000000000000000-web.drv".to_owned();
        let chunk = |from: usize, to: usize, skipped: usize| v1::LogChunk {
            drv: drv.clone(),
            attempt: 2,
            offset: from as u64,
            data: script.log[from..to].to_vec().into(),
            skipped: skipped as u64,
        };
        if let Some(at) = script.break_log_at.filter(|_| first) {
            items.extend([Ok(chunk(offset, at, 0)), Err(Status::unavailable("the stream broke"))]);
        } else {
            let middle = offset + (script.log.len() - offset) / 2;
            let skip = if first { script.skip_log } else { 0 };
            items.push(Ok(chunk(offset, middle, 0)));
            items.push(Ok(chunk(middle + skip, script.log.len(), skip)));
        }
        Ok(Response::new(futures::stream::iter(items).boxed()))
    }

    async fn list(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsReply>, Status> {
        let script = self.begin(&request)?;
        let runs =
            (1..=script.keys.len()).rev().map(|number| Self::summary(&script, &format!("run-{number}")));
        Ok(Response::new(v1::ListRunsReply { runs: runs.collect() }))
    }

    async fn show(&self, request: Request<v1::ShowRunRequest>) -> Result<Response<v1::RunDetail>, Status> {
        let script = self.begin(&request)?;
        let run = request.into_inner().run;
        let number = run.strip_prefix("run-").and_then(|number| number.parse::<usize>().ok());
        let submitted = number.and_then(|number| script.submits.get(number - 1)).cloned();
        let request = submitted.ok_or_else(|| Status::not_found("no such run"))?;
        let host = v1::Host { name: "web".to_owned(), kind: v1::HostKind::Nixos.into() };
        let target = v1::TargetDetail {
            host: Some(host),
            side: v1::Side::After.into(),
            stage: "building".to_owned(),
            ..Default::default()
        };
        let summary = Some(Self::summary(&script, &run));
        Ok(Response::new(v1::RunDetail { summary, targets: vec![target], request: Some(request) }))
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        Ok(Response::new(self.begin(&request)?.status.clone()))
    }

    async fn why(&self, request: Request<v1::WhyRequest>) -> Result<Response<v1::WhyReply>, Status> {
        Ok(Response::new(self.begin(&request)?.why.clone()))
    }
}

#[tonic::async_trait]
impl v1::chunks_server::Chunks for State {
    async fn find_missing(
        &self,
        request: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingReply>, Status> {
        let script = self.begin(&request)?;
        let mut missing = request.into_inner().digests;
        missing.retain(|digest| !script.chunks.contains(&digest[..]));
        Ok(Response::new(v1::FindMissingReply { missing }))
    }

    async fn put(
        &self,
        request: Request<tonic::Streaming<v1::Chunk>>,
    ) -> Result<Response<v1::PutReply>, Status> {
        drop(self.begin(&request)?);
        let mut chunks = request.into_inner();
        let mut stored = 0;
        while let Some(chunk) = chunks.message().await? {
            stored += 1;
            let mut script = self.script();
            script.stored_chunks += 1;
            script.chunks.insert(chunk.digest.to_vec());
        }
        Ok(Response::new(v1::PutReply { stored }))
    }

    type GetStream = Streamed<v1::Chunk>;

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        Err(Status::unimplemented("clients do not get chunks"))
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for State {
    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenReply>, Status> {
        self.begin(&request)?.tokens.push(request.get_ref().clone());
        Ok(Response::new(v1::CreateJoinTokenReply {
            token: "fleet-join-v1.a.b.c".to_owned(),
            expires: 4_000,
        }))
    }

    async fn create_client_token(
        &self,
        request: Request<v1::CreateClientTokenRequest>,
    ) -> Result<Response<v1::CreateClientTokenReply>, Status> {
        self.begin(&request)?.client_tokens.push(request.get_ref().clone());
        Ok(Response::new(v1::CreateClientTokenReply {
            token: "fleet-client-v1.a.b".to_owned(),
            expires: 4_000,
        }))
    }

    async fn list_clients(
        &self,
        request: Request<v1::ListClientsRequest>,
    ) -> Result<Response<v1::ListClientsReply>, Status> {
        drop(self.begin(&request)?);
        let client = v1::ClientStatus {
            name: "ci".to_owned(),
            role: v1::Role::Submit.into(),
            expires: 0,
            revoked: true,
        };
        Ok(Response::new(v1::ListClientsReply { clients: vec![client] }))
    }

    async fn revoke_client(
        &self,
        request: Request<v1::RevokeClientRequest>,
    ) -> Result<Response<v1::RevokeClientReply>, Status> {
        drop(self.begin(&request)?);
        match request.into_inner().name.as_str() {
            "ci" => Ok(Response::new(v1::RevokeClientReply {})),
            _ => Err(Status::not_found("no such client")),
        }
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersReply>, Status> {
        let workers = self.begin(&request)?.status.workers.clone();
        Ok(Response::new(v1::ListWorkersReply { workers }))
    }

    async fn order_worker(
        &self,
        request: Request<v1::OrderWorkerRequest>,
    ) -> Result<Response<v1::OrderWorkerReply>, Status> {
        self.begin(&request)?.orders.push(request.get_ref().clone());
        match request.into_inner().name.as_str() {
            "b1" => Ok(Response::new(v1::OrderWorkerReply {})),
            _ => Err(Status::not_found("no such worker")),
        }
    }
}
