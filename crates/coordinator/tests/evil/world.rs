//! An honest worker, an evil one, a run whose steps are theirs by their systems, and things to say of paths.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use fleet_identity::Credentials;
use fleet_nix::derivation::derivation_path;
use fleet_nix::nar::NarWriter;
use fleet_nix::{ContentAddress, NarHash, References, SecretKey, StoreDir, StorePath, fixed_path};
use fleet_store::{Digest, RawChunk, seal_frame};
use fleet_wire::v1;
use fleet_wire::v1::admin_client::AdminClient;
use fleet_wire::v1::chunks_client::ChunksClient;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::paths_client::PathsClient;
use fleet_wire::v1::worker_message::Message;
use fleet_wire::v1::{OutcomeClass, PathStanding};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::client::get;
use crate::running::Running;
use crate::scripted::{ScriptedWorker, Step, reported, request, submit, within};

/// What the honest worker builds, and what the evil one does.
pub(crate) const HONEST: &str = "x86_64-linux";
pub(crate) const EVIL: &str = "aarch64-linux";

/// The key of the upstream cache that the coordinator believes.
pub(crate) fn upstream() -> SecretKey {
    SecretKey::from_seed("upstream-1", &[7; 32]).expect("a key")
}

/// A derivation for one system; its output is named by what is fixed, if anything.
pub(crate) fn step(name: &str, system: &str, inputs: &[&Step], fixed: Option<ContentAddress>) -> Step {
    let store = StoreDir::default();
    let hash = NarHash::of(name.as_bytes()).to_hash();
    let (output, method, digest) = match fixed {
        None => (format!("{}-{name}", &hash.to_nix32()[..32]), "", String::new()),
        Some(address) => {
            let path = fixed_path(&store, name, &address, &References::default()).expect("a path");
            (path.to_string(), "sha256", address.hash.to_base16())
        }
    };
    let mut inputs: Vec<&str> = inputs.iter().map(|input| input.drv()).collect();
    inputs.sort_unstable();
    let listed: Vec<String> = inputs.iter().map(|drv| format!("(\"/nix/store/{drv}\",[\"out\"])")).collect();
    let aterm = format!(
        "Derive([(\"out\",\"/nix/store/{output}\",\"{method}\",\"{digest}\")],[{}],[],\"{system}\",\"/bin/sh\",[],[(\"name\",\"{name}\"),(\"out\",\"/nix/store/{output}\")])",
        listed.join(",")
    );
    let references = inputs.iter().map(|drv| drv.parse().expect("a store path")).collect();
    let drv = derivation_path(&store, name, aterm.as_bytes(), &references).expect("a derivation path");
    let references = inputs.into_iter().map(str::to_owned).collect();
    let derivation =
        v1::Derivation { drv: drv.to_string(), aterm: aterm.into(), references, inputs: Vec::new() };
    Step { derivation, output }
}

/// A path as its holder describes it, and its one chunk.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) stored: v1::StoredPath,
    pub(crate) chunk: v1::Chunk,
}

impl Made {
    /// A file that holds the references' hash parts.
    pub(crate) fn new(path: &str, references: &[&str]) -> Self {
        Self::holding(path, &references.join(" "), references)
    }

    pub(crate) fn holding(path: &str, content: &str, references: &[&str]) -> Self {
        let mut writer = NarWriter::new(Vec::new()).expect("in memory");
        writer.file(false, content.len() as u64, content.as_bytes()).expect("in memory");
        Self::of(path, writer.finish().expect("an archive"), references)
    }

    /// Any bytes for an archive.
    pub(crate) fn of(path: &str, data: Vec<u8>, references: &[&str]) -> Self {
        let raw = RawChunk { digest: Digest::of(&data), data };
        let digest = Bytes::copy_from_slice(&raw.digest.0);
        let size = u32::try_from(raw.data.len()).expect("small");
        let info = v1::PathInfo {
            path: path.to_owned(),
            nar_hash: NarHash::of(&raw.data).0.to_vec().into(),
            nar_size: u64::from(size),
            references: references.iter().map(|path| (*path).to_owned()).collect(),
            ..v1::PathInfo::default()
        };
        let manifest = v1::Manifest { chunks: vec![v1::ChunkRef { digest: digest.clone(), size }] };
        let stored =
            v1::StoredPath { info: Some(info), manifest: Some(manifest), ..v1::StoredPath::default() };
        Self { stored, chunk: v1::Chunk { digest, frame: seal_frame(&raw).expect("compresses") } }
    }

    pub(crate) fn info(&self) -> v1::PathInfo {
        self.stored.info.clone().expect("an info")
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut v1::PathInfo)) -> Self {
        change(self.stored.info.as_mut().expect("an info"));
        self
    }

    pub(crate) fn cut(mut self, change: impl FnOnce(&mut Vec<v1::ChunkRef>)) -> Self {
        change(&mut self.stored.manifest.as_mut().expect("a manifest").chunks);
        self
    }
}

/// A worker with its certificate and its session.
pub(crate) struct Machine {
    pub(crate) channel: Channel,
    pub(crate) credentials: Credentials,
    pub(crate) worker: ScriptedWorker,
}

impl Machine {
    async fn join(running: &Running, name: &str, system: &str) -> Self {
        let credentials = running.enrolled(name).await;
        let channel = running.remote(Some(&credentials));
        let hello = v1::Hello {
            name: name.to_owned(),
            systems: vec![system.to_owned()],
            slots: 8,
            eval_slots: u32::from(system == HONEST),
            boot_id: "boot".to_owned(),
            ..v1::Hello::default()
        };
        let (worker, _) = ScriptedWorker::greet(&channel, hello).await.expect("let in");
        Self { channel, credentials, worker }
    }

    /// The next order; what is only heard is passed over.
    pub(crate) async fn next(&mut self) -> FromCoordinator {
        loop {
            match self.worker.hear().await {
                FromCoordinator::Prefetch(_) | FromCoordinator::Acknowledged(_) => {}
                other => return other,
            }
        }
    }

    /// The lease of each of these steps.
    pub(crate) async fn leases(&mut self, steps: &[&Step]) -> Vec<v1::Lease> {
        let mut leases = BTreeMap::new();
        while leases.len() < steps.len() {
            match self.next().await {
                FromCoordinator::Lease(lease) => leases.insert(lease.steps[0].drv.clone(), lease),
                other => panic!("not a lease: {other:?}"),
            };
        }
        steps.iter().map(|step| leases.remove(step.drv()).expect("its lease")).collect()
    }

    pub(crate) async fn lease(&mut self, step: &Step) -> v1::Lease {
        self.leases(&[step]).await.remove(0)
    }

    /// A step is said to be built, with this said of its output.
    pub(crate) async fn report(
        &self,
        lease: &v1::Lease,
        step: &Step,
        output: &str,
        info: Option<v1::PathInfo>,
    ) {
        let mut report = reported(lease, OutcomeClass::Built, step);
        (report.outputs[0].path, report.outputs[0].info) = (output.to_owned(), info);
        self.worker.say(Message::StepReported(report)).await;
        let finished = v1::LeaseFinished { lease: lease.lease, epoch: lease.epoch };
        self.worker.say(Message::LeaseFinished(finished)).await;
    }

    pub(crate) async fn lose(&self, path: &str) {
        self.worker.say(Message::PathsLost(v1::PathsLost { paths: vec![path.to_owned()] })).await;
    }

    pub(crate) async fn put(&self, chunk: v1::Chunk) -> Result<u64, Status> {
        let put = ChunksClient::new(self.channel.clone()).put(futures::stream::iter([chunk])).await;
        Ok(put?.into_inner().stored)
    }

    /// Brings a path: its chunk, and then what it is.
    pub(crate) async fn register(&self, right: v1::WorkRight, made: &Made) -> Result<u64, Status> {
        self.put(made.chunk.clone()).await.expect("a good chunk");
        let path = v1::StoredPath { right: Some(right), ..made.stored.clone() };
        let mut client = PathsClient::new(self.channel.clone());
        Ok(within(client.register(futures::stream::iter([path]))).await?.into_inner().registered)
    }

    pub(crate) async fn locate(&self, request: v1::LocateRequest) -> Result<Vec<v1::Located>, Status> {
        let mut stream = within(PathsClient::new(self.channel.clone()).locate(request)).await?.into_inner();
        let mut located = Vec::new();
        while let Some(message) = within(stream.message()).await? {
            located.push(message);
        }
        Ok(located)
    }

    pub(crate) async fn vouch(
        &self,
        right: v1::WorkRight,
        info: v1::PathInfo,
    ) -> Result<PathStanding, Status> {
        let request = v1::VouchRequest { right: Some(right), info: Some(info) };
        let mut client = PathsClient::new(self.channel.clone());
        let reply = within(client.vouch(futures::stream::iter([request]))).await?;
        Ok(reply.into_inner().standings().next().expect("one answer"))
    }
}

pub(crate) fn right(lease: &v1::Lease) -> v1::WorkRight {
    v1::WorkRight { lease: lease.lease, epoch: lease.epoch, ..v1::WorkRight::default() }
}

/// Both workers of a coordinator.
pub(crate) struct World {
    pub(crate) running: Running,
    pub(crate) honest: Machine,
    pub(crate) evil: Machine,
    pub(crate) run: String,
}

impl World {
    /// With a run of one host that needs these steps, the last of which is its toplevel.
    pub(crate) async fn new(steps: &[&Step]) -> Self {
        let key = upstream().public_key();
        let more = format!("[cache]\npublic = true\nupstream_keys = [\"{key}\"]\n");
        let running = Running::start_with(&more, |_| {});
        let mut honest = Machine::join(&running, "honest", HONEST).await;
        let evil = Machine::join(&running, "evil", EVIL).await;
        let run = submit(&running.local(), request("k")).await.expect("taken");
        let job = honest.worker.discover(&["a"]).await;
        honest.worker.evaluated(&job, "a", steps).await;
        Self { running, honest, evil, run }
    }

    /// The honest worker builds what has no references.
    pub(crate) async fn build(&mut self, steps: &[&Step]) {
        let leases = self.honest.leases(steps).await;
        for (lease, step) in leases.iter().zip(steps) {
            let info = Made::holding(&step.output, step.drv(), &[]).info();
            self.honest.report(lease, step, &step.output, Some(info)).await;
            self.until(&step.output, PathStanding::Held).await;
        }
    }

    pub(crate) async fn standing(&self, path: &str) -> PathStanding {
        let request = v1::LookRequest { paths: vec![path.to_owned()] };
        let reply = within(PathsClient::new(self.running.local()).look(request)).await.expect("answers");
        reply.into_inner().standings().next().expect("one answer")
    }

    /// Waits until a path stands so.
    pub(crate) async fn until(&self, path: &str, wanted: PathStanding) {
        within(async {
            while self.standing(path).await != wanted {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// The evil worker takes back what it said of a path, to say something else.
    pub(crate) async fn forget(&self, path: &str) {
        self.evil.lose(path).await;
        within(async {
            while ![PathStanding::Lost, PathStanding::Unknown].contains(&self.standing(path).await) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// What the cache answers about a path.
    pub(crate) async fn narinfo(&self, path: &str) -> (u16, String) {
        let answer = get(&self.running, &format!("/{}.narinfo", &path[..32]), "").await;
        (answer.status, answer.text())
    }

    /// Nothing of these is served to anybody, nor kept.
    pub(crate) async fn serves_none(&self, paths: &[&str]) {
        for path in paths {
            assert_eq!(self.narinfo(path).await.0, 404, "{path}");
            let kept = self.running.state().join(format!("objects/manifests/{}/{path}", &path[..2]));
            assert!(!kept.exists(), "{path} is kept");
        }
    }

    /// How people are told that a worker stands.
    pub(crate) async fn worker(&self, name: &str) -> v1::WorkerStatus {
        let mut admin = AdminClient::new(self.running.local());
        let listed = within(admin.list_workers(v1::ListWorkersRequest::default())).await.expect("answers");
        listed.into_inner().workers.into_iter().find(|worker| worker.name == name).expect("it is known")
    }
}

/// That it did not work, and what was said.
pub(crate) fn refused<T: Debug>(attack: &str, result: Result<T, Status>, code: Code, text: &str) {
    let status = result.expect_err(attack);
    assert_eq!(status.code(), code, "{attack}: {status}");
    assert!(status.message().contains(text), "{attack}: {status}");
}

/// A path that nobody ever named.
pub(crate) const STRANGE: &str = "00000000000000000000000000000000-strange";

pub(crate) fn parsed(path: &str) -> StorePath {
    path.parse().expect("a store path")
}
