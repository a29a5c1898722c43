//! Who has which path, and how others get it: reports, tickets, relays, rights, as workers meet them.

use std::collections::BTreeMap;

use fleet_coordinator::config::JournalChoice;
use fleet_core::FleetConfig;
use fleet_nix::{NarHash, PathInfo, PublicKey, Signature, StoreDir};
use fleet_store::Digest;
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::located::Located;
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::worker_message::Message;
use fleet_wire::v1::{OutcomeClass, PathStanding, RunOutcome};
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::paths::{path, put};
use crate::scripted::{
    ScriptedWorker, Served, Step, Watcher, finished, reported, request, serve_with, submit, within,
};

/// A coordinator of machines: outputs are reported with what they are.
async fn serve() -> Served {
    serve_with(|config| {
        config.upload_outputs = true;
        config.journal = JournalChoice::Sqlite;
        config.standby = true;
        config.fleet = FleetConfig::default();
    })
    .await
}

/// A worker with one lease at a time.
struct Machine {
    name: &'static str,
    worker: ScriptedWorker,
    keys: Vec<PublicKey>,
}

impl Machine {
    async fn join(
        channel: &Channel,
        name: &'static str,
        addresses: &[&str],
        holds: Vec<v1::HeldLease>,
    ) -> Self {
        let hello = v1::Hello {
            name: name.to_owned(),
            systems: vec!["x86_64-linux".to_owned()],
            slots: 1,
            eval_slots: u32::from(name == "anna"),
            peer_addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
            boot_id: "boot".to_owned(),
            holds,
            ..v1::Hello::default()
        };
        let (worker, welcome) = ScriptedWorker::greet(channel, hello).await.expect("let in");
        let keys = welcome.internal_keys.iter().map(|key| key.parse().expect("a key")).collect();
        Self { name, worker, keys }
    }

    /// The next order; what may be done and what is only heard is passed over.
    async fn next(&mut self) -> FromCoordinator {
        loop {
            match self.worker.hear().await {
                FromCoordinator::Prefetch(_) | FromCoordinator::Acknowledged(_) => {}
                other => return other,
            }
        }
    }

    async fn lease(&mut self) -> v1::Lease {
        match self.next().await {
            FromCoordinator::Lease(lease) => lease,
            other => panic!("{}: not a lease: {other:?}", self.name),
        }
    }

    async fn report(&self, lease: &v1::Lease, step: &Step, info: Option<v1::PathInfo>) {
        let mut report = reported(lease, OutcomeClass::Built, step);
        report.outputs[0].info = info;
        self.worker.say(Message::StepReported(report)).await;
        let finished = v1::LeaseFinished { lease: lease.lease, epoch: lease.epoch };
        self.worker.say(Message::LeaseFinished(finished)).await;
    }
}

/// Two inputs, what is made of them, and the bytes of all.
struct Work {
    steps: BTreeMap<String, Step>,
    infos: BTreeMap<String, (v1::StoredPath, v1::Chunk)>,
    top: Step,
}

impl Work {
    fn new() -> Self {
        let (one, two) = (Step::new("one", &[]), Step::new("two", &[]));
        let top = Step::new("top", &[&one, &two]);
        let all = [one, two, top.clone()];
        let infos = all.iter().map(|step| (step.output.clone(), path(&step.output))).collect();
        Self { steps: all.into_iter().map(|step| (step.drv().to_owned(), step)).collect(), infos, top }
    }

    fn step(&self, lease: &v1::Lease) -> &Step {
        &self.steps[&lease.steps[0].drv]
    }

    fn info(&self, step: &Step) -> v1::PathInfo {
        self.infos[&step.output].0.info.clone().expect("an info")
    }

    /// Until both inputs are built, one by each machine; who was leased what is made of them, who was not, and the lease.
    async fn until_top(
        &self,
        channel: &Channel,
        mut anna: Machine,
        mut bert: Machine,
    ) -> (Machine, Machine, v1::Lease, Step) {
        submit(channel, request("k")).await.expect("taken");
        let job = anna.worker.discover(&["a"]).await;
        let steps: Vec<&Step> = self.steps.values().filter(|step| step.drv() != self.top.drv()).collect();
        anna.worker.evaluated(&job, "a", &[steps[0], steps[1], &self.top]).await;
        let mut made = Vec::new();
        for machine in [&mut anna, &mut bert] {
            let lease = machine.lease().await;
            let step = self.step(&lease);
            machine.report(&lease, step, Some(self.info(step))).await;
            made.push(step.clone());
        }
        // One of them is given the rest; the other's path is elsewhere.
        let first = tokio::select! {
            lease = anna.lease() => Ok(lease),
            lease = bert.lease() => Err(lease),
        };
        match first {
            Ok(lease) => (anna, bert, lease, made.remove(1)),
            Err(lease) => (bert, anna, lease, made.remove(0)),
        }
    }
}

fn right(lease: &v1::Lease) -> v1::WorkRight {
    v1::WorkRight { lease: lease.lease, epoch: lease.epoch, ..v1::WorkRight::default() }
}

/// An answer, sorted.
#[derive(Debug, Default)]
struct Found {
    holders: Vec<v1::Holder>,
    paths: Vec<v1::LocatedPath>,
    lost: Vec<String>,
}

async fn locate(channel: &Channel, request: v1::LocateRequest) -> Result<Found, Status> {
    let mut client = v1::paths_client::PathsClient::new(channel.clone());
    let mut stream = within(client.locate(request)).await?.into_inner();
    let mut found = Found::default();
    while let Some(located) = within(stream.message()).await? {
        match located.located.expect("something") {
            Located::Holder(holder) => found.holders.push(holder),
            Located::Path(path) => found.paths.push(path),
            Located::Lost(lost) => found.lost.extend(lost.paths),
        }
    }
    Ok(found)
}

async fn look(channel: &Channel, paths: &[&str]) -> Vec<PathStanding> {
    let mut client = v1::paths_client::PathsClient::new(channel.clone());
    let request = v1::LookRequest { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
    let reply = within(client.look(request)).await.expect("answers").into_inner();
    reply.standings().collect()
}

/// Waits until a path stands so: reports are heard when they are, and a question may overtake them.
async fn until_standing(channel: &Channel, path: &str, wanted: PathStanding) {
    within(async {
        while look(channel, &[path]).await != [wanted] {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn is_signed(info: &v1::PathInfo, keys: &[PublicKey]) -> bool {
    let signed = PathInfo {
        path: info.path.parse().expect("a path"),
        deriver: None,
        nar_hash: NarHash(info.nar_hash.as_ref().try_into().expect("32 bytes")),
        references: info.references.iter().map(|path| path.parse().expect("a path")).collect(),
        registration_time: 0,
        nar_size: info.nar_size,
        ultimate: false,
        signatures: info.signatures.iter().map(|text| text.parse().expect("a signature")).collect(),
        content_address: None,
    };
    signed.is_signed_by(&StoreDir::default(), keys)
}

#[tokio::test]
async fn a_worker_learns_where_its_inputs_are_and_gets_a_ticket_and_a_restart_forgets_none_of_it() {
    let served = serve().await;
    let anna = Machine::join(&served.channel, "anna", &["anna.example:7144"], Vec::new()).await;
    let bert =
        Machine::join(&served.channel, "bert", &["bert.example:7144", "no port", ":1"], Vec::new()).await;
    let work = Work::new();
    let (builder, holder, lease, elsewhere) = work.until_top(&served.channel, anna, bert).await;
    let asked = v1::LocateRequest {
        right: Some(right(&lease)),
        paths: lease.steps[0].inputs.clone(),
        ..v1::LocateRequest::default()
    };
    let mut served = served;
    let (mut builder, mut holder) = (builder, holder);
    for restarted in [false, true] {
        let found = locate(&served.channel, asked.clone()).await.expect("its inputs");
        assert_eq!(found.lost, Vec::<String>::new());
        let [told] = &found.holders[..] else { panic!("not one holder: {found:?}") };
        assert_eq!((&*told.worker, told.addresses.len()), (holder.name, 1), "{told:?}");
        let ticket = told.ticket.as_ref().expect("a ticket");
        let signature: Signature = ticket.signature.parse().expect("a signature");
        let signed = [&b"fleet-ticket-1;"[..], &ticket.body].concat();
        assert!(builder.keys.iter().any(|key| key.verifies(&signed, &signature)));
        let body = v1::TicketBody::decode(&*ticket.body).expect("a body");
        assert_eq!((&*body.holder, &*body.receiver), (holder.name, builder.name));
        assert_eq!(body.paths, std::slice::from_ref(&elsewhere.output));
        for path in &found.paths {
            let info = path.info.as_ref().expect("an info");
            assert!(is_signed(info, &builder.keys), "{info:?}");
            assert_eq!(path.holders.is_empty(), info.path != elsewhere.output, "its own it has itself");
        }
        if !restarted {
            served = served.crash().await;
            let held = v1::HeldLease { lease: lease.lease, epoch: lease.epoch };
            let address = format!("{}.example:7144", holder.name);
            holder = Machine::join(&served.channel, holder.name, &[&address], Vec::new()).await;
            builder = Machine::join(&served.channel, builder.name, &[], vec![held]).await;
        }
    }
}

#[tokio::test]
async fn what_a_peer_cannot_reach_is_shared_by_its_holder_and_served_to_whom_it_is_for() {
    let served = serve().await;
    let channel = &served.channel;
    let anna = Machine::join(channel, "anna", &[], Vec::new()).await;
    let bert = Machine::join(channel, "bert", &[], Vec::new()).await;
    let work = Work::new();
    let (builder, mut holder, lease, elsewhere) = work.until_top(channel, anna, bert).await;
    let paths = lease.steps[0].inputs.clone();
    let asked = v1::LocateRequest { right: Some(right(&lease)), paths, ..v1::LocateRequest::default() };
    let found = locate(channel, asked.clone()).await.expect("its inputs");
    assert!(found.holders.is_empty() && found.lost.is_empty(), "nobody can be reached: {found:?}");
    let (stored, chunk) = work.infos[&elsewhere.output].clone();
    let fetch = v1::GetRequest {
        right: Some(right(&lease)),
        paths: vec![v1::PathChunks { path: elsewhere.output.clone(), digests: vec![chunk.digest.clone()] }],
    };
    let sharing = async {
        let FromCoordinator::Share(share) = holder.next().await else { panic!("not asked to share") };
        assert_eq!(share.paths, std::slice::from_ref(&elsewhere.output));
        let right = v1::WorkRight { share: share.share, ..v1::WorkRight::default() };
        put(channel, chunk.clone()).await.expect("kept");
        let foreign = work.infos.values().find(|(path, _)| path.info != stored.info).expect("another");
        let foreign = v1::StoredPath { right: Some(right), ..foreign.0.clone() };
        let refused = register(channel, foreign).await.expect_err("it was not asked for");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        let mut other = v1::StoredPath { right: Some(right), ..stored.clone() };
        other.info.as_mut().expect("an info").nar_hash = vec![9; 32].into();
        let refused = register(channel, other).await.expect_err("it is known as something else");
        assert_eq!(refused.code(), Code::AlreadyExists, "{refused}");
        register(channel, v1::StoredPath { right: Some(right), ..stored.clone() }).await.expect("asked for");
    };
    let relayed = v1::LocateRequest { relay: true, ..asked.clone() };
    let (found, ()) = tokio::join!(locate(channel, relayed), sharing);
    let found = found.expect("it came");
    let path =
        found.paths.iter().find(|path| path.info.as_ref().is_some_and(|info| info.path == elsewhere.output));
    let manifest = path.expect("located").manifest.clone().expect("its bytes are here");
    assert_eq!(manifest.chunks[0].digest, chunk.digest);
    assert_eq!(get(channel, fetch.clone()).await.expect("its input"), std::slice::from_ref(&chunk));

    let mut wrong = fetch.clone();
    wrong.paths[0].digests = vec![work.infos[&work.top.output].1.digest.clone()];
    let refused = get(channel, wrong).await.expect_err("no chunk of that path");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    builder.report(&lease, &work.top, Some(work.info(&work.top))).await;
    until_standing(channel, &work.top.output, PathStanding::Held).await;
    let refused = get(channel, fetch).await.expect_err("the lease is over");
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
}

#[tokio::test]
async fn what_is_damaged_here_is_found_by_who_fetches_it_and_shared_once_more() {
    let served = serve().await;
    let channel = &served.channel;
    let anna = Machine::join(channel, "anna", &[], Vec::new()).await;
    let bert = Machine::join(channel, "bert", &[], Vec::new()).await;
    let work = Work::new();
    let (_builder, mut holder, lease, elsewhere) = work.until_top(channel, anna, bert).await;
    let (stored, chunk) = work.infos[&elsewhere.output].clone();
    let name = Digest::try_from(&*chunk.digest).expect("32 bytes").to_string();
    let frame = served.state.path().join("state/objects/chunks").join(&name[..2]).join(&name);
    let (right, paths) = (Some(right(&lease)), vec![elsewhere.output.clone()]);
    let relayed =
        v1::LocateRequest { right, paths, alone: true, relay: true, ..v1::LocateRequest::default() };
    let of_path = v1::PathChunks { path: elsewhere.output.clone(), digests: vec![chunk.digest.clone()] };
    let fetch = v1::GetRequest { right, paths: vec![of_path] };
    for _ in 0..2 {
        let sharing = async {
            let FromCoordinator::Share(share) = holder.next().await else { panic!("not asked to share") };
            let right = v1::WorkRight { share: share.share, ..v1::WorkRight::default() };
            put(channel, chunk.clone()).await.expect("kept");
            register(channel, v1::StoredPath { right: Some(right), ..stored.clone() })
                .await
                .expect("asked for");
        };
        let (found, ()) = tokio::join!(locate(channel, relayed.clone()), sharing);
        assert!(found.expect("it came").paths[0].manifest.is_some(), "its bytes are here");
        assert_eq!(get(channel, fetch.clone()).await.expect("its input"), std::slice::from_ref(&chunk));
        std::fs::write(&frame, b"damaged").expect("a frame");
        let refused = get(channel, fetch.clone()).await.expect_err("not what it was");
        assert_eq!(refused.code(), Code::DataLoss, "{refused}");
        assert_eq!(look(channel, &[&elsewhere.output]).await, [PathStanding::Held]);
    }
}

#[tokio::test]
async fn who_waits_for_a_path_that_its_last_holder_lost_is_told_so() {
    let served = serve().await;
    let channel = &served.channel;
    let anna = Machine::join(channel, "anna", &[], Vec::new()).await;
    let bert = Machine::join(channel, "bert", &[], Vec::new()).await;
    let work = Work::new();
    let (_builder, mut holder, lease, elsewhere) = work.until_top(channel, anna, bert).await;
    let paths = lease.steps[0].inputs.clone();
    let asked =
        v1::LocateRequest { right: Some(right(&lease)), paths, relay: true, ..v1::LocateRequest::default() };
    let losing = async {
        let FromCoordinator::Share(share) = holder.next().await else { panic!("not asked to share") };
        holder.worker.say(Message::PathsLost(v1::PathsLost { paths: share.paths })).await;
    };
    let (found, ()) = tokio::join!(locate(channel, asked), losing);
    assert_eq!(found.expect("an answer").lost, std::slice::from_ref(&elsewhere.output));
    assert_eq!(look(channel, &[&elsewhere.output]).await, [PathStanding::Lost]);
}

#[tokio::test]
async fn who_wants_brought_what_only_it_is_said_to_have_has_it_no_more() {
    let served = serve().await;
    let channel = &served.channel;
    let anna = Machine::join(channel, "anna", &[], Vec::new()).await;
    let bert = Machine::join(channel, "bert", &[], Vec::new()).await;
    let work = Work::new();
    let (_builder, _holder, lease, elsewhere) = work.until_top(channel, anna, bert).await;
    let own = lease.steps[0].inputs.iter().find(|path| **path != elsewhere.output).expect("its own").clone();
    let paths = vec![own.clone()];
    let asked =
        v1::LocateRequest { right: Some(right(&lease)), paths, alone: true, ..v1::LocateRequest::default() };
    let found = locate(channel, asked.clone()).await.expect("an answer");
    assert!(found.lost.is_empty(), "it may be there: {found:?}");
    let found = locate(channel, v1::LocateRequest { relay: true, ..asked }).await.expect("an answer");
    assert_eq!(found.lost, std::slice::from_ref(&own));
    assert_eq!(look(channel, &[&own]).await, [PathStanding::Lost]);
}

#[tokio::test]
async fn a_right_lets_nobody_read_more_than_its_work_needs() {
    let served = serve().await;
    let channel = &served.channel;
    let anna = Machine::join(channel, "anna", &[], Vec::new()).await;
    let bert = Machine::join(channel, "bert", &[], Vec::new()).await;
    let work = Work::new();
    let (_builder, _holder, lease, _) = work.until_top(channel, anna, bert).await;
    let inputs = lease.steps[0].inputs.clone();
    let good = right(&lease);
    let cases = [
        (None, inputs.clone(), Code::PermissionDenied),
        (Some(v1::WorkRight::default()), inputs.clone(), Code::PermissionDenied),
        (Some(v1::WorkRight { eval_job: 1, ..good }), inputs.clone(), Code::InvalidArgument),
        (Some(v1::WorkRight { epoch: good.epoch + 1, ..good }), inputs.clone(), Code::Aborted),
        (Some(v1::WorkRight { lease: good.lease + 7, ..good }), inputs.clone(), Code::NotFound),
        (Some(v1::WorkRight { share: 1, ..v1::WorkRight::default() }), inputs.clone(), Code::NotFound),
        (Some(v1::WorkRight { realise_job: 1, ..v1::WorkRight::default() }), inputs, Code::NotFound),
        (Some(good), vec![work.top.output.clone()], Code::PermissionDenied),
        (Some(good), vec!["00000000000000000000000000000000-x".to_owned()], Code::PermissionDenied),
        (Some(good), vec!["../x".to_owned()], Code::InvalidArgument),
    ];
    for (right, paths, code) in cases {
        let asked = v1::LocateRequest { right, paths, ..v1::LocateRequest::default() };
        let refused = locate(channel, asked.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{asked:?}: {refused}");
    }
}

#[tokio::test]
async fn reports_that_cannot_be_true_make_nothing_known_and_the_step_is_tried_again() {
    let served = serve().await;
    let channel = &served.channel;
    let mut anna = Machine::join(channel, "anna", &[], Vec::new()).await;
    submit(channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let job = anna.worker.discover(&["a"]).await;
    anna.worker.evaluated(&job, "a", &[&step]).await;
    let (stored, _) = path(&step.output);
    let true_info = stored.info.expect("an info");
    let lease = anna.lease().await;
    let mut lie = true_info.clone();
    lie.references = vec!["00000000000000000000000000000000-foreign".to_owned()];
    anna.report(&lease, &step, Some(lie)).await;
    let again = anna.lease().await;
    assert_eq!(again.steps[0].attempt, 2);
    assert_eq!(look(channel, &[&step.output]).await, [PathStanding::Unknown]);
    anna.report(&again, &step, Some(true_info)).await;
    until_standing(channel, &step.output, PathStanding::Held).await;
}

#[tokio::test]
async fn a_target_is_there_when_its_closure_is_published_and_not_before() {
    let served = serve().await;
    let channel = &served.channel;
    let mut anna = Machine::join(channel, "anna", &[], Vec::new()).await;
    let run = submit(channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let job = anna.worker.discover(&["a"]).await;
    anna.worker.evaluated(&job, "a", &[&step]).await;
    let lease = anna.lease().await;
    let (stored, chunk) = path(&step.output);
    anna.report(&lease, &step, stored.info.clone()).await;
    let FromCoordinator::Realise(job) = anna.next().await else { panic!("not a realise job") };
    assert!(job.publish);
    let right = v1::WorkRight { realise_job: job.job, epoch: job.epoch, ..v1::WorkRight::default() };
    put(channel, chunk).await.expect("kept");
    register(channel, v1::StoredPath { right: Some(right), ..stored }).await.expect("the target's closure");
    let done =
        v1::PathsRealised { job: job.job, epoch: job.epoch, done: true, ..v1::PathsRealised::default() };
    anna.worker.say(Message::PathsRealised(done)).await;
    let events = Watcher::new(channel, &run, 0, false).await.rest().await;
    assert_eq!(finished(&events).outcome(), RunOutcome::Succeeded);
    assert_eq!(look(channel, &[&step.output]).await, [PathStanding::Kept]);
}

#[tokio::test]
async fn a_target_whose_closure_was_not_brought_fails_and_says_why() {
    let served = serve().await;
    let channel = &served.channel;
    let mut anna = Machine::join(channel, "anna", &[], Vec::new()).await;
    let run = submit(channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let job = anna.worker.discover(&["a"]).await;
    anna.worker.evaluated(&job, "a", &[&step]).await;
    let lease = anna.lease().await;
    anna.report(&lease, &step, path(&step.output).0.info).await;
    let mut watcher = Watcher::new(channel, &run, 0, false).await;
    for _ in 0..FleetConfig::default().realise_attempts {
        let FromCoordinator::Realise(job) = anna.next().await else {
            panic!("its toplevel is to be realised")
        };
        assert!(job.publish, "its closure as well");
        let done =
            v1::PathsRealised { job: job.job, epoch: job.epoch, done: true, ..v1::PathsRealised::default() };
        anna.worker.say(Message::PathsRealised(done)).await;
    }
    let settled = watcher.until(|event| matches!(event, Event::TargetSettled(_))).await;
    let Event::TargetSettled(settled) = settled else { unreachable!("it was waited for") };
    let failure = settled.failure.expect("it failed");
    assert!(failure.cause.contains("published"), "{failure:?}");
}

async fn register(channel: &Channel, path: v1::StoredPath) -> Result<u64, Status> {
    let mut client = v1::paths_client::PathsClient::new(channel.clone());
    Ok(within(client.register(futures::stream::iter([path]))).await?.into_inner().registered)
}

async fn get(channel: &Channel, request: v1::GetRequest) -> Result<Vec<v1::Chunk>, Status> {
    let mut client = v1::chunks_client::ChunksClient::new(channel.clone());
    let mut stream = within(client.get(request)).await?.into_inner();
    let mut chunks = Vec::new();
    while let Some(chunk) = within(stream.message()).await? {
        chunks.push(chunk);
    }
    Ok(chunks)
}
