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
/// A host whose evaluation waits for a build that never ends.
const WAITS: &str = r#"nixosConfigurations.waits = host (drv "x${import (ifd "echo building > /journal; while true; do :; done")}");"#;

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
    let mut evaluator =
        ReplEvaluator::start(&bench.config(), &bench.source(&repo, None)).await.expect("an evaluator");
    evaluator.evaluate(&nixos("good")).await.expect("before");
    *killer.0.lock().expect("the lock") = evaluator.process_id();
    let error = evaluator.evaluate(&nixos("doomed")).await.expect_err("it is killed");
    let EvalError::Died { cause, trace } = &error else { panic!("{error:?}") };
    assert!(cause.contains("signal 9"), "{cause}");
    assert!(trace.contains("last words"), "{trace}");
    assert!(error.lost_process());
    assert_eq!(evaluator.process_id(), None);
    evaluator.evaluate(&nixos("better")).await.expect("after, in a new process");
}

#[tokio::test]
async fn a_dropped_evaluator_ends_its_process_and_its_imports() {
    let bench = Bench::start().await;
    let repo = bench.flake(WAITS);
    let mut evaluator =
        ReplEvaluator::start(&bench.config(), &bench.source(&repo, None)).await.expect("an evaluator");
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
    let config = EvaluatorConfig { nix: PathBuf::from("/no/such/nix"), ..bench.config() };
    let error = ReplEvaluator::start(&config, &source).await.expect_err("there is no nix");
    assert_eq!(
        error.to_string(),
        "cannot start the evaluator: /no/such/nix: No such file or directory (os error 2)"
    );
    let config = EvaluatorConfig { nix: PathBuf::from("/bin/false"), ..bench.config() };
    let error = ReplEvaluator::start(&config, &source).await.expect_err("that is no nix");
    assert!(matches!(error, EvalError::Unsuitable { .. }), "{error:?}");
}

/// Set for the process that this test starts of itself, which is the evaluator's parent and is killed.
const PARENT: &str = "FLEET_TEST_EVALUATOR_PARENT";

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluator_dies_with_its_parent() {
    if let Ok(orders) = env::var(PARENT) {
        evaluate_until_killed(&orders).await;
    }
    let bench = Bench::start().await;
    let source = bench.source(&bench.flake(WAITS), None);
    let config = bench.config();
    let orders = [
        config.nix.display().to_string(),
        config.store_uri,
        config.home.display().to_string(),
        source.path.to_string(),
        source.nar_hash.to_sri(),
        source.last_modified.to_string(),
    ];
    let name = "evaluator::tests::lifetime::an_evaluator_dies_with_its_parent";
    let mut parent = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(PARENT, orders.join("\n"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the parent starts");
    let output = BufReader::new(parent.stdout.take().expect("its output"));
    let process =
        output.lines().find_map(|line| line.expect("a line").strip_prefix("evaluator ")?.parse::<u32>().ok());
    let process = process.expect("the evaluator's process");
    // It waits for an import: the end of its input would not reach it.
    tokio::task::block_in_place(|| bench.daemon.journal().wait_for(PATIENCE, |line| line == "building"))
        .expect("the import is being built");
    assert!(fleet_testkit::is_running(process));
    kill_hard(parent.id());
    parent.wait().expect("the parent ends");
    assert!(
        tokio::task::block_in_place(|| wait_until_gone(process, PATIENCE)),
        "the evaluator outlived its parent"
    );
}

/// Starts an evaluator from a thread that ends, says which process it is, and evaluates what never ends.
async fn evaluate_until_killed(orders: &str) -> ! {
    let orders: Vec<&str> = orders.lines().collect();
    let home = PathBuf::from(orders[2]);
    let config = EvaluatorConfig::new(orders[0].into(), orders[1].to_owned(), home.clone(), home);
    let source = FlakeSource {
        path: orders[3].parse().expect("a store path"),
        nar_hash: orders[4].parse().expect("a NAR hash"),
        rev: None,
        rev_count: None,
        last_modified: orders[5].parse().expect("a time"),
        subdir: None,
    };
    let runtime = tokio::runtime::Handle::current();
    let starting = std::thread::spawn(move || runtime.block_on(ReplEvaluator::start(&config, &source)));
    let mut evaluator = starting.join().expect("the thread ends").expect("an evaluator");
    println!("\nevaluator {}", evaluator.process_id().expect("it lives"));
    let result = evaluator.evaluate(&nixos("waits")).await;
    panic!("it is not killed, and says {result:?}");
}
