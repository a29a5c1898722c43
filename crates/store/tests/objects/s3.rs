//! What can happen to S3 and not to a directory.

use std::time::Duration;

use fleet_store::{Digest, Kept, Manifest, Objects, Place, RawChunk, StoreError, seal_frame};
use fleet_testkit::S3Server;

const NAME: &str = "00000000000000000000000000000000-x";

fn open(server: &S3Server, changes: &[(&str, &str)]) -> Objects {
    let place: Place = server.place("").parse().expect("a place");
    let mut environment = server.environment();
    environment.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    Objects::open_with(&place, environment).expect("opens")
}

#[tokio::test]
async fn a_store_that_lets_us_in_answers_and_others_say_what_is_wrong() {
    let server = S3Server::start();
    open(&server, &[]).probe().await.expect("answers");
    let stranger = open(&server, &[("AWS_SECRET_ACCESS_KEY", "wrong")]).probe().await;
    let error = stranger.expect_err("is refused");
    assert!(matches!(&error, StoreError::Objects { place, .. } if place == "s3://fleet-test"), "{error:?}");
    let place = "s3://no-such-bucket".parse().expect("a place");
    let elsewhere = Objects::open_with(&place, server.environment()).expect("opens");
    assert!(matches!(elsewhere.probe().await, Err(StoreError::Objects { .. })));
}

#[test]
fn settings_that_cannot_be_are_refused_before_anything_is_asked() {
    let place = "s3://bucket".parse().expect("a place");
    for (key, value) in [
        ("AWS_CONDITIONAL_PUT", "perhaps"),
        ("AWS_ENDPOINT", ""),
        ("AWS_ENDPOINT", "minio.example.org:9000"),
        ("AWS_ENDPOINT_URL", "https://"),
        ("AWS_ENDPOINT_URL_S3", "https://a b"),
        ("AWS_ENDPOINT", "ftp://example.org"),
        ("AWS_ENDPOINT", "http://example.org"),
    ] {
        let wrong = [(key.to_owned(), value.to_owned())];
        let error = Objects::open_with(&place, wrong).expect_err(value);
        assert!(matches!(error, StoreError::Setup { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_knows_no_conditions_keeps_the_first_as_well() {
    let server = S3Server::start();
    let objects = open(&server, &[("AWS_CONDITIONAL_PUT", "disabled")]);
    let manifests = objects.manifests();
    let manifest = |text: &'static str| Manifest { note: text.into(), pieces: Vec::new() };
    let all = ["one", "two", "three"].map(|text| {
        let manifests = manifests.clone();
        async move { manifests.keep(NAME, &manifest(text)).await.expect("keeps") }
    });
    let all = futures::future::join_all(all).await;
    assert_eq!(all.iter().filter(|kept| **kept == Kept::Now).count(), 1);
    let chunk = RawChunk::new(b"one".to_vec());
    let frame = seal_frame(&chunk).expect("compresses");
    objects.chunks().put(chunk.digest, frame.clone()).await.expect("stores");
    objects.chunks().put(chunk.digest, frame).await.expect("again is fine");
    assert_eq!(objects.chunks().read(chunk.digest).await.expect("reads"), b"one");
}

#[tokio::test]
async fn a_short_outage_is_waited_out() {
    let mut server = S3Server::start();
    let objects = open(&server, &[]);
    let chunk = RawChunk::new(b"one".to_vec());
    let frame = seal_frame(&chunk).expect("compresses");
    objects.chunks().put(chunk.digest, frame.clone()).await.expect("stores");
    server.stop();
    let chunks = objects.chunks();
    let mut reading = tokio::spawn(async move { chunks.get(chunk.digest).await });
    // It neither fails nor answers while nobody listens.
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut reading).await.is_err());
    server.start_again();
    assert_eq!(reading.await.expect("ends").expect("reads"), frame);
    assert!(matches!(objects.chunks().get(Digest::of(b"two")).await, Err(StoreError::Absent(_))));
}
