use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fleet_identity::{Role, Secret, TokenId};
use fleet_journal::{Entry, Loaded, Memory, MemoryStore, Report};

use tokio::sync::Semaphore;

use super::*;

mod relays;

const PATIENCE: Duration = Duration::from_secs(20);

/// A journal that goes wrong in one way.
#[derive(Debug)]
enum Broken {
    Fails,
    Panics,
    /// As long as this says so.
    IsFull(Arc<AtomicBool>),
}

/// Sound until it is told to break: what it keeps can be looked at.
#[derive(Debug)]
struct Scripted {
    inner: Memory,
    broken: Arc<Mutex<Option<Broken>>>,
}

#[async_trait]
impl Journal for Scripted {
    async fn append(&mut self, batch: &[Entry]) -> Result<u64, JournalError> {
        match &*self.broken.lock().expect("no panic holds it") {
            Some(Broken::Fails) => return Err(failure()),
            Some(Broken::Panics) => panic!("a planted bug"),
            Some(Broken::IsFull(full)) if full.load(Ordering::Relaxed) => return Err(JournalError::Full),
            _ => {}
        }
        self.inner.append(batch).await
    }

    async fn load(
        &mut self,
        each: &mut (dyn FnMut(Loaded) -> Result<(), JournalError> + Send),
    ) -> Result<Report, JournalError> {
        self.inner.load(each).await
    }

    async fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        self.inner.replace(entries).await
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }
}

fn failure() -> JournalError {
    let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
    JournalError::Io { verb: "write", path: "/state/journal".into(), source }
}

struct Stage {
    handle: Handle,
    store: MemoryStore,
    broken: Arc<Mutex<Option<Broken>>>,
    directory: tempfile::TempDir,
}

impl Stage {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (store, broken) = (MemoryStore::default(), Arc::default());
        let shell = shell(&store, &broken, directory.path()).await;
        Self { handle: shell.spawn(None), store, broken, directory }
    }

    fn break_by(&self, how: Broken) {
        *self.broken.lock().expect("no panic holds it") = Some(how);
    }

    async fn ask<T>(&self, input: impl FnOnce(Reply<T>) -> Input) -> oneshot::Receiver<Result<T, Status>> {
        let (reply, answer) = oneshot::channel();
        assert!(self.handle.inputs.send(input(reply)).await.is_ok(), "the shell is gone");
        answer
    }

    async fn submit(&self, key: &str) -> oneshot::Receiver<Result<String, Status>> {
        self.ask(|reply| Input::Submit(Box::new(submission(key)), reply)).await
    }

    /// Entries that are durable.
    async fn kept(&self) -> usize {
        let mut count = 0;
        let mut reader = self.store.open();
        reader
            .load(&mut |_| {
                count += 1;
                Ok(())
            })
            .await
            .expect("loads");
        count
    }
}

async fn shell(
    store: &MemoryStore,
    broken: &Arc<Mutex<Option<Broken>>>,
    directory: &std::path::Path,
) -> Shell {
    let logs = LogWriter::open(directory.join("logs")).expect("opens");
    let index = LogIndex::open(&directory.join("index"), "1").expect("opens");
    let journal = Scripted { inner: store.open(), broken: broken.clone() };
    let settings = Settings {
        fleet: FleetConfig::default(),
        heartbeat_ms: 10_000,
        upload_outputs: false,
        internal_keys: Vec::new(),
        upstream_keys: Vec::new(),
    };
    Shell::open(settings, Box::new(journal), index, logs).await.expect("opens")
}

fn submission(key: &str) -> Submission {
    let source = v1::Source {
        nar_hash: vec![1; 32].into(),
        manifest: Some(v1::Manifest::default()),
        ..Default::default()
    };
    let request =
        v1::SubmitRequest { idempotency_key: key.into(), after: Some(source), ..Default::default() };
    Submission { request, client: String::new() }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_answered_and_ends_the_shell_and_its_watchers_with_its_error() {
    let stage = Stage::new().await;
    let run = within(stage.submit("kept").await).await.expect("an answer").expect("taken");
    let feed = stage.handle.feeds.get(&run).expect("a feed").clone();
    stage.break_by(Broken::Fails);
    let answer = within(stage.submit("lost").await).await.expect("an answer");
    let refused = answer.expect_err("nothing visible precedes its record");
    assert!(refused.message().starts_with("cannot write /state/journal: "), "{refused}");
    within(stage.handle.inputs.closed()).await;
    let mut seen = 0;
    let end = loop {
        match feed.after(seen) {
            Ok(events) => seen += events.expect("the run is not over").len(),
            Err(end) => break end,
        }
    };
    assert_eq!((end.code(), end.message()), (refused.code(), refused.message()));
}

#[tokio::test]
async fn a_bug_of_ours_ends_watchers_instead_of_leaving_them_waiting() {
    let stage = Stage::new().await;
    let run = within(stage.submit("kept").await).await.expect("an answer").expect("taken");
    let feed = stage.handle.feeds.get(&run).expect("a feed").clone();
    stage.break_by(Broken::Panics);
    assert!(within(stage.submit("lost").await).await.is_err(), "no answer");
    within(stage.handle.inputs.closed()).await;
    let mut length = feed.watch();
    while feed.after(usize::MAX).is_ok() {
        within(length.changed()).await.expect("a change");
    }
}

#[tokio::test]
async fn a_full_disk_makes_it_read_only_until_there_is_room_and_nothing_is_seen_before() {
    let mut stage = Stage::new().await;
    let full = Arc::new(AtomicBool::new(true));
    stage.break_by(Broken::IsFull(full.clone()));
    let mut waiting = stage.submit("k").await;
    within(stage.handle.read_only.wait_for(|why| why == "no space left for the journal"))
        .await
        .expect("it says so");
    assert!(waiting.try_recv().is_err(), "answered before it was kept");
    assert!(stage.handle.feeds.iter().all(|feed| feed.len() == 0), "seen before it was kept");
    full.store(false, Ordering::Relaxed);
    let run = within(waiting).await.expect("an answer").expect("taken at last");
    within(stage.handle.read_only.wait_for(String::is_empty)).await.expect("it recovers alone");
    assert!(stage.handle.feeds.contains_key(&run));
    assert!(stage.kept().await > 0);
}

/// A session, from the inside.
async fn join(stage: &Stage, name: &str) -> (Seat, mpsc::Receiver<v1::coordinator_message::Message>, Ending) {
    let (outbound, mut heard) = mpsc::channel(16);
    let ending = Ending::new();
    let hello = v1::Hello { name: name.to_owned(), slots: 1, ..v1::Hello::default() };
    let joining = Joining { hello, identity: None, outbound, ending: ending.clone() };
    let seat = within(stage.ask(|reply| Input::Join(Box::new(joining), reply)).await).await;
    let seat = seat.expect("an answer").expect("let in");
    let welcome = within(heard.recv()).await.expect("a welcome");
    assert!(matches!(welcome, v1::coordinator_message::Message::Welcome(_)));
    (seat, heard, ending)
}

async fn say(stage: &Stage, seat: Seat, sequence: u64, room: &Arc<Semaphore>) {
    use v1::worker_message::Message;
    let permit = room.clone().acquire_owned().await.expect("never closed");
    // It changes the core: unwell, then well again.
    let unwell = if sequence.is_multiple_of(2) { String::new() } else { "tired".to_owned() };
    let message = Some(Message::Heartbeat(v1::Heartbeat { unwell, ..v1::Heartbeat::default() }));
    let message = Box::new(v1::WorkerMessage { sequence, message });
    stage.handle.inputs.send(Input::Said(seat.session, message, permit)).await.expect("the shell lives");
}

#[tokio::test]
async fn what_a_worker_says_is_acknowledged_when_it_is_durable_and_not_before() {
    use v1::coordinator_message::Message;
    let mut stage = Stage::new().await;
    let (seat, mut heard, _) = join(&stage, "w").await;
    let full = Arc::new(AtomicBool::new(true));
    stage.break_by(Broken::IsFull(full.clone()));
    let room = Arc::new(Semaphore::new(3));
    for sequence in 1..=3 {
        say(&stage, seat, sequence, &room).await;
    }
    within(stage.handle.read_only.wait_for(|why| !why.is_empty())).await.expect("it says so");
    assert!(heard.try_recv().is_err(), "acknowledged before it was kept");
    assert!(room.available_permits() < 3, "what waits takes room");
    full.store(false, Ordering::Relaxed);
    let mut through = 0;
    while through < 3 {
        match within(heard.recv()).await.expect("the session goes on") {
            Message::Acknowledged(acknowledged) => {
                assert!(acknowledged.through > through);
                through = acknowledged.through;
            }
            other => panic!("unforeseen: {other:?}"),
        }
    }
    assert_eq!(room.available_permits(), 3);
}

#[tokio::test]
async fn a_revoked_worker_is_cut_at_once_and_never_let_in_again() {
    let stage = Stage::new().await;
    let (seat, _heard, ending) = join(&stage, "mallory").await;
    let name = "mallory".parse().expect("a name");
    let (id, hash) = (TokenId::random(), Secret::random().hash());
    let (systems, features) = (Vec::new(), Vec::new());
    let token = Request::CreateJoinToken { id, hash, name, systems, features, ttl_s: 0 };
    within(stage.ask(|reply| Input::Registry(token, reply)).await).await.expect("an answer").expect("made");
    let request = Request::RevokeWorker { name: "mallory".parse().expect("a name"), reason: "stolen".into() };
    let answer = within(stage.ask(|reply| Input::Registry(request, reply)).await).await;
    assert_eq!(answer.expect("an answer").expect("decided"), Answer::Revoked);
    assert_eq!(within(ending.reached()).await.expect_err("cut").code(), tonic::Code::PermissionDenied);
    let room = Arc::new(Semaphore::new(1));
    say(&stage, seat, 1, &room).await;
    // Nothing it says is heard; there is room again.
    drop(within(room.acquire()).await);
    let (outbound, _heard) = mpsc::channel(16);
    let hello = v1::Hello { name: "mallory".to_owned(), ..v1::Hello::default() };
    let joining = Joining { hello, identity: None, outbound, ending: Ending::new() };
    let again = within(stage.ask(|reply| Input::Join(Box::new(joining), reply)).await).await;
    let refused = again.expect("an answer").expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    assert!(stage.handle.registry.borrow().workers().any(|worker| worker.revoked.is_some()));
}

#[tokio::test]
async fn a_worker_that_does_not_take_its_messages_is_lost() {
    let stage = Stage::new().await;
    let (_, heard, ending) = join(&stage, "w").await;
    for order in [WorkerOrder::Drain, WorkerOrder::Resume].into_iter().cycle().take(20) {
        let ordered = stage.ask(|reply| Input::Order("w".into(), order, "test".into(), reply)).await;
        within(ordered).await.expect("an answer").expect("known");
    }
    assert_eq!(within(ending.reached()).await.expect_err("cut").code(), tonic::Code::ResourceExhausted);
    drop(heard);
    let ordered =
        stage.ask(|reply| Input::Order("nobody".into(), WorkerOrder::Drain, String::new(), reply)).await;
    let refused = within(ordered).await.expect("an answer").expect_err("nobody");
    assert_eq!(refused.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_run_is_as_durable_as_its_answer() {
    let stage = Stage::new().await;
    let run = within(stage.submit("k").await).await.expect("an answer").expect("taken");
    let before = stage.handle.feeds.get(&run).expect("a feed").summary();
    stage.handle.halt.cancel();
    within(stage.handle.inputs.closed()).await;
    let shell = shell(&stage.store, &Arc::default(), stage.directory.path()).await;
    assert_eq!(shell.feeds.get(&run).expect("it is remembered").summary(), before);
}

/// A worker from the inside, one word at a time.
struct Inside {
    shell: Shell,
    seat: Seat,
    heard: mpsc::Receiver<v1::coordinator_message::Message>,
}

impl Inside {
    async fn join(mut shell: Shell) -> Self {
        let (outbound, heard) = mpsc::channel(64);
        let systems = vec!["x86_64-linux".to_owned()];
        let hello =
            v1::Hello { name: "w".to_owned(), systems, slots: 1, eval_slots: 1, ..v1::Hello::default() };
        let (reply, seat) = oneshot::channel();
        let mut round = Round::default();
        let joining = Joining { hello, identity: None, outbound, ending: Ending::new() };
        shell.join(joining, reply, &mut round);
        shell.finish(round, || false).await.expect("kept");
        Self { shell, seat: seat.await.expect("an answer").expect("let in"), heard }
    }

    async fn submit(&mut self, key: &str) -> String {
        let mut round = Round::default();
        let name = self.shell.submit(submission(key), &mut round).expect("taken");
        self.shell.finish(round, || false).await.expect("kept");
        name
    }

    async fn cancel(&mut self, name: &str) {
        let mut round = Round::default();
        self.shell.cancel(name, &Caller::Here, &mut round).expect("known");
        self.shell.finish(round, || false).await.expect("kept");
    }

    async fn say(&mut self, message: v1::worker_message::Message) {
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.expect("open");
        let message = Box::new(v1::WorkerMessage { sequence: 0, message: Some(message) });
        let mut round = Round::default();
        self.shell.take(Input::Said(self.seat.session, message, permit), &mut round);
        self.shell.finish(round, || false).await.expect("kept");
    }

    async fn hear_eval(&mut self) -> v1::EvalJob {
        loop {
            match within(self.heard.recv()).await.expect("the session goes on") {
                v1::coordinator_message::Message::EvalJob(job) => return job,
                v1::coordinator_message::Message::Shutdown(_) => panic!("it was noticed"),
                _ => {}
            }
        }
    }

    /// Evaluates one host that wants this derivation; sends the derivation itself only if `tell`.
    async fn evaluate(&mut self, derivation: &v1::Derivation, output: &str, tell: bool) {
        use v1::worker_message::Message;
        let job = self.hear_eval().await;
        let host = v1::Host { name: "a".to_owned(), kind: v1::HostKind::Nixos.into() };
        let (id, epoch, hosts) = (job.job, job.epoch, vec![host.clone()]);
        self.say(Message::HostsDiscovered(v1::HostsDiscovered { job: id, epoch, hosts })).await;
        let job = self.hear_eval().await;
        if tell {
            let derivations = vec![derivation.clone()];
            self.say(Message::DerivationsSeen(v1::DerivationsSeen { derivations })).await;
        }
        let evaluated = v1::Evaluated {
            drv: derivation.drv.clone(),
            output_name: "out".to_owned(),
            output: output.to_owned(),
            wanted: vec![derivation.drv.clone()],
            substitutable_new: 0,
        };
        let (job, epoch, host) = (job.job, job.epoch, Some(host));
        let result = Some(v1::host_evaluated::Result::Evaluated(evaluated));
        self.say(Message::HostEvaluated(v1::HostEvaluated { job, epoch, host, result })).await;
        self.say(Message::EvalFinished(v1::EvalFinished { job, epoch, ..Default::default() })).await;
    }
}

fn a_derivation() -> (v1::Derivation, String) {
    let output = "00000000000000000000000000000000-a".to_owned();
    let path = format!("/nix/store/{output}");
    let aterm = format!(
        "Derive([(\"out\",\"{path}\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],[(\"out\",\"{path}\")])"
    );
    let store_dir = fleet_nix::store_path::StoreDir::default();
    let drv = fleet_nix::derivation::derivation_path(&store_dir, "a", aterm.as_bytes(), &BTreeSet::default());
    let drv = drv.expect("a path").to_string();
    (v1::Derivation { drv, aterm: aterm.into(), ..v1::Derivation::default() }, output)
}

#[tokio::test]
async fn compaction_is_noticed_by_no_worker_and_what_it_told_before_is_kept_again() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let store = MemoryStore::default();
    let mut inside = Inside::join(shell(&store, &Arc::default(), directory.path()).await).await;
    let (derivation, output) = a_derivation();
    let first = inside.submit("first").await;
    inside.evaluate(&derivation, &output, true).await;
    inside.cancel(&first).await;
    inside.shell.compact().await.expect("compacts");
    let second = inside.submit("second").await;
    inside.evaluate(&derivation, &output, false).await;
    let before: Vec<_> = inside.shell.fleet.leases().collect();
    assert_eq!(before.len(), 1, "the step is leased");
    let (views, events) =
        (inside.shell.fleet.view().runs, inside.shell.feeds.get(&second).expect("a feed").all());
    drop(inside);

    let shell = shell(&store, &Arc::default(), directory.path()).await;
    assert_eq!(shell.fleet.leases().collect::<Vec<_>>(), before);
    assert_eq!(shell.fleet.view().runs, views);
    assert_eq!(shell.feeds.get(&second).expect("remembered").all(), events);
    assert!(shell.feeds.contains_key(&first));
}

#[tokio::test]
async fn compaction_keeps_what_may_be_asked_for_and_forgets_the_rest() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let store = MemoryStore::default();
    let mut shell = shell(&store, &Arc::default(), directory.path()).await;
    let mut round = Round::default();
    let name = shell.submit(submission("k"), &mut round).expect("taken");
    shell.cancel(&name, &Caller::Here, &mut round).expect("known");
    let request = Request::RevokeClient { name: "mallory".parse().expect("a name") };
    shell.change_registry(request, &mut round).expect("decided");
    shell.finish(round, || false).await.expect("kept");
    let (events, registry) = (shell.feeds.get(&name).expect("a feed").all(), shell.registry.clone());
    assert!(!events.is_empty());
    shell.compact().await.expect("compacts");
    drop(shell);

    let mut shell = self::shell(&store, &Arc::default(), directory.path()).await;
    assert_eq!(shell.feeds.get(&name).expect("remembered").all(), events);
    assert_eq!(format!("{:?}", shell.registry), format!("{registry:?}"));
    let mut round = Round::default();
    assert_eq!(shell.submit(submission("k"), &mut round).expect("the same run"), name);
    assert!(round.is_empty(), "a run that is over does not begin again");
}

#[tokio::test]
async fn a_key_that_outlived_its_run_begins_another_and_a_restart_tells_them_apart() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let store = MemoryStore::default();
    let mut inside = Inside::join(shell(&store, &Arc::default(), directory.path()).await).await;
    let name = inside.submit("k").await;
    inside.cancel(&name).await;
    for number in 0.. {
        if inside.shell.feeds.get(&name).is_none() {
            break;
        }
        let other = inside.submit(&format!("other-{number}")).await;
        inside.cancel(&other).await;
    }
    assert_eq!(inside.submit("k").await, name);
    let events = inside.shell.feeds.get(&name).expect("a feed").all();
    drop(inside);
    let shell = shell(&store, &Arc::default(), directory.path()).await;
    let restored = shell.feeds.get(&name).expect("it is remembered").all();
    assert_eq!(restored[..events.len()], events);
    assert_eq!(shell.runs.live().len(), 1);
}

#[tokio::test]
async fn a_run_is_cancelled_by_its_owner_or_an_administrator_and_its_key_is_its_owners() {
    let stage = Stage::new().await;
    let client = |name: &str, role| {
        Caller::Client(Arc::new(fleet_identity::Client { name: name.to_owned(), role, expires: u64::MAX }))
    };
    let alices = Submission { client: "alice".to_owned(), ..submission("k") };
    let run = within(stage.ask(|reply| Input::Submit(Box::new(alices), reply)).await).await;
    let run = run.expect("an answer").expect("taken");
    let stolen = within(stage.submit("k").await).await.expect("an answer").expect_err("another's key");
    assert_eq!(stolen.code(), tonic::Code::AlreadyExists);
    let mallory = client("mallory", Role::Submit);
    let refused = stage.ask(|reply| Input::Cancel(run.clone(), mallory, reply)).await;
    let refused = within(refused).await.expect("an answer").expect_err("refused");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    for caller in [client("alice", Role::Submit), client("root", Role::Admin), Caller::Here] {
        let cancelled = stage.ask(|reply| Input::Cancel(run.clone(), caller, reply)).await;
        within(cancelled).await.expect("an answer").expect("it is theirs");
    }
}
