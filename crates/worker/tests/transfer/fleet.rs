//! A coordinator in this process, workers of it at real daemons with stores of their own, and flakes to build.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fleet_coordinator::{Config as CoordinatorConfig, Coordinator};
use fleet_nix::daemon::DaemonAddress;
use fleet_nix::nar_dump::dump_path;
use fleet_nix::{NarHash, PublicKey, SecretKey};
use fleet_store::{cut, seal_frame};
use fleet_testkit::{DaemonOptions, NixDaemon};
use fleet_wire::v1;
use fleet_wire::v1::run_event::Event;
use fleet_worker::{Config, Stop, Worker};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Streaming;
use tonic::transport::Channel;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Fails a test that would wait for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens in time")
}

/// What steps of the second machine require.
pub(crate) const CROSS: &str = "cross";

/// A machine that builds for this system.
pub(crate) fn here(adjust: impl FnOnce(&mut DaemonOptions)) -> NixDaemon {
    let mut options = DaemonOptions::default();
    adjust(&mut options);
    NixDaemon::start(&options)
}

/// A machine that builds for another system: only what is written with [`there_script`].
pub(crate) fn there(adjust: impl FnOnce(&mut DaemonOptions)) -> NixDaemon {
    let mut options = DaemonOptions {
        extra_platforms: vec!["aarch64-linux".to_owned(), "x86_64-linux".to_owned()],
        system_features: vec![CROSS.to_owned()],
        ..DaemonOptions::default()
    };
    adjust(&mut options);
    NixDaemon::start(&options)
}

/// A derivation that the first machine builds. Pure evaluation does not know the system it runs on.
pub(crate) fn here_script(name: &str, attributes: &str, script: &str) -> String {
    let system = if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };
    derivation(name, &format!("system = \"{system}\"; {attributes}"), script)
}

/// A derivation that only the second machine builds.
pub(crate) fn there_script(name: &str, attributes: &str, script: &str) -> String {
    let system = if cfg!(target_arch = "aarch64") { "x86_64-linux" } else { "aarch64-linux" };
    derivation(
        name,
        &format!("system = \"{system}\"; requiredSystemFeatures = [ \"{CROSS}\" ]; {attributes}"),
        script,
    )
}

fn derivation(name: &str, attributes: &str, script: &str) -> String {
    format!(
        "(derivation {{ name = \"{name}\"; builder = \"/bin/sh\"; {attributes} \
         args = [ \"-c\" ''echo {name} >> /journal; {script}'' ]; }})"
    )
}

/// Signs store paths and what they refer to with a new key, and gives the public one.
pub(crate) fn sign(daemon: &NixDaemon, paths: &[String]) -> PublicKey {
    let secret = daemon.nix_stdout(["key", "generate-secret", "--key-name", "upstream-1"]);
    let file = daemon.scratch().join("key");
    std::fs::write(&file, secret.trim()).expect("writes");
    let file = file.to_string_lossy().into_owned();
    let arguments = ["store", "sign", "--recursive", "--key-file", &file];
    daemon.nix_stdout(arguments.into_iter().chain(paths.iter().map(String::as_str)));
    secret.trim().parse::<SecretKey>().expect("a key").public_key()
}

/// A coordinator and the workers that joined it.
pub(crate) struct Fleet {
    pub(crate) channel: Channel,
    pub(crate) state: TempDir,
    runs: AtomicU32,
    _stop: DropGuard,
}

/// A worker's task; dropping it is its sudden end.
pub(crate) struct Joined(JoinHandle<()>);

impl Drop for Joined {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: v1::RunOutcome,
    pub(crate) events: Vec<Event>,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        Self::start_below(&[]).await
    }

    /// With caches upstream that sign with these keys.
    pub(crate) async fn start_below(upstream_keys: &[PublicKey]) -> Self {
        let state = tempfile::tempdir().expect("a state directory");
        let mut config = CoordinatorConfig::new(state.path().join("state"));
        config.upload_outputs = true;
        config.cache.upstream_keys = upstream_keys.to_vec();
        config.heartbeat_ms = 1000;
        config.fleet.unplaceable_after_ms = 1000;
        (config.fleet.backoff.base_ms, config.fleet.backoff.cap_ms) = (10, 50);
        config.fleet.quarantine_after = 0;
        let stop = CancellationToken::new();
        let coordinator = Coordinator::start(config).await.expect("the coordinator starts");
        let channel = coordinator.serve_in_memory(stop.clone());
        Self { channel, state, runs: AtomicU32::new(0), _stop: stop.drop_guard() }
    }

    /// Has a worker at this daemon join; only one of a fleet evaluates.
    pub(crate) async fn join(&self, daemon: &NixDaemon, name: &str, eval_slots: u32) -> Joined {
        let address = DaemonAddress::from_store_uri(&daemon.store_uri()).expect("a daemon's address");
        let mut config = Config::new(name.to_owned(), daemon.scratch().join("cache"), address);
        config.nix = nix_of(daemon);
        config.emulated_systems = Some(Vec::new());
        (config.min_free_bytes, config.collect_below_bytes) = (0, 0);
        config.state_dir = Some(daemon.scratch().join("worker"));
        (config.slots, config.eval_slots) = (2, eval_slots);
        if eval_slots == 0 {
            config.mandatory_features = vec![CROSS.to_owned()];
        }
        let prepared = within(Worker::prepare(config)).await.expect("the worker finds its daemon");
        let channel = self.channel.clone();
        Joined(tokio::spawn(async move {
            let ended = prepared.run(channel, Stop::default()).await;
            panic!("a worker does not end by itself: {ended:?}");
        }))
    }

    /// Builds all hosts of a flake.
    pub(crate) async fn build(&self, flake: &Flake) -> Ended {
        let mut events = self.submit(flake).await;
        let mut seen = Vec::new();
        loop {
            let event = within(events.message()).await.expect("the stream goes on").expect("before the end");
            let Some(event) = event.event else { continue };
            if let Event::RunFinished(finished) = &event {
                return Ended { outcome: finished.outcome(), events: seen };
            }
            seen.push(event);
        }
    }

    pub(crate) async fn submit(&self, flake: &Flake) -> Streaming<v1::RunEvent> {
        let chunks: Vec<_> =
            flake.chunks.iter().cloned().map(|(digest, frame)| v1::Chunk { digest, frame }).collect();
        let mut store = v1::chunks_client::ChunksClient::new(self.channel.clone());
        within(store.put(futures::stream::iter(chunks))).await.expect("stored");
        let request = v1::SubmitRequest {
            idempotency_key: self.runs.fetch_add(1, Ordering::Relaxed).to_string(),
            after: Some(flake.source.clone()),
            ..v1::SubmitRequest::default()
        };
        let mut runs = v1::runs_client::RunsClient::new(self.channel.clone());
        let run = within(runs.submit(request)).await.expect("taken").into_inner().run;
        let watch = v1::EventsRequest { run, ..v1::EventsRequest::default() };
        within(runs.events(watch)).await.expect("known").into_inner()
    }

    /// How these store paths stand with the coordinator.
    pub(crate) async fn look(&self, paths: &[&str]) -> Vec<v1::PathStanding> {
        let paths = paths.iter().map(|path| path.trim_start_matches("/nix/store/").to_owned()).collect();
        let mut client = v1::paths_client::PathsClient::new(self.channel.clone());
        let reply = within(client.look(v1::LookRequest { paths })).await.expect("answers").into_inner();
        reply.standings.into_iter().map(|standing| standing.try_into().expect("known")).collect()
    }

    /// Every chunk file, the largest first.
    pub(crate) fn chunks(&self) -> Vec<PathBuf> {
        let shelves = std::fs::read_dir(self.state.path().join("state/objects/chunks"));
        let shelves = shelves.into_iter().flatten().flatten();
        let files = shelves.flat_map(|shelf| std::fs::read_dir(shelf.path()).into_iter().flatten().flatten());
        let mut files: Vec<PathBuf> = files.map(|file| file.path()).collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.metadata().map_or(0, |metadata| metadata.len())));
        files
    }
}

/// The `nix` command with the settings of this daemon: it says what the machine can build.
fn nix_of(daemon: &NixDaemon) -> PathBuf {
    let program = daemon.scratch().join("nix");
    let (settings, nix) = (daemon.conf_dir(), daemon.nix_bin());
    let text = format!("#!/bin/sh\nNIX_CONF_DIR={} exec {} \"$@\"\n", settings.display(), nix.display());
    std::fs::write(&program, text).expect("writes");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("ours");
    program
}

impl Ended {
    /// Why steps failed, each with the status it was told with.
    pub(crate) fn failures(&self) -> Vec<(v1::StepStatus, v1::Failure)> {
        let failures = self.events.iter().filter_map(|event| match event {
            Event::StepFinished(finished) => Some((finished.status(), finished.failure.clone()?)),
            _ => None,
        });
        failures.collect()
    }
}

/// A tree as a client uploads it.
pub(crate) struct Flake {
    source: v1::Source,
    chunks: Vec<(Bytes, Bytes)>,
}

impl Flake {
    /// A flake with one host of this toplevel, and a file `data` beside it.
    pub(crate) fn of(toplevel: &str) -> Self {
        let tree = tempfile::tempdir().expect("a directory");
        let outputs = format!("nixosConfigurations.a.config.system.build.toplevel = {toplevel};");
        std::fs::write(
            tree.path().join("flake.nix"),
            format!("{{ outputs = {{ self }}: {{ {outputs} }}; }}"),
        )
        .expect("writes");
        std::fs::write(tree.path().join("data"), "some data\n").expect("writes");
        let nar = dump_path(tree.path(), Vec::new()).expect("packs");
        let (mut refs, mut chunks) = (Vec::new(), Vec::new());
        for chunk in cut(&nar[..]) {
            let chunk = chunk.expect("cuts");
            let digest = Bytes::copy_from_slice(&chunk.digest.0);
            let size = u32::try_from(chunk.data.len()).expect("small");
            refs.push(v1::ChunkRef { digest: digest.clone(), size });
            chunks.push((digest, seal_frame(&chunk).expect("compresses")));
        }
        let source = v1::Source {
            nar_hash: NarHash::of(&nar).0.to_vec().into(),
            nar_size: nar.len() as u64,
            last_modified: 1_700_000_000,
            manifest: Some(v1::Manifest { chunks: refs }),
            ..v1::Source::default()
        };
        Self { source, chunks }
    }
}
