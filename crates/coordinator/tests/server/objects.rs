//! Where chunks and manifests are kept: a coordinator on a server that speaks S3.

use fleet_store::{Digest, RawChunk, seal_frame};
use fleet_testkit::S3Server;
use fleet_wire::v1;
use fleet_wire::v1::chunks_client::ChunksClient;

use crate::running::{Running, program, run, within};

fn setting(server: &S3Server) -> String {
    format!("objects = \"{}\"\n", server.place("a/fleet"))
}

async fn missing(running: &Running, digests: &[Digest]) -> Vec<Vec<u8>> {
    let digests = digests.iter().map(|digest| digest.0.to_vec().into()).collect();
    let asked = ChunksClient::new(running.local()).find_missing(v1::FindMissingRequest { digests }).await;
    asked.expect("answers").into_inner().missing.iter().map(|digest| digest.to_vec()).collect()
}

#[tokio::test]
async fn chunks_are_in_s3_and_outlive_the_coordinator() {
    let server = S3Server::start();
    let environment = server.environment();
    let start = || {
        Running::start_with(&setting(&server), |command| {
            command.envs(environment.clone());
        })
    };
    let mut running = start();
    let chunk = RawChunk::new(b"content".to_vec());
    let absent = Digest::of(b"absent");
    let frame = seal_frame(&chunk).expect("compresses");
    let put = v1::Chunk { digest: chunk.digest.0.to_vec().into(), frame };
    let put = within(ChunksClient::new(running.local()).put(futures::stream::iter([put]))).await;
    assert_eq!(put.expect("stores").into_inner().stored, 1);
    let name = chunk.digest.to_string();
    assert!(server.bucket().join("a/fleet/chunks").join(&name[..2]).join(&name).exists());
    assert!(!running.state().join("objects").exists());
    running.signal("TERM");
    running.end();
    // Another one, with nothing in its state directory.
    let other = start();
    assert_eq!(missing(&other, &[chunk.digest, absent]).await, [absent.0.to_vec()]);
}

#[test]
fn a_coordinator_that_may_not_use_its_objects_says_so_and_ends() {
    let server = S3Server::start();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("coordinator.toml");
    let state = directory.path().join("state");
    std::fs::write(&file, format!("state_dir = \"{}\"\n{}", state.display(), setting(&server)))
        .expect("a file");
    let mut wrong = program(directory.path());
    wrong.arg("--config").arg(&file).envs(server.environment()).env("AWS_SECRET_ACCESS_KEY", "wrong");
    let (code, _, said) = run(&mut wrong);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot reach objects of s3://fleet-test/a/fleet"), "{said}");
    assert!(said.contains("SignatureDoesNotMatch"), "{said}");
    let mut wrong = program(directory.path());
    wrong.arg("--config").arg(&file).envs(server.environment()).env("AWS_ENDPOINT", "localhost:9000");
    let (code, _, said) = run(&mut wrong);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("AWS_ENDPOINT: expected http://HOST:PORT"), "{said}");
}
