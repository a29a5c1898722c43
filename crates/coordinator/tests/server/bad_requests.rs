//! Well-formed requests that make no sense: one thing is wrong at a time, and each has its status and its reason.

use fleet_identity::{ClientToken, JoinToken, NewKey, Role, unix_now};
use fleet_store::{Digest, RawChunk, seal_frame};
use fleet_wire::v1;
use fleet_wire::v1::admin_client::AdminClient;
use fleet_wire::v1::chunks_client::ChunksClient;
use fleet_wire::v1::enrolment_client::EnrolmentClient;
use fleet_wire::v1::paths_client::PathsClient;
use fleet_wire::v1::runs_client::RunsClient;
use fleet_wire::v1::worker_message::Message;
use fleet_wire::v1::workers_client::WorkersClient;
use futures::stream::{empty, pending};
use futures::{Stream, StreamExt};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::running::{Running, client, enrol, within};

/// Texts that are no names: with control characters, out of order, out of the tree, too long.
const NO_NAMES: [&str; 6] = ["a\nb", "a\0", "\u{202e}a", "..", "../a", "\u{1b}[31m"];

/// A run by its name is nobody's.
const NO_RUN: &str = "run-nobody";

/// It is refused with this code, and this in its reason.
async fn assert_refused<T>(
    answer: impl Future<Output = Result<T, Status>>,
    code: Code,
    fragment: &str,
    what: &str,
) {
    let status = within(answer).await.err().unwrap_or_else(|| panic!("{what}: it is taken"));
    assert_eq!(status.code(), code, "{what}: {status}");
    assert!(status.message().contains(fragment), "{what}: {status}");
}

fn submitter(running: &Running) -> Channel {
    running.remote(Some(&client(&running.authority(), "submitter", Role::Submit, unix_now())))
}

fn digest(length: usize) -> bytes::Bytes {
    vec![7; length].into()
}

fn good_source() -> v1::Source {
    v1::Source {
        nar_hash: digest(32),
        nar_size: 3,
        manifest: Some(v1::Manifest { chunks: vec![v1::ChunkRef { digest: digest(32), size: 3 }] }),
        rev: "0123abcd".to_owned(),
        subdir: "a/b".to_owned(),
        ..v1::Source::default()
    }
}

fn good_request() -> v1::SubmitRequest {
    v1::SubmitRequest {
        idempotency_key: "good".to_owned(),
        after: Some(good_source()),
        selection: Some(v1::Selection::default()),
        ..v1::SubmitRequest::default()
    }
}

fn chunk(digest_length: usize, size: u32) -> v1::Manifest {
    v1::Manifest { chunks: vec![v1::ChunkRef { digest: digest(digest_length), size }] }
}

#[tokio::test]
async fn a_submission_with_one_thing_wrong_names_it() {
    type Sources = (fn(&mut v1::Source), &'static str);
    type Selections = (fn(&mut v1::Selection), &'static str);
    let sources: [Sources; 14] = [
        (|source| source.nar_hash = digest(31), "source.nar_hash"),
        (|source| source.nar_hash = digest(33), "source.nar_hash"),
        (|source| source.manifest = None, "source.manifest"),
        (|source| source.manifest = Some(v1::Manifest::default()), "source.manifest"),
        (|source| source.manifest = Some(chunk(31, 3)), "source.manifest"),
        (|source| source.manifest = Some(chunk(32, 4)), "source.manifest"),
        (|source| source.manifest = Some(chunk(32, u32::MAX)), "source.manifest"),
        (|source| source.nar_size = u64::MAX, "source.manifest"),
        (|source| source.rev = "main".to_owned(), "source.rev"),
        (|source| source.rev = "a".repeat(65), "source.rev"),
        (|source| source.rev = "--upload-pack=x".to_owned(), "source.rev"),
        (|source| source.subdir = "/etc".to_owned(), "source.subdir"),
        (|source| source.subdir = "a/../..".to_owned(), "source.subdir"),
        (|source| source.subdir = "a\nb".to_owned(), "source.subdir"),
    ];
    let selections: [Selections; 5] = [
        (|selection| selection.hosts = vec!["h*".to_owned(); 10_000], "selection"),
        (|selection| selection.excludes = vec!["h*".to_owned(); 10_000], "selection"),
        (|selection| selection.hosts = vec!["*".repeat(1025)], "selection"),
        (|selection| selection.kinds = vec![1; 17], "selection"),
        (|selection| selection.kinds = vec![99], "kind"),
    ];
    let mut bad = vec![
        (v1::SubmitRequest { after: None, ..good_request() }, "after"),
        (v1::SubmitRequest { idempotency_key: String::new(), ..good_request() }, "idempotency_key"),
        (v1::SubmitRequest { idempotency_key: "k".repeat(257), ..good_request() }, "idempotency_key"),
    ];
    for (change, fragment) in sources {
        let mut source = good_source();
        change(&mut source);
        bad.push((v1::SubmitRequest { after: Some(source.clone()), ..good_request() }, fragment));
        bad.push((v1::SubmitRequest { before: Some(source), ..good_request() }, fragment));
    }
    for (change, fragment) in selections {
        let mut selection = v1::Selection::default();
        change(&mut selection);
        bad.push((v1::SubmitRequest { selection: Some(selection), ..good_request() }, fragment));
    }
    let running = Running::start();
    let mut runs = RunsClient::new(submitter(&running));
    for (request, fragment) in bad {
        let what = format!("{request:.200?}");
        assert_refused(runs.submit(request), Code::InvalidArgument, fragment, &what).await;
    }
    let good =
        within(runs.submit(good_request())).await.expect("the same connection serves on").into_inner().run;
    let again = within(runs.submit(good_request())).await.expect("the same again").into_inner().run;
    assert_eq!(good, again);
    let other = v1::SubmitRequest { dry_run: true, ..good_request() };
    assert_refused(runs.submit(other), Code::AlreadyExists, "another request", "another body").await;
    let limits = v1::StepLimits {
        timeout_s: u32::MAX,
        max_silent_s: u32::MAX,
        max_log_bytes: u64::MAX,
        max_output_bytes: u64::MAX,
    };
    let most =
        v1::SubmitRequest { idempotency_key: "most".to_owned(), limits: Some(limits), ..good_request() };
    within(runs.submit(most)).await.expect("the highest limits are limits");
}

#[tokio::test]
async fn questions_about_nothing_are_told_so() {
    let running = Running::start();
    let mut runs = RunsClient::new(submitter(&running));
    let names = NO_NAMES.iter().copied().chain(["", NO_RUN]);
    for run in names {
        let text = run.to_owned();
        let cancel = runs.cancel(v1::CancelRequest { run: text.clone() });
        assert_refused(cancel, Code::NotFound, "there is no run", run).await;
        let show = runs.show(v1::ShowRunRequest { run: text.clone() });
        assert_refused(show, Code::NotFound, "there is no run", run).await;
        let events = runs.events(v1::EventsRequest { run: text, after_sequence: u64::MAX, logs: true });
        assert_refused(events, Code::NotFound, "there is no run", run).await;
    }
    let unknown = v1::WhyRequest { run: NO_RUN.to_owned(), selector: "h".to_owned() };
    assert_refused(runs.why(unknown), Code::NotFound, "there is no run", "why of no run").await;
    let long = "h".repeat(1025);
    for selector in ["", &long] {
        let why = v1::WhyRequest { selector: selector.to_owned(), ..v1::WhyRequest::default() };
        assert_refused(runs.why(why), Code::InvalidArgument, "a selector is", selector).await;
        let logs = v1::LogsRequest { selector: selector.to_owned(), ..v1::LogsRequest::default() };
        assert_refused(runs.logs(logs), Code::InvalidArgument, "a selector is", selector).await;
    }
    for selector in NO_NAMES.iter().copied().chain(["h", "../../journal", "/nix/store/x"]) {
        let why = v1::WhyRequest { selector: selector.to_owned(), ..v1::WhyRequest::default() };
        assert_refused(runs.why(why), Code::NotFound, "no live run has", selector).await;
        for (attempt, offset) in [(0, 0), (u32::MAX, u64::MAX)] {
            let selector = selector.to_owned();
            let logs = v1::LogsRequest { selector: selector.clone(), attempt, offset, ..Default::default() };
            assert_refused(runs.logs(logs), Code::NotFound, "no remembered run", &selector).await;
        }
    }
    let drv = v1::LogsRequest { selector: "../x.drv".to_owned(), ..Default::default() };
    assert_refused(runs.logs(drv), Code::NotFound, "no log is kept", "a derivation outside").await;
    for limit in [1_001, u32::MAX] {
        let list = runs.list(v1::ListRunsRequest { limit });
        assert_refused(list, Code::InvalidArgument, "at most 1000 runs", "a long list").await;
    }
    // From beyond the end of a run that is there: nothing until it ends, and its end is the end.
    let run = within(runs.submit(good_request())).await.expect("taken").into_inner().run;
    let late = v1::EventsRequest { run: run.clone(), after_sequence: u64::MAX, logs: false };
    let mut late = within(runs.events(late)).await.expect("a stream").into_inner();
    within(runs.cancel(v1::CancelRequest { run })).await.expect("its own run");
    assert!(within(late.message()).await.expect("no error").is_none(), "there is nothing after the last");
}

#[tokio::test]
async fn what_is_no_chunk_is_refused_with_its_reason() {
    let running = Running::start();
    let mut chunks = ChunksClient::new(submitter(&running));
    let data = b"0123456789".repeat(100);
    let raw = RawChunk { digest: Digest::of(&data), data };
    let frame = seal_frame(&raw).expect("compresses");
    let name = bytes::Bytes::copy_from_slice(&raw.digest.0);
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).expect("compresses");
    let mut trained = zstd::bulk::Compressor::with_dictionary(3, &raw.data).expect("a dictionary");
    let trained = trained.compress(&raw.data).expect("compresses");
    // What zstd skips.
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2];
    // A window of 2 TiB, and a size of as much.
    let wide = [0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let mut flipped = frame.to_vec();
    *flipped.last_mut().expect("not empty") ^= 0x40;
    let bad: [(&str, bytes::Bytes, Vec<u8>, &str); 13] = [
        ("a short digest", digest(31), frame.to_vec(), "32 bytes"),
        ("a long digest", digest(33), frame.to_vec(), "32 bytes"),
        ("another digest", digest(32), frame.to_vec(), "holds other content"),
        ("no frame", name.clone(), Vec::new(), "chunk "),
        ("garbage", name.clone(), vec![7; 100], "not a valid frame"),
        ("half a frame", name.clone(), frame[..frame.len() / 2].to_vec(), "not a valid frame"),
        ("a flipped bit", name.clone(), flipped, "chunk "),
        ("a bomb", name.clone(), bomb, "not a valid frame"),
        ("a giant window", name.clone(), wide.to_vec(), "not a valid frame"),
        ("a dictionary", name.clone(), trained, "chunk "),
        ("two frames", name.clone(), frame.repeat(2), "not a valid frame"),
        ("skipped bytes after", name.clone(), [&frame[..], &skipped].concat(), "not a valid frame"),
        ("skipped bytes before", name.clone(), [&skipped[..], &frame].concat(), "not a valid frame"),
    ];
    for (what, digest, frame, fragment) in bad {
        let chunk = v1::Chunk { digest, frame: frame.into() };
        let put = chunks.put(futures::stream::iter([chunk]));
        assert_refused(put, Code::InvalidArgument, fragment, what).await;
    }
    let large = v1::Chunk { digest: name.clone(), frame: vec![7; (1 << 20) + (64 << 10) + 1].into() };
    let put = chunks.put(futures::stream::iter([large]));
    assert_refused(put, Code::InvalidArgument, "a frame has at most", "a large frame").await;
    for (digests, fragment) in [(vec![digest(31)], "32 bytes"), (vec![digest(32); 65_537], "at most 65536")] {
        let find = chunks.find_missing(v1::FindMissingRequest { digests });
        assert_refused(find, Code::InvalidArgument, fragment, "find missing").await;
    }
    let good = v1::Chunk { digest: name, frame };
    let put = within(chunks.put(futures::stream::iter([good]))).await.expect("the same connection serves on");
    assert_eq!(put.into_inner().stored, 1);

    let worker = running.remote(Some(&running.enrolled("w").await));
    let mut chunks = ChunksClient::new(worker);
    for (digests, fragment) in [(vec![digest(31)], "32 bytes"), (vec![digest(32); 65_537], "at most 65536")] {
        let paths = vec![v1::PathChunks { path: String::new(), digests }];
        let get = chunks.get(v1::GetRequest { paths, right: None });
        assert_refused(get, Code::InvalidArgument, fragment, "get").await;
    }
    let paths = vec![v1::PathChunks { path: String::new(), digests: vec![digest(32)] }];
    let without_right = chunks.get(v1::GetRequest { paths, right: None });
    assert_refused(without_right, Code::PermissionDenied, "no right", "get without a right").await;
    let of_nothing = chunks.get(v1::GetRequest::default());
    assert_refused(of_nothing, Code::PermissionDenied, "names no path", "get of no path").await;
}

#[tokio::test]
async fn paths_that_nobody_asked_for_are_refused() {
    let running = Running::start();
    let mut paths = PathsClient::new(running.remote(Some(&running.enrolled("w").await)));
    let many = vec!["x".to_owned(); 65_537];
    let right = |lease| Some(v1::WorkRight { lease, ..Default::default() });
    let look = paths.look(v1::LookRequest { paths: many.clone() });
    assert_refused(look, Code::InvalidArgument, "at most 65536 paths", "look").await;
    let locate = paths.locate(v1::LocateRequest { right: right(1), paths: many, ..Default::default() });
    assert_refused(locate, Code::InvalidArgument, "at most 65536 paths", "locate").await;
    for name in NO_NAMES.iter().copied().chain(["", "x", "/nix/store/x"]) {
        let names = || vec![name.to_owned()];
        let look = paths.look(v1::LookRequest { paths: names() });
        assert_refused(look, Code::InvalidArgument, "not a store path", name).await;
        let locate =
            paths.locate(v1::LocateRequest { right: right(1), paths: names(), ..Default::default() });
        assert_refused(locate, Code::InvalidArgument, "not a store path", name).await;
    }
    let info = || {
        let path = "00000000000000000000000000000000-x".to_owned();
        Some(v1::PathInfo { path, nar_hash: vec![1; 32].into(), nar_size: 1, ..Default::default() })
    };
    let none = v1::WorkRight::default();
    let claim = |info, right| v1::StoredPath { info, right: Some(right), ..Default::default() };
    let claims = [
        (v1::StoredPath::default(), Code::PermissionDenied, "it names no right"),
        (claim(None, v1::WorkRight { lease: 1, share: 1, ..none }), Code::InvalidArgument, "several rights"),
        (
            claim(info(), v1::WorkRight { lease: u64::MAX, epoch: u64::MAX, ..none }),
            Code::NotFound,
            "no lease",
        ),
        (claim(info(), v1::WorkRight { eval_job: u64::MAX, ..none }), Code::NotFound, "no eval job"),
        (claim(info(), v1::WorkRight { realise_job: u64::MAX, ..none }), Code::NotFound, "no realise job"),
        (claim(info(), v1::WorkRight { share: u64::MAX, ..none }), Code::NotFound, "no order to share"),
        (claim(None, v1::WorkRight { lease: 1, ..none }), Code::InvalidArgument, "not a store path"),
    ];
    for (claim, code, fragment) in claims {
        let what = format!("{claim:?}");
        assert_refused(paths.register(futures::stream::iter([claim])), code, fragment, &what).await;
    }
}

#[tokio::test]
async fn enrolment_takes_no_garbage() {
    let running = Running::start_with("[server]\nmax_failed_enrolments = 1000000\n", |_| {});
    let stranger = running.remote(None);
    let key = NewKey::generate();
    let token = running.join_token("w").await;
    let good: JoinToken = token.parse().expect("a token");
    let altered = token[..token.len() - 1].to_owned();
    let unknown = JoinToken { id: fleet_identity::TokenId::random(), ..good }.to_string();
    let other_kind = running.client_token("c", v1::Role::Submit).await;
    assert!(ClientToken::is_meant_by(&other_kind));
    for (bad, fragment) in [
        ("garbage", "not a fleet-join token"),
        ("fleet-join-v2.x", "not a fleet-join token"),
        (&other_kind, "not a fleet-join token"),
        ("fleet-join-v1.", "incomplete"),
        (&altered, "incomplete"),
        (&unknown, "unknown or has expired"),
    ] {
        assert_refused(enrol(stranger.clone(), bad, &key), Code::Unauthenticated, fragment, bad).await;
    }
    let worker = running.remote(Some(&running.enrolled("w2").await));
    let whole = key.request();
    let mut forged = whole.clone();
    *forged.last_mut().expect("not empty") ^= 1;
    let requests = [
        ("nothing", Vec::new()),
        ("garbage", vec![0x30; 100]),
        ("half of it", whole[..whole.len() / 2].to_vec()),
        ("more than it", [&whole[..], b"x"].concat()),
        ("signed by another", forged),
    ];
    for (what, request) in requests {
        let enrol = v1::EnrolRequest { token: token.clone(), request: request.clone().into() };
        let mut client = EnrolmentClient::new(stranger.clone());
        assert_refused(client.enrol(enrol), Code::InvalidArgument, "certificate request", what).await;
        let mut client = EnrolmentClient::new(worker.clone());
        let renew = v1::RenewRequest { request: request.into() };
        assert_refused(client.renew(renew), Code::InvalidArgument, "certificate request", what).await;
    }
    enrol(stranger, &token, &key).await.expect("the token has not been used up");
}

#[tokio::test]
async fn administration_names_what_is_wrong() {
    let running = Running::start();
    let mut admin = AdminClient::new(running.local());
    let long = "a".repeat(64);
    for name in NO_NAMES.iter().copied().chain(["", "-a", "A", "a b", &long]) {
        let text = name.to_owned();
        let fragment = "a name is 1 to 63";
        let join = v1::CreateJoinTokenRequest { name: text.clone(), ..Default::default() };
        assert_refused(admin.create_join_token(join), Code::InvalidArgument, fragment, name).await;
        let token = v1::CreateClientTokenRequest { name: text.clone(), role: 1, ttl_s: 0 };
        assert_refused(admin.create_client_token(token), Code::InvalidArgument, fragment, name).await;
        let revoke = v1::RevokeClientRequest { name: text.clone() };
        assert_refused(admin.revoke_client(revoke), Code::InvalidArgument, fragment, name).await;
        let order = v1::OrderWorkerRequest { name: text, order: 1, reason: String::new() };
        assert_refused(admin.order_worker(order), Code::InvalidArgument, fragment, name).await;
    }
    for ttl_s in [u64::MAX, u64::MAX - unix_now(), 1 << 62] {
        let join = v1::CreateJoinTokenRequest { name: "w".to_owned(), ttl_s, ..Default::default() };
        assert_refused(admin.create_join_token(join), Code::InvalidArgument, "lives at most", "ttl").await;
        let token = v1::CreateClientTokenRequest { name: "c".to_owned(), role: 1, ttl_s };
        assert_refused(admin.create_client_token(token), Code::InvalidArgument, "lives at most", "ttl").await;
    }
    for word in NO_NAMES.iter().filter(|word| **word != "..").copied().chain(["", "a b"]) {
        for (systems, features) in [(vec![word.to_owned()], vec![]), (vec![], vec![word.to_owned()])] {
            let join = v1::CreateJoinTokenRequest { name: "w".to_owned(), systems, features, ttl_s: 0 };
            let fragment = "systems and features";
            assert_refused(admin.create_join_token(join), Code::InvalidArgument, fragment, word).await;
        }
    }
    for role in [0, 4, -1, i32::MIN, i32::MAX] {
        let token = v1::CreateClientTokenRequest { name: "c".to_owned(), role, ttl_s: 0 };
        assert_refused(admin.create_client_token(token), Code::InvalidArgument, "the role must be", "role")
            .await;
    }
    let order = |order, reason: &str| v1::OrderWorkerRequest {
        name: "nobody".to_owned(),
        order,
        reason: reason.to_owned(),
    };
    for unknown in [0, 4, -1, i32::MIN, i32::MAX] {
        let asked = admin.order_worker(order(unknown, ""));
        assert_refused(asked, Code::InvalidArgument, "the order must be", "order").await;
    }
    let wordy = admin.order_worker(order(1, &"r".repeat(501)));
    assert_refused(wordy, Code::InvalidArgument, "at most 500 bytes", "reason").await;
    for known in [1, 2, 3] {
        assert_refused(admin.order_worker(order(known, "")), Code::NotFound, "nobody", "order").await;
    }
}

fn hello() -> v1::Hello {
    v1::Hello {
        systems: vec!["x86_64-linux".to_owned()],
        slots: 1,
        boot_id: "b".to_owned(),
        instance_id: "i".to_owned(),
        ..v1::Hello::default()
    }
}

/// How a session ends after these messages, and `then` more; nothing if it ends well.
async fn session(
    channel: &Channel,
    said: Vec<Message>,
    then: impl Stream<Item = v1::WorkerMessage> + Send + 'static,
) -> Result<(), Status> {
    let said =
        said.into_iter().map(|message| v1::WorkerMessage { message: Some(message), ..Default::default() });
    let mut client = WorkersClient::new(channel.clone());
    let answer = within(client.session(futures::stream::iter(said.collect::<Vec<_>>()).chain(then))).await;
    let mut inbound = answer.map(Response::into_inner)?;
    while within(inbound.message()).await?.is_some() {}
    Ok(())
}

/// What ends a session that had a good hello.
fn bad_messages() -> [(Message, Code, &'static str); 11] {
    let bad_host = Some(v1::Host { name: "h".to_owned(), kind: 99 });
    let long_host = v1::Host { name: "h".repeat(1025), kind: 1 };
    let outside = "/etc/passwd".to_owned();
    let derivation = |drv: &str| v1::Derivation { drv: drv.to_owned(), ..v1::Derivation::default() };
    [
        (Message::Hello(hello()), Code::FailedPrecondition, "one hello"),
        (Message::HostStarted(v1::HostStarted::default()), Code::InvalidArgument, "field host"),
        (
            Message::HostStarted(v1::HostStarted { host: bad_host, ..Default::default() }),
            Code::InvalidArgument,
            "kind",
        ),
        (
            Message::HostsDiscovered(v1::HostsDiscovered { hosts: vec![long_host], ..Default::default() }),
            Code::InvalidArgument,
            "host.name",
        ),
        (
            Message::HostsDiscovered(v1::HostsDiscovered {
                hosts: vec![v1::Host { name: "h".to_owned(), kind: 1 }; 100_001],
                ..Default::default()
            }),
            Code::InvalidArgument,
            "hosts",
        ),
        (Message::HostEvaluated(v1::HostEvaluated::default()), Code::InvalidArgument, "field host"),
        (Message::StepBegun(v1::StepBegun::default()), Code::InvalidArgument, "drv"),
        (
            Message::StepBegun(v1::StepBegun { drv: outside, ..Default::default() }),
            Code::InvalidArgument,
            "drv",
        ),
        (Message::StepReported(v1::StepReported::default()), Code::InvalidArgument, "drv"),
        (
            Message::DerivationsSeen(v1::DerivationsSeen { derivations: vec![derivation("../x.drv")] }),
            Code::InvalidArgument,
            "",
        ),
        (
            Message::DerivationsSeen(v1::DerivationsSeen {
                derivations: vec![derivation("00000000000000000000000000000000-x.drv")],
            }),
            Code::InvalidArgument,
            "",
        ),
    ]
}

#[tokio::test]
async fn a_worker_that_speaks_nonsense_loses_its_session() {
    type Hellos = (fn(&mut v1::Hello), Code, &'static str);
    let running = Running::start();
    let channel = running.remote(Some(&running.enrolled("w").await));
    let hellos: [Hellos; 9] = [
        (|hello| hello.name = "other".to_owned(), Code::PermissionDenied, "another name"),
        (|hello| hello.name = "w\n".to_owned(), Code::PermissionDenied, "another name"),
        (|hello| hello.systems = vec!["s".to_owned(); 65], Code::InvalidArgument, "hello.systems"),
        (|hello| hello.emulated_systems = vec!["s".to_owned(); 65], Code::InvalidArgument, "hello.systems"),
        (|hello| hello.features = vec!["f".to_owned(); 257], Code::InvalidArgument, "hello.systems"),
        (|hello| hello.mandatory_features = vec!["f".repeat(257)], Code::InvalidArgument, "hello.systems"),
        (|hello| hello.instance_id = "i".repeat(257), Code::InvalidArgument, "hello.systems"),
        (|hello| hello.boot_id = "i".repeat(257), Code::InvalidArgument, "hello.systems"),
        (|hello| hello.holds = vec![v1::HeldLease::default(); 4_097], Code::InvalidArgument, "hello.holds"),
    ];
    for (change, code, fragment) in hellos {
        let mut hello = hello();
        change(&mut hello);
        let what = format!("{hello:.200?}");
        assert_refused(session(&channel, vec![Message::Hello(hello)], pending()), code, fragment, &what)
            .await;
    }
    let early = session(&channel, vec![Message::Heartbeat(v1::Heartbeat::default())], pending());
    assert_refused(early, Code::FailedPrecondition, "is a hello", "no hello").await;
    for (message, code, fragment) in bad_messages() {
        let what = format!("{message:.200?}");
        let said = vec![Message::Hello(hello()), message];
        assert_refused(session(&channel, said, pending()), code, fragment, &what).await;
    }
    // Reports on work that is nobody's, and numbers without bounds, are no breach: they came too late.
    let most = u64::MAX;
    let late = vec![
        Message::Hello(hello()),
        Message::LeaseFinished(v1::LeaseFinished { lease: most, epoch: most }),
        Message::EvalFinished(v1::EvalFinished { job: most, epoch: most, ..Default::default() }),
        Message::StepLogged(v1::StepLogged { lease: most, epoch: most, offset: most, ..Default::default() }),
        Message::StepPhased(v1::StepPhased { lease: most, ..Default::default() }),
        Message::Heartbeat(v1::Heartbeat {
            load1: f64::NAN,
            store_free: most,
            leases: u32::MAX,
            ..Default::default()
        }),
    ];
    session(&channel, late, empty()).await.expect("it ends well");
    assert!(!running.said_so_far().contains("panicked"));
}
