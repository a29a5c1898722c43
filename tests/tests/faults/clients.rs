//! Clients that leave, come back, share and cancel.

use fleet_testkit::{Signal, peak_memory_kib, wait_until_gone};
use fleet_tests::{Farm, FarmOptions};

use super::{Flake, PATIENCE, SYSTEM, farm, slow_daemon, slow_here, starts, taking, wait_for_build};

#[test]
fn a_cancelled_ci_job_leaves_no_build() {
    let mut farm = farm("2m");
    let (slow, url) = (slow_daemon(&farm), farm.url());
    farm.add_worker_at("only", SYSTEM, 1, &url, slow);
    let flake = Flake::of(&[("web", slow_here("web"))]);
    let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    wait_for_build(&farm, "only", "web");
    let builders = farm.worker("only").daemon.builders();
    run.signal(Signal::TERM);
    run.finish().expect_code(130);
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "builder {builder} goes on");
    }
}

#[test]
fn two_clients_share_a_step_and_cancelling_one_leaves_the_other() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("web", taking("web", 8))]);
    let first = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    wait_for_build(&farm, "only", "web");
    let second = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    let status = || farm.fleetctl().args(["status", "--json"]).run().json();
    let building = |run: &serde_json::Value| run["steps"]["running"] == 1;
    let both =
        || status()["runs"].as_array().is_some_and(|runs| runs.len() == 2 && runs.iter().all(building));
    let started = std::time::Instant::now();
    while !both() {
        assert!(started.elapsed() < PATIENCE, "the second run does not want the step: {}", status());
    }
    first.signal(Signal::TERM);
    first.finish().expect_code(130);
    second.finish().expect_code(0);
    assert_eq!(starts(&farm, "web"), 1, "shared, and built once");
}

#[test]
fn a_killed_client_s_run_goes_on_and_can_be_attached() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("web", taking("web", 4))]);
    let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    wait_for_build(&farm, "only", "web");
    run.signal(Signal::KILL);
    run.finish();
    let attached = farm.fleetctl().args(["attach", "--json"]).run();
    attached.expect_code(0);
    assert_eq!(attached.json()["steps"]["built"], 1, "{attached}");
    assert_eq!(starts(&farm, "web"), 1);
}

#[test]
fn a_failure_is_remembered_until_it_is_to_be_tried_again() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("web", r#"package "web" "echo broken; exit 3""#.to_owned())]);
    let build =
        |more: &[&str]| farm.fleetctl().args(["build", "--all-hosts"]).args(more).args([flake.path()]).run();
    build(&[]).expect_code(4);
    assert_eq!(starts(&farm, "web"), 1);
    let again = build(&[]);
    again.expect_code(4);
    assert_eq!(starts(&farm, "web"), 1, "a failure of the derivation itself is remembered");
    assert!(again.stdout.contains("retry-failed") || again.stderr.contains("retry-failed"), "{again}");
    build(&["--retry-failed"]).expect_code(4);
    assert_eq!(starts(&farm, "web"), 2);
}

#[test]
fn a_silent_build_is_ended_and_not_tried_again() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("web", taking("web", 600))]);
    let arguments = ["build", "--all-hosts", "--max-silent-time", "2s"];
    let outcome = farm.fleetctl().args(arguments).args([flake.path()]).run();
    outcome.expect_code(4);
    assert_eq!(starts(&farm, "web"), 1, "{outcome}");
}

#[test]
fn a_step_that_no_worker_builds_for_says_so() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[(
        "mac",
        r#"derivation { name = "mac"; system = "x86_64-darwin"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }"#
            .to_owned(),
    )]);
    let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    run.wait_until_it_says("x86_64-darwin", PATIENCE);
    let why = farm.fleetctl().args(["why", "mac"]).run();
    why.expect_code(0);
    assert!(why.stdout.contains("x86_64-darwin") && why.stdout.contains("only"), "{why}");
    run.signal(Signal::TERM);
    run.finish().expect_code(130);
}

#[test]
fn a_log_is_followed_over_a_restart_of_the_coordinator() {
    let mut farm = farm("5m");
    farm.add_worker("only", SYSTEM, 1);
    let talk = r#"package "web" "for i in 1 2 3 4 5 6 7 8; do echo line $i; read -t 1 x <&2 || :; done; echo > $out""#;
    let flake = Flake::of(&[("web", talk.to_owned())]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "only", "web");
    run.wait_until_it_says("web", PATIENCE);
    let status = farm.fleetctl().args(["why", "web", "--json"]).run();
    let follower = farm.fleetctl().args(["logs", "web", "--follow"]).start();
    farm.end_coordinator(Signal::KILL);
    farm.start_coordinator();
    run.finish().expect_code(0);
    let outcome = follower.finish();
    outcome.expect_code(0);
    let lines: Vec<_> = outcome.stdout.lines().filter(|line| line.starts_with("line ")).collect();
    let all: Vec<_> = (1..=8).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, all, "{outcome}\n{status}");
}

/// A builder that writes for ever is ended at the limit of its log, and nobody holds what it wrote.
fn an_endless_log_is_cut(echo: &str) {
    let coordinator = "[limits]\nmax_log = \"48MiB\"\n".to_owned();
    let mut farm = Farm::start(FarmOptions { coordinator, ..FarmOptions::default() });
    farm.add_worker("only", SYSTEM, 2);
    let small = Flake::of(&[("small", taking("small", 0))]);
    farm.fleetctl().args(["build", "--all-hosts"]).args([small.path()]).run().expect_code(0);
    let programs = [farm.coordinator().pid(), farm.worker("only").program().pid()];
    let peaks = || programs.map(|pid| peak_memory_kib(pid).expect("it runs"));
    let before = peaks();
    let endless = format!(
        r#"package "endless" "x=0123456789abcdef; for i in 1 2 3 4 5 6; do x=$x$x; done; while true; do {echo} $x; done""#
    );
    let flake = Flake::of(&[("endless", endless), ("quiet", taking("quiet", 1))]);
    let outcome = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).run();
    outcome.expect_code(4);
    assert!(outcome.stdout.contains("log"), "{outcome}");
    assert_eq!((starts(&farm, "endless"), starts(&farm, "quiet")), (1, 1), "{outcome}");
    assert_eq!(outcome.json()["steps"]["built"], 1, "the other one: {outcome}");
    let after = peaks();
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + (32 << 10), "{before} KiB before, {after} KiB at its peak");
    }
}

#[test]
fn an_endless_log_is_cut_in_flat_memory_and_its_step_fails_for_good() {
    an_endless_log_is_cut("echo");
}

#[test]
fn an_endless_line_is_cut_in_flat_memory_and_its_step_fails_for_good() {
    an_endless_log_is_cut("echo -n");
}
