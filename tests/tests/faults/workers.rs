//! Workers that die, stop, drain, are revoked or cloned.

use std::time::{Duration, Instant};

use fleet_testkit::{DaemonOptions, Signal, send_signal};

use super::{Flake, PATIENCE, SYSTEM, farm, slow_daemon, slow_here, starts, taking, wait_for_build};

#[test]
fn a_killed_worker_s_step_is_built_by_another() {
    let mut farm = farm("2s");
    let slow = slow_daemon(&farm);
    let url = farm.url();
    farm.add_worker_at("first", SYSTEM, 1, &url, slow);
    let flake = Flake::of(&[("web", slow_here("web"))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "first", "web");
    farm.add_worker("second", SYSTEM, 1);
    farm.end_worker("first", Signal::KILL);
    wait_for_build(&farm, "second", "web");
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(outcome.json()["steps"]["built"], 1, "{outcome}");
    assert_eq!(starts(&farm, "web"), 2, "once on each: {outcome}");
}

#[test]
fn a_worker_that_was_stopped_past_its_lease_publishes_nothing() {
    let mut farm = farm("2s");
    let slow = slow_daemon(&farm);
    let url = farm.url();
    farm.add_worker_at("first", SYSTEM, 1, &url, slow);
    let flake = Flake::of(&[("web", slow_here("web"))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "first", "web");
    farm.add_worker("second", SYSTEM, 1);
    let stopped = farm.worker("first").program().pid();
    send_signal(stopped, Signal::STOP);
    wait_for_build(&farm, "second", "web");
    let outcome = run.finish();
    outcome.expect_code(0);
    let builders = farm.worker("first").daemon.builders();
    assert!(!builders.is_empty(), "the stopped worker's builder waits on");
    send_signal(stopped, Signal::CONT);
    for builder in builders {
        let gone = fleet_testkit::wait_until_gone(builder, PATIENCE);
        assert!(gone, "the worker does not learn that its lease is over");
    }
    assert_eq!(outcome.json()["steps"]["built"], 1, "{outcome}");
    let status = farm.fleetctl().args(["status", "--json"]).run();
    assert_eq!(status.json()["workers"].as_array().map(Vec::len), Some(2), "{status}");
}

#[test]
fn a_worker_that_restarts_gives_back_what_it_did_not_finish() {
    let mut farm = farm("10m");
    let slow = slow_daemon(&farm);
    let url = farm.url();
    farm.add_worker_at("first", SYSTEM, 1, &url, slow);
    let flake = Flake::of(&[("web", slow_here("web"))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "first", "web");
    farm.add_worker("second", SYSTEM, 1);
    farm.end_worker("first", Signal::KILL);
    // Its leases would wait for ten minutes, but it comes back without them.
    farm.start_worker("first");
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(outcome.json()["steps"]["built"], 1, "{outcome}");
}

#[test]
fn a_worker_that_is_told_to_stop_finishes_what_it_builds() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("web", taking("web", 4))]);
    let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    wait_for_build(&farm, "only", "web");
    farm.end_worker("only", Signal::TERM);
    assert_eq!(starts(&farm, "web"), 1);
    farm.start_worker("only");
    run.finish().expect_code(0);
    assert_eq!(starts(&farm, "web"), 1, "what it finished is not built again");
}

#[test]
fn a_revoked_worker_is_cut_off_and_its_step_built_elsewhere() {
    let mut farm = farm("10m");
    let slow = slow_daemon(&farm);
    let url = farm.url();
    farm.add_worker_at("bad", SYSTEM, 1, &url, slow);
    let flake = Flake::of(&[("web", slow_here("web"))]);
    let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    wait_for_build(&farm, "bad", "web");
    farm.add_worker("good", SYSTEM, 1);
    farm.fleetctl().args(["worker", "revoke", "bad", "--yes"]).run().expect_code(0);
    wait_for_build(&farm, "good", "web");
    run.finish().expect_code(0);
    let listed = farm.fleetctl().args(["worker", "ls", "--json"]).run();
    assert!(listed.stdout.contains("revoked"), "{listed}");
}

#[test]
fn a_drained_worker_gets_nothing_until_it_is_resumed() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    farm.fleetctl().args(["worker", "drain", "only", "--reason", "new disk"]).run().expect_code(0);
    let flake = Flake::of(&[("web", taking("web", 0))]);
    let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    run.wait_until_it_says("new disk", PATIENCE);
    assert_eq!(starts(&farm, "web"), 0);
    farm.fleetctl().args(["worker", "resume", "only"]).run().expect_code(0);
    run.finish().expect_code(0);
    assert_eq!(starts(&farm, "web"), 1);
}

#[test]
fn two_workers_with_one_identity_are_both_locked() {
    let mut farm = farm("2m");
    farm.add_worker("twin", SYSTEM, 1);
    let (_daemon, clone) = farm.clone_worker("twin", &DaemonOptions::default());
    clone.wait_until_it_says("locked", PATIENCE);
    let listed = farm.fleetctl().args(["worker", "ls", "--json"]).run();
    assert!(listed.stdout.contains("locked"), "{listed}");
}

#[test]
fn a_step_that_ends_every_worker_touches_three_of_them() {
    let mut farm = farm("2s");
    let slow = slow_daemon(&farm);
    let url = farm.url();
    let names = ["w1", "w2", "w3", "w4"];
    for name in names {
        farm.add_worker_at(name, SYSTEM, 1, &url, slow.clone());
    }
    let flake = Flake::of(&[("web", slow_here("web"))]);
    let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    let mut lost = Vec::new();
    while lost.len() < 3 {
        let began = Instant::now();
        let next = loop {
            let built = farm.built();
            let found = built.iter().find(|(name, lines)| !lines.is_empty() && !lost.contains(*name));
            if let Some((name, _)) = found {
                break name.clone();
            }
            assert!(began.elapsed() < PATIENCE, "nobody takes it after {lost:?}");
            std::thread::park_timeout(Duration::from_millis(20));
        };
        farm.end_worker(&next, Signal::KILL);
        lost.push(next);
    }
    let outcome = run.finish();
    assert_ne!(outcome.status.code(), Some(0), "{outcome}");
    let said = outcome.stdout.clone() + &outcome.stderr;
    assert!(said.contains("3 workers were lost with it"), "{outcome}");
    assert_eq!(starts(&farm, "web"), 3, "the fourth is spared: {:?}", farm.built());
}
