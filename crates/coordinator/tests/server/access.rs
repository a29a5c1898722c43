//! Who may call what: every procedure of the protocol, called by every kind of caller over real connections.

use fleet_identity::testing::{SignedWith, TestIssuer};
use fleet_identity::{Credentials, Role, unix_now};
use fleet_wire::v1;
use fleet_wire::v1::admin_client::AdminClient;
use fleet_wire::v1::runs_client::RunsClient;
use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::running::{Running, bearing, check_health, client, list_runs, within};

/// What a procedure answers a kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is looked at, whatever comes of it.
    Yes,
    /// Who are you?
    Who,
    /// Not you.
    No,
}
use Answer::{No, Who, Yes};

/// Kinds of callers, in the order of the table's columns.
const CALLERS: [&str; 8] =
    ["nobody", "reader", "submitter", "administrator", "reader's token", "CI job", "worker", "this user"];

#[rustfmt::skip]
const TABLE: &[(&str, [Answer; 8])] = &[
    ("/grpc.health.v1.Health/Check",                                   [Yes, Yes, Yes, Yes, Yes, Yes, Yes, Yes]),
    ("/grpc.health.v1.Health/Watch",                                   [Who, Yes, Yes, Yes, Yes, Yes, Yes, Yes]),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",      [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Enrolment/Enrol",                                      [Yes, Yes, Yes, Yes, Yes, Yes, Yes, Yes]),
    // This machine's user has no certificate to renew.
    ("/fleet.v1.Enrolment/Renew",                                      [Who, No,  No,  No,  No,  No,  Yes, No ]),
    ("/fleet.v1.Workers/Session",                                      [Who, No,  No,  No,  No,  No,  Yes, Yes]),
    ("/fleet.v1.Paths/Register",                                       [Who, No,  No,  No,  No,  No,  Yes, Yes]),
    ("/fleet.v1.Paths/Look",                                           [Who, No,  No,  No,  No,  No,  Yes, Yes]),
    ("/fleet.v1.Paths/Vouch",                                          [Who, No,  No,  No,  No,  No,  Yes, Yes]),
    ("/fleet.v1.Paths/Locate",                                         [Who, No,  No,  No,  No,  No,  Yes, Yes]),
    ("/fleet.v1.Cache/Info",                                           [Who, Yes, Yes, Yes, Yes, Yes, No,  Yes]),
    ("/fleet.v1.Cache/Collect",                                        [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Cache/Verify",                                         [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Cache/Pin",                                            [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Cache/Unpin",                                          [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Cache/ListRoots",                                      [Who, Yes, Yes, Yes, Yes, Yes, No,  Yes]),
    ("/fleet.v1.Chunks/FindMissing",                                   [Who, No,  Yes, Yes, No,  Yes, Yes, Yes]),
    ("/fleet.v1.Chunks/Put",                                           [Who, No,  Yes, Yes, No,  Yes, Yes, Yes]),
    ("/fleet.v1.Chunks/Get",                                           [Who, No,  No,  No,  No,  No,  Yes, Yes]),
    ("/fleet.v1.Runs/Submit",                                          [Who, No,  Yes, Yes, No,  Yes, No,  Yes]),
    ("/fleet.v1.Runs/Cancel",                                          [Who, No,  Yes, Yes, No,  Yes, No,  Yes]),
    ("/fleet.v1.Runs/Events",                                          [Who, Yes, Yes, Yes, Yes, Yes, No,  Yes]),
    ("/fleet.v1.Runs/Logs",                                            [Who, Yes, Yes, Yes, Yes, Yes, No,  Yes]),
    ("/fleet.v1.Runs/List",                                            [Who, Yes, Yes, Yes, Yes, Yes, No,  Yes]),
    ("/fleet.v1.Runs/Show",                                            [Who, Yes, Yes, Yes, Yes, Yes, No,  Yes]),
    ("/fleet.v1.Runs/Status",                                          [Who, Yes, Yes, Yes, Yes, Yes, No,  Yes]),
    ("/fleet.v1.Runs/Why",                                             [Who, Yes, Yes, Yes, Yes, Yes, No,  Yes]),
    ("/fleet.v1.Admin/CreateJoinToken",                                [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Admin/CreateClientToken",                              [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Admin/ListClients",                                    [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Admin/RevokeClient",                                   [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Admin/ListWorkers",                                    [Who, No,  No,  Yes, No,  No,  No,  Yes]),
    ("/fleet.v1.Admin/OrderWorker",                                    [Who, No,  No,  Yes, No,  No,  No,  Yes]),
];

/// A connection, and a token if the caller is known by one.
struct Caller {
    channel: Channel,
    token: Option<String>,
}

/// Calls a procedure with an empty message, and half-closes.
async fn call(caller: &Caller, path: &'static str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(caller.channel.clone());
    within(client.ready()).await.map_err(|error| Status::internal(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let mut request = Request::new(futures::stream::iter([()]));
    if let Some(token) = &caller.token {
        let value = MetadataValue::try_from(format!("Bearer {token}")).expect("a header");
        request.metadata_mut().insert("authorization", value);
    }
    let path = PathAndQuery::from_static(path);
    let answer = tokio::time::timeout(
        std::time::Duration::from_secs(5),
        client.streaming::<_, (), (), _>(request, path, codec),
    );
    // Somebody refused is told at once; a stream that waits for more was let in.
    let mut answer = match answer.await {
        Ok(answer) => answer?.into_inner(),
        Err(_) => return Ok(()),
    };
    match tokio::time::timeout(std::time::Duration::from_millis(200), answer.message()).await {
        Ok(Err(status)) => Err(status),
        _ => Ok(()),
    }
}

/// An issuer of CI tokens that this coordinator believes.
fn issuer_lines(directory: &std::path::Path, issuer: &TestIssuer) -> String {
    let jwks = directory.join("jwks.json");
    std::fs::write(&jwks, issuer.jwks().to_string()).expect("a file");
    let jwks = jwks.display();
    format!(
        "[[oidc]]\nname = \"forge\"\nissuer = {:?}\naudiences = [\"fleet\"]\njwks_file = \"{jwks}\"\n\
         rules = [{{ role = \"submit\", claims = {{ repository = [\"owner/*\"], ref = [\"refs/heads/main\"] }} }}]\n",
        issuer.url
    )
}

#[tokio::test]
async fn every_procedure_asks_who_calls() {
    let issuer = TestIssuer::new("https://forge.example");
    let directory = tempfile::tempdir().expect("a directory");
    let lines = issuer_lines(directory.path(), &issuer);
    let running = Running::start_in(directory, &lines, |_| {});
    let now = unix_now();
    let token = running.client_token("reader-token", v1::Role::Read).await;
    let claims = issuer.claims(now, "fleet", "owner/flake", "refs/heads/main");
    let job = issuer.token(&claims, SignedWith::Rsa);
    let made = |role| client(&running.authority(), "somebody", role, now);
    let worker = running.enrolled("w").await;
    let by = |shown: Option<&Credentials>, token: Option<&str>| Caller {
        channel: running.remote(shown),
        token: token.map(str::to_owned),
    };
    let callers = [
        by(None, None),
        by(Some(&made(Role::Read)), None),
        by(Some(&made(Role::Submit)), None),
        by(Some(&made(Role::Admin)), None),
        by(None, Some(&token)),
        by(None, Some(&job)),
        by(Some(&worker), None),
        Caller { channel: running.local(), token: None },
    ];
    let mut wrong = Vec::new();
    for (path, expected) in TABLE {
        for ((caller, name), expected) in callers.iter().zip(CALLERS).zip(expected) {
            // A stream that was let in would go on for ever, and a good token fails here for want of a request.
            let answer = match call(caller, path).await.err() {
                // Refusals for the sake of an object sound otherwise.
                Some(status)
                    if status.code() == Code::PermissionDenied && status.message().starts_with("only ") =>
                {
                    No
                }
                Some(status) if status.code() == Code::Unauthenticated && !path.ends_with("/Enrol") => Who,
                _ => Yes,
            };
            if answer != *expected {
                wrong.push(format!("{path} answers {name}: {answer:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let described = prost_types::FileDescriptorSet::decode(fleet_wire::DESCRIPTORS).expect("our own");
    // Workers ask each other there, and not the coordinator.
    let services =
        described.file.iter().flat_map(|file| &file.service).filter(|service| service.name() != "Peer");
    let methods = services.map(|service| service.method.len());
    let ours = TABLE.iter().filter(|(path, _)| path.starts_with("/fleet."));
    assert_eq!(ours.count(), methods.sum::<usize>(), "a procedure is not in this table");
}

#[tokio::test]
async fn tokens_that_are_not_good_are_no_tokens() {
    let issuer = TestIssuer::new("https://forge.example");
    let directory = tempfile::tempdir().expect("a directory");
    let lines = issuer_lines(directory.path(), &issuer);
    let running = Running::start_in(directory, &lines, |_| {});
    let now = unix_now();
    let token = running.client_token("reader", v1::Role::Read).await;
    let job = |now, audience: &str, repository: &str, reference: &str| {
        issuer.token(&issuer.claims(now, audience, repository, reference), SignedWith::Rsa)
    };
    let main = "refs/heads/main";
    let stranger = TestIssuer::new("https://other.example");
    let theirs = stranger.claims(now, "fleet", "owner/flake", main);
    let channel = running.remote(None);
    for bad in [
        "x",
        &token[..token.len() - 1],
        "fleet-client-v1.",
        &job(now - 7200, "fleet", "owner/flake", main),
        &job(now + 7200, "fleet", "owner/flake", main),
        &job(now, "others", "owner/flake", main),
        &job(now, "fleet", "stranger/flake", main),
        &job(now, "fleet", "owner/flake", "refs/pull/1/merge"),
        &stranger.token(&theirs, SignedWith::Rsa),
    ] {
        assert_eq!(list_runs(channel.clone(), Some(bad)).await, Code::Unauthenticated, "{bad}");
    }
    let good = list_runs(channel.clone(), Some(&job(now, "fleet", "owner/flake", main))).await;
    assert_eq!(good, list_runs(channel, Some(&token)).await);
    assert_ne!(good, Code::Unauthenticated);
}

#[tokio::test]
async fn strangers_learn_that_it_serves_and_nothing_more() {
    let running = Running::start();
    let serving = i32::from(tonic_health::ServingStatus::Serving as u8);
    assert_eq!(check_health(running.remote(None)).await.expect("anyone may ask"), serving);
    let nobody = Caller { channel: running.remote(None), token: None };
    for path in [
        "/",
        "/fleet.v1.Runs/Nothing",
        "/fleet.v2.Runs/List",
        "/%66leet.v1.Runs/List",
        "//fleet.v1.Runs/List",
    ] {
        let status = call(&nobody, path).await.expect_err("nothing is there");
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
    }
}

/// How an administrator's request fails.
async fn refused<T>(answer: impl Future<Output = Result<T, Status>>) -> Code {
    within(answer).await.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn administration_refuses_nonsense_with_its_exact_status() {
    let running = Running::start();
    let mut admin = AdminClient::new(running.local());
    for name in ["", "-a", "A", "a/b", "a b", "a\n", "\u{202e}a", &"a".repeat(64)] {
        let join = v1::CreateJoinTokenRequest { name: name.to_owned(), ..Default::default() };
        assert_eq!(refused(admin.create_join_token(join)).await, Code::InvalidArgument, "{name:?}");
        let order = v1::OrderWorkerRequest {
            name: name.to_owned(),
            order: v1::WorkerOrder::Drain.into(),
            ..Default::default()
        };
        assert_eq!(refused(admin.order_worker(order)).await, Code::InvalidArgument, "{name:?}");
        let revoke = v1::RevokeClientRequest { name: name.to_owned() };
        assert_eq!(refused(admin.revoke_client(revoke)).await, Code::InvalidArgument, "{name:?}");
    }
    let join = |change: fn(&mut v1::CreateJoinTokenRequest)| {
        let mut request = v1::CreateJoinTokenRequest { name: "w".to_owned(), ..Default::default() };
        change(&mut request);
        request
    };
    for bad in [
        join(|request| request.ttl_s = u64::MAX),
        join(|request| request.systems = vec!["x86_64 linux".to_owned()]),
        join(|request| request.features = vec![String::new()]),
        join(|request| request.features = vec!["f".to_owned(); 65]),
    ] {
        let text = format!("{bad:?}");
        assert_eq!(refused(admin.create_join_token(bad)).await, Code::InvalidArgument, "{text}");
    }
    let large = join(|request| request.systems = vec!["x86_64-linux".to_owned(); 6_000]);
    assert_eq!(refused(admin.create_join_token(large)).await, Code::OutOfRange);
    for role in [0, 4, -1, i32::MAX] {
        let token = v1::CreateClientTokenRequest { name: "c".to_owned(), role, ttl_s: 0 };
        assert_eq!(refused(admin.create_client_token(token)).await, Code::InvalidArgument, "{role}");
    }
    let order = |name: &str, order: i32, reason: &str| v1::OrderWorkerRequest {
        name: name.to_owned(),
        order,
        reason: reason.to_owned(),
    };
    for unknown in [0, 4, -1] {
        assert_eq!(refused(admin.order_worker(order("w", unknown, ""))).await, Code::InvalidArgument);
    }
    assert_eq!(refused(admin.order_worker(order("w", 1, &"r".repeat(501)))).await, Code::InvalidArgument);
    for known in [1, 2, 3] {
        assert_eq!(refused(admin.order_worker(order("nobody", known, ""))).await, Code::NotFound, "{known}");
    }
}

#[tokio::test]
async fn a_run_is_cancelled_by_its_owner_or_an_administrator() {
    let running = Running::start();
    let [owner, other, admin] =
        [("owner", v1::Role::Submit), ("other", v1::Role::Submit), ("boss", v1::Role::Admin)];
    let mut channels = Vec::new();
    for (name, role) in [owner, other, admin] {
        let token = running.client_token(name, role).await;
        channels.push((RunsClient::new(running.remote(None)), token));
    }
    let source = v1::Source { nar_hash: vec![1; 32].into(), nar_size: 0, ..Default::default() };
    let source = v1::Source { manifest: Some(v1::Manifest::default()), ..source };
    let [(owner, owners), (other, others), (admin, admins)] = &mut channels[..] else { panic!("three") };
    let mut submit = async |key: &str| {
        let request = v1::SubmitRequest {
            idempotency_key: key.to_owned(),
            after: Some(source.clone()),
            selection: Some(v1::Selection::default()),
            ..Default::default()
        };
        within(owner.submit(bearing(request, owners))).await.expect("taken").into_inner().run
    };
    let (one, two) = (submit("one").await, submit("two").await);
    let cancel = |run: &str| v1::CancelRequest { run: run.to_owned() };
    assert_eq!(refused(other.cancel(bearing(cancel(&one), others))).await, Code::PermissionDenied);
    assert_eq!(refused(other.cancel(bearing(cancel("run-nobody"), others))).await, Code::NotFound);
    assert_eq!(refused(admin.cancel(bearing(cancel(&one), admins))).await, Code::Ok);
    assert_eq!(refused(owner.cancel(bearing(cancel(&two), owners))).await, Code::Ok);
}
