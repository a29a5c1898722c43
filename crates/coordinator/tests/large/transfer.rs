//! A worker that brings paths of any size, and those who fetch them: as they do it, a few chunks at a time.

use std::time::Duration;

use bytes::Bytes;
use fleet_identity::Credentials;
use fleet_nix::hash::NarHasher;
use fleet_nix::{NarHash, NarInfo, StoreDir};
use fleet_store::{Digest, Level, RawChunk, Sealer, cut, open_frame};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::chunks_client::ChunksClient;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::located::Located;
use fleet_wire::v1::paths_client::PathsClient;
use fleet_wire::v1::worker_message::Message;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::archive::Archive;
use crate::client::{get, older};
use crate::running::Running;
use crate::scripted::{ScriptedWorker, Step, Watcher, finished, reported, request, submit};

/// Chunks that are asked about at a time.
const BATCH: usize = 32;
/// How often a busy worker says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// A worker that puts chunks.
pub(crate) struct Uploader {
    credentials: Credentials,
    channel: Channel,
}

impl Uploader {
    pub(crate) async fn enrol(running: &Running) -> Self {
        let credentials = running.enrolled("anna").await;
        let channel = running.remote(Some(&credentials));
        Self { credentials, channel }
    }

    /// Puts what is missing of an archive, all in one call. Answers what is to be registered.
    pub(crate) async fn put(&self, archive: Archive, path: &str, references: &[&str]) -> v1::StoredPath {
        let (batches, mut made) = mpsc::channel::<Vec<RawChunk>>(1);
        let cutting = tokio::task::spawn_blocking(move || {
            let mut chunks = cut(&archive.reader).map(|chunk| chunk.expect("it is written"));
            loop {
                let batch: Vec<RawChunk> = chunks.by_ref().take(BATCH).collect();
                if batch.is_empty() || batches.blocking_send(batch).is_err() {
                    break;
                }
            }
            drop(chunks);
            archive.finish()
        });
        let (sender, missing) = mpsc::channel(1);
        let mut client = ChunksClient::new(self.channel.clone());
        let putting = tokio::spawn(async move { client.put(ReceiverStream::new(missing)).await });
        let mut sealer = Sealer::new(Level::Fast).expect("a sealer");
        let mut listed = Vec::new();
        while let Some(batch) = made.recv().await {
            let missing = self.missing(&batch).await;
            for chunk in batch {
                let digest = Bytes::copy_from_slice(&chunk.digest.0);
                let size = u32::try_from(chunk.data.len()).expect("small");
                if missing.contains(&digest) {
                    let frame = sealer.seal(&chunk).expect("a frame");
                    let chunk = v1::Chunk { digest: digest.clone(), frame };
                    sender.send(chunk).await.expect("it is taken");
                }
                listed.push(v1::ChunkRef { digest, size });
            }
        }
        drop(sender);
        putting.await.expect("it goes on").expect("all is kept");
        let (nar_hash, nar_size) = cutting.await.expect("it goes on");
        let info = v1::PathInfo {
            path: path.to_owned(),
            nar_hash: nar_hash.0.to_vec().into(),
            nar_size,
            references: references.iter().map(|path| (*path).to_owned()).collect(),
            ..v1::PathInfo::default()
        };
        let manifest = Some(v1::Manifest { chunks: listed });
        v1::StoredPath { info: Some(info), manifest, ..v1::StoredPath::default() }
    }

    async fn missing(&self, batch: &[RawChunk]) -> Vec<Bytes> {
        let digests = batch.iter().map(|chunk| Bytes::copy_from_slice(&chunk.digest.0)).collect();
        let mut client = ChunksClient::new(self.channel.clone());
        let reply = client.find_missing(v1::FindMissingRequest { digests }).await.expect("an answer");
        reply.into_inner().missing
    }
}

/// The worker with a realise job: it may bring the closure of its target, and fetch it.
pub(crate) struct Publisher {
    channel: Channel,
    worker: ScriptedWorker,
    right: v1::WorkRight,
    run: String,
}

impl Publisher {
    /// Builds all, up to the job to publish the last.
    pub(crate) async fn build(
        running: &Running,
        uploader: &Uploader,
        built: [(&Step, &v1::StoredPath); 2],
    ) -> Self {
        let channel = running.remote(Some(&uploader.credentials));
        let mut worker = ScriptedWorker::join(&channel, "anna", 1, 1).await;
        let run = submit(&running.local(), request("k")).await.expect("taken");
        let job = worker.discover(&["a"]).await;
        worker.evaluated(&job, "a", &built.map(|(step, _)| step)).await;
        for (step, path) in built {
            let FromCoordinator::Lease(lease) = order(&mut worker).await else { panic!("not a lease") };
            assert_eq!(lease.steps[0].drv, step.drv());
            let mut report = reported(&lease, OutcomeClass::Built, step);
            report.outputs[0].info.clone_from(&path.info);
            worker.say(Message::StepReported(report)).await;
            let finished = v1::LeaseFinished { lease: lease.lease, epoch: lease.epoch };
            worker.say(Message::LeaseFinished(finished)).await;
        }
        let FromCoordinator::Realise(job) = order(&mut worker).await else { panic!("not a realise job") };
        let right = v1::WorkRight { realise_job: job.job, epoch: job.epoch, ..v1::WorkRight::default() };
        Self { channel, worker, right, run }
    }

    /// Does something that may take long.
    async fn busy<T>(&self, doing: impl Future<Output = T>) -> T {
        let mut doing = std::pin::pin!(doing);
        loop {
            match tokio::time::timeout(HEARTBEAT, &mut doing).await {
                Ok(done) => return done,
                Err(_) => self.worker.say(Message::Heartbeat(v1::Heartbeat::default())).await,
            }
        }
    }

    pub(crate) async fn register(&self, paths: [&v1::StoredPath; 2]) {
        let right = self.right;
        let paths = paths.map(|path| v1::StoredPath { right: Some(right), ..path.clone() });
        let mut client = PathsClient::new(self.channel.clone());
        let registering = client.register(futures::stream::iter(paths));
        let reply = self.busy(registering).await.expect("both are what they are said to be");
        assert_eq!(reply.into_inner().registered, 2);
    }

    /// Its manifest comes whole.
    pub(crate) async fn locate(&self, path: &v1::StoredPath) {
        let paths = vec![name(path).to_owned()];
        let request = v1::LocateRequest { right: Some(self.right), paths, alone: true, ..Default::default() };
        let mut client = PathsClient::new(self.channel.clone());
        let mut stream = client.locate(request).await.expect("its own").into_inner();
        while let Some(located) = stream.message().await.expect("it goes on") {
            if let Some(Located::Path(located)) = located.located {
                assert!(located.manifest == path.manifest, "another manifest");
                return;
            }
        }
        panic!("it is not located");
    }

    /// Fetches all chunks, in one call, and puts them together.
    pub(crate) async fn fetch(&self, path: &v1::StoredPath) {
        let listed = path.manifest.iter().flat_map(|manifest| &manifest.chunks);
        let digests = listed.map(|chunk| chunk.digest.clone()).collect();
        let paths = vec![v1::PathChunks { path: name(path).to_owned(), digests }];
        let request = v1::GetRequest { right: Some(self.right), paths };
        let fetching = async {
            let mut client = ChunksClient::new(self.channel.clone());
            let mut stream = client.get(request).await.expect("its own").into_inner();
            let mut hasher = NarHasher::new();
            while let Some(chunk) = stream.message().await.expect("it goes on") {
                let digest = Digest::try_from(&*chunk.digest).expect("a digest");
                hasher.update(&open_frame(digest, &chunk.frame).expect("a good frame"));
            }
            hasher.finish()
        };
        assert_same(path, self.busy(fetching).await);
    }

    /// Says that all is there, and waits for the end of the run.
    pub(crate) async fn publish(&self, running: &Running) {
        let (job, epoch) = (self.right.realise_job, self.right.epoch);
        let done = v1::PathsRealised { job, epoch, done: true, ..v1::PathsRealised::default() };
        self.worker.say(Message::PathsRealised(done)).await;
        let events = Watcher::new(&running.local(), &self.run, 0, false).await.rest().await;
        let outcome = finished(&events).outcome();
        assert_eq!(outcome, v1::RunOutcome::Succeeded, "{events:?}");
    }
}

/// Downloads the published archive as anybody may, and unpacks it.
pub(crate) async fn download(running: &Running, path: &v1::StoredPath) {
    let answer = get(running, &format!("/{}.narinfo", &name(path)[..32]), "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let narinfo = NarInfo::parse(&StoreDir::default(), &answer.content).expect("a strict narinfo");
    let mut stream = BufReader::with_capacity(256 << 10, older(running, true).await);
    let request = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", narinfo.url);
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).await.expect("a head");
        assert!(!line.starts_with("HTTP/") || line.contains(" 200 "), "{line}");
    }
    let mut unpacked = zstd::stream::write::Decoder::new(NarHasher::new()).expect("a decoder");
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        // The end of the connection may come without a goodbye of TLS.
        let read = stream.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            break;
        }
        length += read as u64;
        std::io::Write::write_all(&mut unpacked, &buffer[..read]).expect("zstd frames");
    }
    assert_eq!(Some(length), narinfo.file_size);
    std::io::Write::flush(&mut unpacked).expect("whole frames");
    assert_same(path, unpacked.into_inner().finish());
}

/// The next order; what may be done and what is only heard is passed over.
async fn order(worker: &mut ScriptedWorker) -> FromCoordinator {
    loop {
        match worker.hear().await {
            FromCoordinator::Prefetch(_) | FromCoordinator::Acknowledged(_) => {}
            other => return other,
        }
    }
}

fn name(path: &v1::StoredPath) -> &str {
    path.info.as_ref().map_or("", |info| &info.path)
}

fn assert_same(path: &v1::StoredPath, (hash, size): (NarHash, u64)) {
    let info = path.info.as_ref().expect("an info");
    assert_eq!((&hash.0[..], size), (&*info.nar_hash, info.nar_size), "it came back as something else");
}
