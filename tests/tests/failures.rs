//! Hosts that fail: named with cause and log tail, while all others finish.

use std::time::Duration;

use fleet_testkit::{DaemonOptions, NixDaemon, Trust, wait_until_gone};
use fleet_tests::{Fleetctl, HandMadeFleet, Outcome};

const GOOD: &str = r#"package "good" "echo good > $out""#;

/// Two good hosts; one that throws, and two that share a step which fails, each after the first commit only.
fn fleet_that_breaks(daemon: &NixDaemon) -> HandMadeFleet {
    let mut fleet = HandMadeFleet::new(daemon);
    for host in ["good1", "good2", "thrower", "needs-broken1", "needs-broken2"] {
        fleet = fleet.host(host, &format!(r#"package "old-{host}" "echo old > $out""#));
    }
    fleet.commit();
    let broken = r#"package "broken-lib" "echo about to break; echo the reason it broke >&2; exit 7""#;
    fleet.replace("good1", GOOD);
    fleet.replace("good2", r#"package "good2" "echo good > $out""#);
    fleet.replace("thrower", r#"throw "this host has no disk""#);
    for host in ["needs-broken1", "needs-broken2"] {
        fleet.replace(host, &format!(r#"package "top-{host}" "echo ${{{broken}}} > $out""#));
    }
    fleet.commit();
    fleet
}

fn run(daemon: &NixDaemon, fleet: &HandMadeFleet, more: &[&str]) -> Outcome {
    Fleetctl::new(daemon).args(["build", "--all-hosts"]).args(more).args([fleet.flake()]).run()
}

fn failures_do_not_touch_other_hosts(trust: Trust) {
    let daemon = NixDaemon::start(&DaemonOptions { trust, ..DaemonOptions::default() });
    let fleet = fleet_that_breaks(&daemon);
    let outcome = run(&daemon, &fleet, &["--base", "HEAD~1"]);
    outcome.expect_code(4);
    for word in [
        "thrower",
        "this host has no disk",
        "needs-broken1",
        "needs-broken2",
        "broken-lib",
        "the reason it broke",
    ] {
        assert!(outcome.stdout.contains(word), "the report lacks “{word}”\n{outcome}");
    }
    for host in ["good1", "good2"] {
        assert!(outcome.stdout.contains(host), "the report lacks {host}\n{outcome}");
    }
    let ran = daemon.journal().lines();
    for name in ["good", "good2", "old-good1", "old-good2", "old-thrower", "old-needs-broken1"] {
        assert!(ran.iter().any(|line| line == name), "{name} was not built: {ran:?}\n{outcome}");
    }
    assert_eq!(
        ran.iter().filter(|line| *line == "broken-lib").count(),
        1,
        "failed builds are not repeated: {ran:?}"
    );
    assert!(!ran.iter().any(|line| line.starts_with("top-needs")), "dependents are not built: {ran:?}");
}

#[test]
fn failed_hosts_are_reported_and_the_others_finish_for_a_trusted_user() {
    failures_do_not_touch_other_hosts(Trust::Trusted);
}

#[test]
fn failed_hosts_are_reported_and_the_others_finish_for_an_untrusted_user() {
    failures_do_not_touch_other_hosts(Trust::Untrusted);
}

#[test]
fn the_json_document_tells_how_each_host_failed() {
    let daemon = NixDaemon::start_default();
    let fleet = fleet_that_breaks(&daemon);
    let outcome = run(&daemon, &fleet, &["--base", "HEAD~1", "--json"]);
    outcome.expect_code(4);
    let document = outcome.json();
    let after = |host: &str| document["hosts"][host]["after"].clone();
    assert_eq!(after("thrower")["status"], "eval_failed", "{outcome}");
    assert!(after("thrower")["cause"].to_string().contains("this host has no disk"), "{outcome}");
    assert_eq!(after("needs-broken1")["status"], "build_failed", "{outcome}");
    assert!(after("needs-broken1")["failed_drv"].to_string().contains("-broken-lib.drv"), "{outcome}");
    assert_eq!(after("good1")["status"], "built", "{outcome}");
    assert_eq!(document["hosts"]["thrower"]["before"]["status"], "built", "{outcome}");
    assert!(document["steps"]["failed"].as_u64() > Some(0), "{outcome}");
}

#[test]
fn without_a_base_the_good_hosts_are_printed_all_the_same() {
    let daemon = NixDaemon::start_default();
    let fleet = fleet_that_breaks(&daemon);
    let outcome = run(&daemon, &fleet, &[]);
    outcome.expect_code(4);
    let hosts: Vec<_> = outcome.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(hosts, ["good1", "good2"], "{outcome}");
    for word in ["thrower", "this host has no disk", "broken-lib", "the reason it broke"] {
        assert!(outcome.stderr.contains(word), "stderr lacks “{word}”\n{outcome}");
    }
}

#[test]
fn the_log_of_a_failed_build_can_be_read_later() {
    let daemon = NixDaemon::start_default();
    let fleet = fleet_that_breaks(&daemon);
    run(&daemon, &fleet, &[]).expect_code(4);
    let log = Fleetctl::new(&daemon).args(["logs", "needs-broken1"]).run();
    log.expect_code(0);
    assert!(log.stdout.contains("about to break") && log.stdout.contains("the reason it broke"), "{log}");
}

#[test]
fn fail_fast_stops_at_the_first_failure() {
    let daemon = NixDaemon::start_default();
    let mut fleet = HandMadeFleet::new(&daemon)
        .host("broken", r#"package "broken" "exit 1""#)
        .host("endless", r#"package "endless" "read -t 600 x <&2; echo x > $out""#);
    fleet.commit();
    let outcome = run(&daemon, &fleet, &["--fail-fast", "--worker-slots", "2"]);
    outcome.expect_code(4);
    assert!(outcome.stderr.contains("broken"), "{outcome}");
    for builder in daemon.builders() {
        assert!(wait_until_gone(builder, Duration::from_secs(10)), "the other build goes on");
    }
}

#[test]
fn logs_of_builds_are_shown_when_asked_for() {
    let daemon = NixDaemon::start_default();
    let mut fleet = HandMadeFleet::new(&daemon)
        .host("web", r#"package "chatty" "echo a line of the log; echo x > $out""#);
    fleet.commit();
    let outcome = run(&daemon, &fleet, &["-L"]);
    outcome.expect_code(0);
    assert!(outcome.stderr.contains("chatty> a line of the log"), "{outcome}");
}

#[test]
fn every_kind_of_evaluation_failure_stays_with_its_host() {
    let daemon = NixDaemon::start_default();
    let failing = [
        ("aborts", r#"abort "given up""#),
        ("asserts", "assert 1 == 2; 3"),
        ("recurses", "let x = x + 1; in x"),
        ("lacks", "{}.missing"),
        ("overflows", "let f = n: 1 + f (n + 1); in f 0"),
        ("types", "1"),
    ];
    let mut fleet = HandMadeFleet::new(&daemon).host("good", GOOD).host("zgood", GOOD);
    for (host, expression) in failing {
        fleet = fleet.host(host, expression);
    }
    fleet.commit();
    let outcome = run(&daemon, &fleet, &["--json"]);
    outcome.expect_code(4);
    let document = outcome.json();
    for (host, _) in failing {
        let after = &document["hosts"][host]["after"];
        assert_eq!(after["status"], "eval_failed", "{host}\n{outcome}");
        assert!(after["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{host}\n{outcome}");
    }
    for host in ["good", "zgood"] {
        let status = document["hosts"][host]["after"]["status"].as_str();
        assert!(matches!(status, Some("built" | "cached")), "{host}\n{outcome}");
    }
}
