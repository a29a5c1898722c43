//! Who may bring which store path: the services as workers meet them.

use fleet_nix::nar::NarWriter;
use fleet_nix::{ContentAddress, ContentAddressMethod, NarHash, References, StoreDir, fixed_path};
use fleet_store::{Digest, RawChunk, seal_frame};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::scripted::{ScriptedWorker, Step, request, serve, submit, within};

/// A path with one chunk. Its content does not name it: that would be a reference.
pub(crate) fn path(name: &str) -> (v1::StoredPath, v1::Chunk) {
    let mut writer = NarWriter::new(Vec::new()).expect("in memory");
    let content: String = name.chars().rev().collect();
    writer.file(false, content.len() as u64, content.as_bytes()).expect("in memory");
    let data = writer.finish().expect("an archive");
    let chunk = RawChunk { digest: Digest::of(&data), data };
    let digest = bytes::Bytes::copy_from_slice(&chunk.digest.0);
    let size = chunk.data.len();
    let info = v1::PathInfo {
        path: name.to_owned(),
        nar_hash: NarHash::of(&chunk.data).0.to_vec().into(),
        nar_size: size as u64,
        ..v1::PathInfo::default()
    };
    let chunks = vec![v1::ChunkRef { digest: digest.clone(), size: u32::try_from(size).expect("small") }];
    let stored = v1::StoredPath {
        info: Some(info),
        manifest: Some(v1::Manifest { chunks }),
        ..v1::StoredPath::default()
    };
    (stored, v1::Chunk { digest, frame: seal_frame(&chunk).expect("compresses") })
}

pub(crate) async fn put(channel: &Channel, chunk: v1::Chunk) -> Result<u64, Status> {
    let mut client = v1::chunks_client::ChunksClient::new(channel.clone());
    Ok(within(client.put(futures::stream::iter([chunk]))).await?.into_inner().stored)
}

async fn register(channel: &Channel, path: v1::StoredPath) -> Result<u64, Status> {
    let mut client = v1::paths_client::PathsClient::new(channel.clone());
    Ok(within(client.register(futures::stream::iter([path]))).await?.into_inner().registered)
}

async fn is_stored(channel: &Channel, name: &str) -> bool {
    let mut client = v1::paths_client::PathsClient::new(channel.clone());
    let request = v1::LookRequest { paths: vec![name.to_owned()] };
    let looked = within(client.look(request)).await.expect("answers").into_inner();
    looked.standings == [i32::from(v1::PathStanding::Kept)]
}

#[tokio::test]
async fn only_outputs_of_a_lease_are_kept_for_it_and_only_while_it_lasts() {
    let served = serve().await;
    let channel = &served.channel;
    let mut worker = ScriptedWorker::join(channel, "w", 1, 1).await;
    submit(channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    let (output, chunk) = path(&step.output);
    let (foreign, foreign_chunk) = path("00000000000000000000000000000000-foreign");
    for chunk in [chunk, foreign_chunk] {
        put(channel, chunk).await.expect("kept");
    }
    let claim = |path: &v1::StoredPath, lease: u64, epoch: u64, eval_job: u64| {
        let right = v1::WorkRight { lease, epoch, eval_job, ..v1::WorkRight::default() };
        v1::StoredPath { right: Some(right), ..path.clone() }
    };
    let cases = [
        (claim(&output, 0, 0, 0), Code::PermissionDenied),
        (claim(&output, lease.lease, lease.epoch, 1), Code::InvalidArgument),
        (claim(&output, lease.lease, lease.epoch + 1, 0), Code::Aborted),
        (claim(&output, lease.lease, lease.epoch - 1, 0), Code::Aborted),
        (claim(&output, lease.lease + 1, lease.epoch, 0), Code::NotFound),
        (claim(&output, 0, lease.epoch, u64::MAX), Code::NotFound),
        (claim(&foreign, lease.lease, lease.epoch, 0), Code::PermissionDenied),
        (v1::StoredPath { info: None, ..claim(&output, lease.lease, lease.epoch, 0) }, Code::InvalidArgument),
    ];
    for (path, code) in cases {
        let status = register(channel, path.clone()).await.expect_err("refused");
        assert_eq!(status.code(), code, "{path:?}: {status}");
    }
    assert!(!is_stored(channel, &step.output).await);
    let good = claim(&output, lease.lease, lease.epoch, 0);
    assert_eq!(register(channel, good.clone()).await.expect("its own output"), 1);
    assert_eq!(register(channel, good.clone()).await.expect("twice is nothing"), 1);
    assert!(is_stored(channel, &step.output).await);
    let (mut other, chunk) = path("99999999999999999999999999999999-other");
    put(channel, chunk).await.expect("kept");
    other.info.as_mut().expect("an info").path = step.output.clone();
    let status = register(channel, claim(&other, lease.lease, lease.epoch, 0)).await.expect_err("it differs");
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");

    worker.report(&lease, OutcomeClass::Built, &step).await;
    worker.realise().await;
    let status = register(channel, good).await.expect_err("the lease is over");
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[tokio::test]
async fn an_evaluator_shares_what_its_content_names_while_its_job_lasts() {
    let served = serve().await;
    let channel = &served.channel;
    let mut worker = ScriptedWorker::join(channel, "w", 1, 1).await;
    submit(channel, request("k")).await.expect("taken");
    let job = worker.discover(&["a"]).await;
    let (mut source, chunk) = path("00000000000000000000000000000000-source");
    let named = source.info.as_mut().expect("an info");
    let hash = NarHash(named.nar_hash.as_ref().try_into().expect("32 bytes"));
    let address = ContentAddress { method: ContentAddressMethod::NixArchive, hash: hash.to_hash() };
    let by_content = fixed_path(&StoreDir::default(), "source", &address, &References::default());
    named.content_address = address.to_string();
    let claim = |path: &v1::StoredPath, epoch: u64| {
        let right = v1::WorkRight { eval_job: job.job, epoch, ..v1::WorkRight::default() };
        v1::StoredPath { right: Some(right), ..path.clone() }
    };
    let named_falsely = claim(&source, job.epoch);
    source.info.as_mut().expect("an info").path = by_content.expect("a path").to_string();
    put(channel, chunk).await.expect("kept");
    let status = register(channel, claim(&source, job.epoch + 1)).await.expect_err("stale");
    assert_eq!(status.code(), Code::Aborted, "{status}");
    let (local, chunk) = path("00000000000000000000000000000000-local");
    put(channel, chunk).await.expect("kept");
    for refused in [named_falsely, claim(&local, job.epoch)] {
        let status = register(channel, refused).await.expect_err("nobody else can vouch for it");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    register(channel, claim(&source, job.epoch)).await.expect("its job lasts");
    let step = Step::new("top", &[]);
    worker.evaluated(&job, "a", &[&step]).await;
    worker.hear_lease().await;
    let status = register(channel, claim(&source, job.epoch)).await.expect_err("its job is over");
    assert_eq!(status.code(), Code::NotFound, "{status}");
}

#[tokio::test]
async fn what_is_no_chunk_is_refused_and_the_connection_serves_on() {
    let served = serve().await;
    let channel = &served.channel;
    let (_, good) = path("00000000000000000000000000000000-good");
    // What zstd skips, and then the right content.
    let padding = [&[0x50, 0x2A, 0x4D, 0x18, 0, 0, 0x20, 0][..], &vec![0; 2 << 20]].concat();
    let padded = bytes::Bytes::from([&padding[..], &good.frame].concat());
    let bad = [
        v1::Chunk { digest: vec![1; 31].into(), ..good.clone() },
        v1::Chunk { digest: vec![1; 32].into(), ..good.clone() },
        v1::Chunk { frame: bytes::Bytes::new(), ..good.clone() },
        v1::Chunk { frame: padded, ..good.clone() },
    ];
    for chunk in bad {
        let status = put(channel, chunk).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let mut chunks = v1::chunks_client::ChunksClient::new(channel.clone());
    let many = vec![good.digest.clone(); 65_537];
    let status = within(chunks.find_missing(v1::FindMissingRequest { digests: many.clone() })).await;
    assert_eq!(status.expect_err("too many").code(), Code::InvalidArgument);
    let status = within(chunks.get(v1::GetRequest {
        right: None,
        paths: vec![v1::PathChunks { path: String::new(), digests: many }],
    }))
    .await;
    assert_eq!(status.expect_err("too many").code(), Code::InvalidArgument);
    let mut paths = v1::paths_client::PathsClient::new(channel.clone());
    let many = vec!["00000000000000000000000000000000-x".to_owned(); 65_537];
    let status = within(paths.look(v1::LookRequest { paths: many })).await;
    assert_eq!(status.expect_err("too many").code(), Code::InvalidArgument);
    assert_eq!(put(channel, good).await.expect("good"), 1);
}
