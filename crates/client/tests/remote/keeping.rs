//! The cache and what is pinned in it: what fleetctl asks for, and what it makes of the answers.

use fleet_wire::v1;
use futures::StreamExt;
use tonic::{Request, Response, Status};

use crate::program::{bare, fleetctl, run};
use crate::scripted::{Scripted, State, Streamed};

const KEPT: &str = "00000000000000000000000000000000-web";

#[tonic::async_trait]
impl v1::cache_server::Cache for State {
    async fn info(
        &self,
        request: Request<v1::CacheInfoRequest>,
    ) -> Result<Response<v1::CacheInfoReply>, Status> {
        drop(self.begin(&request)?);
        let info = v1::CacheInfoReply { chunks: 7, place: "/objects".to_owned(), ..Default::default() };
        Ok(Response::new(info))
    }

    type CollectStream = Streamed<v1::CollectProgress>;

    async fn collect(
        &self,
        request: Request<v1::CollectRequest>,
    ) -> Result<Response<Self::CollectStream>, Status> {
        let mut script = self.begin(&request)?;
        script.collects.push(request.into_inner());
        let half = v1::CollectProgress { looked_at: 5, ..Default::default() };
        let whole =
            v1::CollectProgress { looked_at: 9, chunks_removed: 2, bytes_removed: 4096, done: true, ..half };
        // One that breaks off says nothing of its end.
        let broken = script.collects.len() > 2;
        let messages = [Ok(half), Ok(whole)].into_iter().take(if broken { 1 } else { 2 });
        Ok(Response::new(futures::stream::iter(messages.collect::<Vec<_>>()).boxed()))
    }

    type VerifyStream = Streamed<v1::VerifyProgress>;

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let damaged = self.begin(&request)?.damaged.clone();
        let found = v1::VerifyProgress { paths: 1, bytes: 10, damaged, done: false };
        let end = v1::VerifyProgress { paths: 3, bytes: 30, done: true, ..Default::default() };
        Ok(Response::new(futures::stream::iter([Ok(found), Ok(end)]).boxed()))
    }

    async fn pin(&self, request: Request<v1::PinRequest>) -> Result<Response<v1::PinReply>, Status> {
        let mut script = self.begin(&request)?;
        let request = request.into_inner();
        script.pins.push(request.clone());
        let what = match request.what {
            Some(v1::pin_request::What::Run(run)) if run == "run-1" => run,
            Some(v1::pin_request::What::Path(path)) if path == KEPT => path,
            _ => return Err(Status::not_found("it is not here")),
        };
        let name = if request.name.is_empty() { what } else { request.name };
        Ok(Response::new(v1::PinReply { name }))
    }

    async fn unpin(&self, request: Request<v1::UnpinRequest>) -> Result<Response<v1::UnpinReply>, Status> {
        drop(self.begin(&request)?);
        match request.into_inner().name.as_str() {
            "release" => Ok(Response::new(v1::UnpinReply {})),
            _ => Err(Status::not_found("no such pin")),
        }
    }

    async fn list_roots(
        &self,
        request: Request<v1::ListRootsRequest>,
    ) -> Result<Response<v1::ListRootsReply>, Status> {
        let roots = self.begin(&request)?.roots.clone();
        Ok(Response::new(v1::ListRootsReply { roots }))
    }
}

#[test]
fn the_cache_is_described_collected_and_verified() {
    let coordinator = Scripted::start();
    let info = run(fleetctl(&coordinator, &["cache", "info", "--json"])).expect(0).json();
    assert_eq!((&info["chunks"], &info["place"]), (&7.into(), &"/objects".into()));
    let collected = run(fleetctl(&coordinator, &["cache", "gc"])).expect(0);
    assert_eq!(collected.text(), "removed 0 store paths and 2 chunks, 4.0 KiB\n");
    let dry = run(fleetctl(&coordinator, &["cache", "gc", "-n", "--grace", "1h", "--json"])).expect(0).json();
    assert_eq!((&dry["dry_run"], &dry["looked_at"]), (&true.into(), &9.into()));
    let asked = coordinator.state.script().collects.clone();
    assert_eq!(asked[0], v1::CollectRequest { dry_run: false, grace_s: None });
    assert_eq!(asked[1], v1::CollectRequest { dry_run: true, grace_s: Some(3600) });
    let broken = run(fleetctl(&coordinator, &["cache", "gc"])).expect(1);
    assert!(broken.stderr.contains("the collection was broken off. Run the same"), "{}", broken.stderr);

    let sound = run(fleetctl(&coordinator, &["cache", "verify"])).expect(0);
    assert_eq!(sound.text(), "3 store paths, 30 B: 0 damaged\n");
    let damaged = v1::DamagedPath { path: KEPT.to_owned(), why: "chunk\u{1b} is gone".to_owned() };
    coordinator.state.change(|script| script.damaged = vec![damaged]);
    let found = run(fleetctl(&coordinator, &["cache", "verify"])).expect(4);
    assert_eq!(found.text(), format!("3 store paths, 30 B: 1 damaged\n{KEPT}: chunk\\u{{1b}} is gone\n"));
    let found = run(fleetctl(&coordinator, &["cache", "verify", "--json"])).expect(4).json();
    assert_eq!(found["damaged"][0]["path"], KEPT);
}

#[test]
fn runs_and_paths_are_pinned_listed_and_unpinned() {
    let coordinator = Scripted::start();
    let pin = |arguments: &[&str]| run(fleetctl(&coordinator, &[&["pin"], arguments].concat()));
    assert_eq!(pin(&["run-1"]).expect(0).text(), "run-1\n");
    assert_eq!(pin(&["run-1", "--name", "release"]).expect(0).text(), "release\n");
    let path = format!("/nix/store/{KEPT}");
    assert_eq!(pin(&[&path, "--json"]).expect(0).json()["name"], KEPT);
    assert!(pin(&["run-9"]).expect(1).stderr.contains("knows no run `run-9`"));
    let other = format!("/nix/store/{}", KEPT.replace("web", "db"));
    assert!(pin(&[&other]).expect(1).stderr.contains("the coordinator does not keep 0000"));
    pin(&[]).expect(1);
    pin(&["--list", "run-1"]).expect(1);
    run(fleetctl(&coordinator, &["unpin", "release"])).expect(0);
    let unknown = run(fleetctl(&coordinator, &["unpin", "x"])).expect(1);
    assert!(unknown.stderr.contains("nothing is pinned as `x`"), "{}", unknown.stderr);

    assert_eq!(pin(&["--list"]).expect(0).text(), "");
    let root = v1::Root {
        name: "release".to_owned(),
        pinned: true,
        paths: vec![KEPT.to_owned()],
        ..Default::default()
    };
    coordinator.state.change(|script| script.roots = vec![root]);
    assert!(pin(&["--list"]).expect(0).text().contains("release  pinned"));
    let listed = pin(&["--list", "--json"]).expect(0).json();
    assert_eq!(
        (&listed["roots"][0]["paths"][0], &listed["roots"][0]["branch"]),
        (&KEPT.into(), &serde_json::Value::Null)
    );
}

#[test]
fn without_a_coordinator_there_are_only_the_sources_of_runs_here() {
    let scratch = tempfile::tempdir().expect("a directory");
    let cache = |arguments: &[&str]| run(bare(scratch.path(), &[&["cache"], arguments].concat()));
    assert_eq!(cache(&["gc"]).expect(0).text(), "removed 0 store paths and 0 chunks, 0 B\n");
    let shelf = scratch.path().join(".local/state/fleetctl/objects/chunks/aa");
    std::fs::create_dir_all(&shelf).expect("a directory");
    std::fs::write(shelf.join("aa".repeat(32)), "frame").expect("a chunk");
    let info = cache(&["info", "--json"]).expect(0).json();
    assert_eq!((&info["chunks"], &info["chunk_bytes"]), (&1.into(), &5.into()));
    assert_eq!(cache(&["gc"]).expect(0).text(), "removed 0 store paths and 0 chunks, 0 B\n", "it is young");
    assert!(
        cache(&["gc", "-n", "--grace", "0"])
            .expect(0)
            .text()
            .contains("would remove 0 store paths and 1 chunk")
    );
    assert!(
        cache(&["gc", "--grace", "0"]).expect(0).text().contains("removed 0 store paths and 1 chunk, 5 B")
    );
    assert_eq!(cache(&["info", "--json"]).expect(0).json()["chunks"], 0);
    assert!(cache(&["verify"]).expect(1).stderr.contains("cache verify needs a coordinator"));
    assert!(
        run(bare(scratch.path(), &["pin", "--list"])).expect(1).stderr.contains("pin needs a coordinator")
    );
}
