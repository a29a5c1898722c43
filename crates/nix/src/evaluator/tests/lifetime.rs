//! Processes: what happens when one dies, and that none is left behind.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fleet_testkit::{NixDaemon, kill_hard, wait_until_gone};

use super::bench::{Bench, nixos};
use crate::DerivedPath;
use crate::daemon::BuildResult;
use crate::evaluator::{EvalError, Evaluator, EvaluatorConfig, FlakeSource, ReplEvaluator};
use crate::proxy::{BuildImports, ImportError, ImportPolicy};

const PATIENCE: Duration = Duration::from_secs(30);

/// Kills the evaluator at the moment it waits for an import.
#[derive(Default)]
struct KillsTheEvaluator(Mutex<Option<u32>>);

#[async_trait]
impl BuildImports for KillsTheEvaluator {
    async fn build(&self, _: Vec<DerivedPath>) -> Result<Vec<(DerivedPath, BuildResult)>, ImportError> {
        kill_hard(self.0.lock().expect("the lock").expect("a process"));
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_killed_process_costs_the_host_it_was_on() {
    let killer = Arc::new(KillsTheEvaluator::default());
    let imports: Arc<dyn BuildImports> = killer.clone();
    let bench = Bench::of(NixDaemon::start_default(), ImportPolicy::Allow, Some(imports)).await;
    let repo = bench.flake(
        r#"nixosConfigurations = { good = host (drv "good"); better = host (drv "better");
             doomed = builtins.trace "last words" (host (drv "x${import (ifd "")}")); };"#,
    );
    let mut evaluator = ReplEvaluator::start(&bench.config(), &bench.source(&repo, None))
        .await
        .expect("an evaluator");
    evaluator.evaluate(&nixos("good")).await.expect("before");
    *killer.0.lock().expect("the lock") = evaluator.process_id();
    let error = evaluator
        .evaluate(&nixos("doomed"))
        .await
        .expect_err("it is killed");
    let EvalError::Died { cause, trace } = &error else {
        panic!("{error:?}")
    };
    assert!(cause.contains("signal 9"), "{cause}");
    assert!(trace.contains("last words"), "{trace}");
    assert!(error.lost_process());
    assert_eq!(evaluator.process_id(), None);
    evaluator
        .evaluate(&nixos("better"))
        .await
        .expect("after, in a new process");
}

#[tokio::test]
async fn a_dropped_evaluator_ends_its_process_and_its_imports() {
    let bench = Bench::start().await;
    let repo = bench.flake(
        r#"nixosConfigurations.waits = host (drv "x${import (ifd "echo building > /journal; while true; do :; done")}");"#,
    );
    let mut evaluator = ReplEvaluator::start(&bench.config(), &bench.source(&repo, None))
        .await
        .expect("an evaluator");
    let process = evaluator.process_id().expect("a process");
    let host = nixos("waits");
    let bench = Arc::new(bench);
    let journal = Arc::clone(&bench);
    let building = tokio::task::spawn_blocking(move || {
        journal
            .daemon
            .journal()
            .wait_for(PATIENCE, |line| line == "building")
            .expect("the import is being built");
    });
    tokio::select! {
        result = evaluator.evaluate(&host) => panic!("{result:?}"),
        waited = building => waited.expect("the builder runs"),
    }
    let builders = bench.daemon.builders();
    assert!(!builders.is_empty());
    drop(evaluator);
    assert!(wait_until_gone(process, PATIENCE));
    for builder in builders {
        let gone = tokio::task::spawn_blocking(move || wait_until_gone(builder, PATIENCE));
        assert!(gone.await.expect("waited"), "the builder outlived its evaluator");
    }
    let homes = bench.config().home;
    assert_eq!(std::fs::read_dir(homes).expect("the homes").count(), 0);
}

#[tokio::test]
async fn no_nix_is_said_plainly() {
    let bench = Bench::start().await;
    let source = bench.source(&bench.flake(""), None);
    let config = EvaluatorConfig {
        nix: PathBuf::from("/no/such/nix"),
        ..bench.config()
    };
    let error = ReplEvaluator::start(&config, &source)
        .await
        .expect_err("there is no nix");
    assert_eq!(
        error.to_string(),
        "cannot start the evaluator: /no/such/nix: No such file or directory (os error 2)"
    );
    let config = EvaluatorConfig {
        nix: PathBuf::from("/bin/false"),
        ..bench.config()
    };
    let error = ReplEvaluator::start(&config, &source)
        .await
        .expect_err("that is no nix");
    assert!(matches!(error, EvalError::Unsuitable { .. }), "{error:?}");
}

/// Set for the process that this test starts of itself: the evaluator's parent, to be killed.
const PARENT: &str = "FLEET_TEST_EVALUATOR_PARENT";

#[test]
fn an_evaluator_dies_with_its_parent() {
    if let Some(nix) = env::var_os(PARENT) {
        start_one_and_wait(nix.into());
    }
    let daemon = NixDaemon::start_default();
    let name = "evaluator::tests::lifetime::an_evaluator_dies_with_its_parent";
    let mut parent = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(PARENT, daemon.nix_bin())
        .env("NIX_REMOTE", daemon.store_uri())
        .env("TMPDIR", daemon.scratch())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the parent starts");
    let output = BufReader::new(parent.stdout.take().expect("its output"));
    let process = output.lines().find_map(|line| {
        line.expect("a line")
            .strip_prefix("evaluator ")?
            .parse::<u32>()
            .ok()
    });
    let process = process.expect("the evaluator's process");
    assert!(fleet_testkit::is_running(process));
    kill_hard(parent.id());
    parent.wait().expect("the parent ends");
    assert!(
        wait_until_gone(process, PATIENCE),
        "the evaluator outlived its parent"
    );
}

/// Starts an evaluator from a thread that ends, says which process it is, and waits to be killed.
fn start_one_and_wait(nix: PathBuf) -> ! {
    let store = env::var("NIX_REMOTE").expect("a store");
    let directory = env::temp_dir();
    let config = EvaluatorConfig::new(nix, store, directory.join("homes"), directory.join("cache"));
    let source = FlakeSource {
        path: "00000000000000000000000000000000-source"
            .parse()
            .expect("a store path"),
        nar_hash: crate::NarHash([0; 32]),
        rev: None,
        rev_count: None,
        last_modified: 0,
        subdir: None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let handle = runtime.handle().clone();
    let starting = std::thread::spawn(move || handle.block_on(ReplEvaluator::start(&config, &source)));
    let mut evaluator = starting.join().expect("the thread ends").expect("an evaluator");
    // It has outlived the thread that asked for it.
    runtime
        .block_on(evaluator.discover(&[]))
        .expect("nothing to discover");
    runtime
        .block_on(evaluator.evaluate(&nixos("none")))
        .expect_err("no such flake");
    println!("evaluator {}", evaluator.process_id().expect("it lives"));
    loop {
        std::thread::park();
    }
}
