//! From a join token to a certificate, once; and out again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fleet_identity::{JoinToken, NewKey, Secret};
use fleet_wire::v1;
use fleet_wire::v1::admin_client::AdminClient;
use fleet_wire::v1::enrolment_client::EnrolmentClient;
use fleet_wire::v1::runs_client::RunsClient;
use futures::future::join_all;
use tonic::Code;

use crate::running::{Running, bearing, enrol, list_runs, within};
use crate::tls::session;

#[tokio::test]
async fn a_thousand_parallel_uses_of_a_token_yield_one_certificate() {
    // All come from one address and most of them fail: that is not what is tested here.
    let running = Running::start_with("[server]\nmax_failed_enrolments = 10000\n", |_| {});
    let token = running.join_token("w").await;
    let keys: Vec<_> = (0..10).map(|_| NewKey::generate()).collect();
    let channels: Vec<_> = (0..20).map(|_| running.remote(None)).collect();
    let uses = (0..1000).map(|use_| {
        let (channel, key) = (channels[use_ % channels.len()].clone(), &keys[use_ % keys.len()]);
        let token = &token;
        async move { (use_ % keys_len(), enrol(channel, token, key).await) }
    });
    let mut certificates = BTreeSet::new();
    let mut holders = BTreeSet::new();
    let mut refused = 0;
    for (key, answer) in join_all(uses).await {
        match answer {
            Ok(reply) => {
                certificates.insert(reply.chain[0].clone());
                holders.insert(key);
            }
            Err(status) => {
                assert_eq!(status.code(), Code::PermissionDenied, "{status}");
                refused += 1;
            }
        }
    }
    assert_eq!((certificates.len(), holders.len(), refused), (1, 1, 900));
}

fn keys_len() -> usize {
    10
}

#[tokio::test]
async fn an_enrolment_asked_again_is_answered_alike() {
    let running = Running::start();
    let (token, key) = (running.join_token("w").await, NewKey::generate());
    let first = enrol(running.remote(None), &token, &key).await.expect("a good token");
    let again = enrol(running.remote(None), &token, &key).await.expect("the same key");
    assert_eq!(first, again);
    let other = enrol(running.remote(None), &token, &NewKey::generate()).await.expect_err("another key");
    assert_eq!(other.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn what_strangers_send_is_small_and_who_fails_often_waits() {
    let running = Running::start_with("[server]\nmax_failed_enrolments = 5\n", |_| {});
    let channel = running.remote(None);
    let mut client = EnrolmentClient::new(channel.clone());
    let large = v1::EnrolRequest { token: "x".repeat(17 << 10), request: Vec::new().into() };
    assert_eq!(within(client.enrol(large)).await.expect_err("too large").code(), Code::OutOfRange);
    let token = running.join_token("w").await;
    let good: JoinToken = token.parse().expect("a token");
    let guessed = JoinToken { secret: Secret::random(), ..good }.to_string();
    let key = NewKey::generate();
    for (token, code) in [("", Code::Unauthenticated), ("fleet-join-v1.x", Code::Unauthenticated)] {
        assert_eq!(enrol(channel.clone(), token, &key).await.expect_err("refused").code(), code);
    }
    let status = enrol(channel.clone(), &guessed, &key).await.expect_err("another secret");
    assert_eq!(status.code(), Code::Unauthenticated);
    let no_key = v1::EnrolRequest { token: token.clone(), request: vec![1, 2, 3].into() };
    assert_eq!(within(client.enrol(no_key)).await.expect_err("no request").code(), Code::InvalidArgument);
    assert_eq!(
        enrol(channel.clone(), &guessed, &key).await.expect_err("refused").code(),
        Code::Unauthenticated
    );
    // The sixth is not looked at, though it is good; this machine's user is not in its way.
    let status = enrol(channel, &token, &key).await.expect_err("too many failures");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(enrol(running.local(), &token, &key).await.is_ok());
}

#[tokio::test]
async fn a_revoked_worker_is_cut_off_within_moments_and_never_comes_back() {
    let running = Running::start();
    let credentials = running.enrolled("w").await;
    let (_outbox, mut inbound) = session(&running, &credentials).await;
    let order = v1::OrderWorkerRequest {
        name: "w".to_owned(),
        order: v1::WorkerOrder::Revoke.into(),
        reason: "stolen".to_owned(),
    };
    let since = Instant::now();
    let ordered = within(AdminClient::new(running.local()).order_worker(order)).await;
    let status = loop {
        match within(inbound.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends without a word"),
            Err(status) => break status,
        }
    };
    assert!(since.elapsed() < Duration::from_secs(5), "cut after {:?}", since.elapsed());
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(ordered.is_ok(), "{ordered:?}");
    let key = NewKey::generate();
    let renew = v1::RenewRequest { request: key.request().into() };
    let mut client = EnrolmentClient::new(running.remote(Some(&credentials)));
    assert_eq!(within(client.renew(renew)).await.expect_err("refused").code(), Code::PermissionDenied);
    let again = v1::CreateJoinTokenRequest { name: "w".to_owned(), ..Default::default() };
    let status = within(AdminClient::new(running.local()).create_join_token(again)).await;
    assert_eq!(status.expect_err("for ever").code(), Code::PermissionDenied);
    let list = v1::ListWorkersRequest { name: "w".to_owned() };
    let listed = within(AdminClient::new(running.local()).list_workers(list)).await.expect("an answer");
    assert_eq!(listed.get_ref().workers[0].state, "revoked", "{listed:?}");
}

#[tokio::test]
async fn a_revoked_client_is_cut_off_whatever_it_had() {
    let running = Running::start();
    let token = running.client_token("ci", v1::Role::Read).await;
    let certificate = crate::running::client(
        &running.authority(),
        "ci",
        fleet_identity::Role::Read,
        fleet_identity::unix_now(),
    );
    let watch = |channel| async move {
        let request = tonic_health::pb::HealthCheckRequest::default();
        tonic_health::pb::health_client::HealthClient::new(channel).watch(request).await
    };
    let mut by_certificate =
        within(watch(running.remote(Some(&certificate)))).await.expect("known").into_inner();
    let mut health = tonic_health::pb::health_client::HealthClient::new(running.remote(None));
    let request = bearing(tonic_health::pb::HealthCheckRequest::default(), &token);
    let mut by_token = within(health.watch(request)).await.expect("known").into_inner();
    for stream in [&mut by_certificate, &mut by_token] {
        assert!(within(stream.message()).await.expect("a state").is_some());
    }
    let request = v1::RevokeClientRequest { name: "ci".to_owned() };
    within(AdminClient::new(running.local()).revoke_client(request)).await.expect("this user may");
    // A token of somebody revoked is forgotten: it is like one that never was.
    let codes = [Code::PermissionDenied, Code::Unauthenticated];
    for (stream, code) in [&mut by_certificate, &mut by_token].into_iter().zip(codes) {
        let status = within(stream.message()).await.expect_err("cut");
        assert_eq!(status.code(), code, "{status}");
    }
    assert_eq!(list_runs(running.remote(None), Some(&token)).await, Code::Unauthenticated);
    assert_eq!(list_runs(running.remote(Some(&certificate)), None).await, Code::PermissionDenied);
}

#[tokio::test]
async fn a_stopping_coordinator_says_so_to_whoever_has_a_stream() {
    let mut running = Running::start();
    let credentials = running.enrolled("w").await;
    let (_outbox, mut inbound) = session(&running, &credentials).await;
    let mut client = RunsClient::new(running.local());
    let nobody = v1::EventsRequest { run: "run-nobody".to_owned(), ..Default::default() };
    assert_eq!(within(client.events(nobody)).await.expect_err("unknown").code(), Code::NotFound);
    running.signal("TERM");
    let status = loop {
        match within(inbound.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("restarting"), "{status}");
    assert_eq!(running.end().code(), Some(0));
    assert!(!running.socket().exists());
}
