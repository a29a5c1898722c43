//! What the test kit promises to the tests that stand on it, against real Nix.

use std::time::Duration;

use fleet_testkit::{BinaryCache, DaemonOptions, GitRepo, NixDaemon, Trust, is_running};

const PATIENCE: Duration = Duration::from_mins(1);

fn expression(name: &str, script: &str) -> String {
    format!(
        r#"derivation {{ name = "{name}"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" ''{script}'' ]; }}"#
    )
}

#[test]
fn a_builder_runs_in_a_sandbox_and_writes_to_the_journal() {
    let daemon = NixDaemon::start_default();
    let paths = daemon.build_expression(&expression("told", "echo told > /journal; echo made > $out"));
    let [path] = paths.as_slice() else { panic!("one output, not {paths:?}") };
    let written = std::fs::read_to_string(daemon.physical(path)).expect("the output is in the private store");
    assert_eq!(written, "made\n");
    assert_eq!(daemon.journal().wait_for(PATIENCE, |line| line == "told").as_deref(), Some("told"));
}

#[test]
fn a_dropped_daemon_leaves_no_process_and_no_directory() {
    let daemon = NixDaemon::start_default();
    let build = expression("endless", "echo started > /journal; while true; do read -t 1000 x <&2; done");
    let mut client = daemon
        .nix(["build", "--impure", "--no-link", "--expr", &build])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("nix starts");
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "started").is_some(), "the builder runs");
    let builders = daemon.builders();
    let root = daemon.root().to_owned();
    assert!(!builders.is_empty(), "a running builder is found");
    drop(daemon);
    client.wait().expect("the client ends with its daemon");
    assert!(builders.into_iter().all(|pid| !is_running(pid)), "no builder outlives the daemon");
    assert!(!root.exists(), "the store is removed");
}

#[test]
fn an_untrusting_daemon_refuses_what_only_trusted_clients_may_do() {
    let script = expression("plain", "echo made > $out");
    let trusted = |trust| {
        let daemon = NixDaemon::start(&DaemonOptions { trust, ..DaemonOptions::default() });
        daemon.build_expression(&script);
        let info = daemon.nix_stdout(["store", "info", "--json"]);
        // Older ones say it with a number.
        info.contains(r#""trusted":true"#) || info.contains(r#""trusted":1"#)
    };
    assert!(trusted(Trust::Trusted));
    assert!(!trusted(Trust::Untrusted));
}

#[test]
fn a_published_path_is_substituted_into_another_store() {
    let cache = BinaryCache::start();
    let script = expression("published", "echo ran > /journal; echo made > $out");
    let publisher = NixDaemon::start_default();
    let paths = publisher.build_expression(&script);
    cache.publish(&publisher, &paths);
    let daemon =
        NixDaemon::start(&DaemonOptions { substituters: vec![cache.url()], ..DaemonOptions::default() });
    assert_eq!(daemon.build_expression(&script), paths);
    assert!(daemon.journal().lines().is_empty(), "nothing was built");
    assert!(cache.requests().iter().any(|path| path.ends_with(".narinfo")), "the cache was asked");
}

#[test]
fn a_repository_has_the_same_revisions_every_time() {
    let revision = || {
        let directory = fleet_testkit::short_temp_dir();
        let mut repo = GitRepo::init(directory.path().join("repo"));
        repo.write("flake.nix", "{ outputs = _: { answer = 42; }; }");
        let first = repo.commit("first");
        repo.write("other", "text");
        (first, repo.commit("second"))
    };
    assert_eq!(revision(), revision());
}
