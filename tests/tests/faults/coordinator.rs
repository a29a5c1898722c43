//! Coordinators that die and come back.

use std::time::{Duration, Instant};

use fleet_testkit::{NixDaemon, Signal};
use fleet_tests::{Graph, ReplayedFleet};

use super::{Flake, PATIENCE, SYSTEM, farm, starts, taking, wait_for_build};

#[test]
fn a_coordinator_that_is_away_for_a_minute_costs_no_build() {
    let mut farm = farm("5m");
    farm.add_worker("one", SYSTEM, 2);
    farm.add_worker("two", SYSTEM, 2);
    let hosts = ["a", "b", "c", "d"].map(|name| (name, taking(name, 5)));
    let flake = Flake::of(&hosts);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    let built = |name: &str| starts(&farm, name) == 1;
    let started = Instant::now();
    while !hosts.iter().all(|(name, _)| built(name)) {
        assert!(started.elapsed() < PATIENCE, "the builds do not start: {:?}", farm.built());
        std::thread::yield_now();
    }
    farm.end_coordinator(Signal::KILL);
    // Long enough for all builds to end meanwhile, with nobody to tell.
    std::thread::park_timeout(Duration::from_mins(1));
    farm.start_coordinator();
    let outcome = run.finish();
    outcome.expect_code(0);
    farm.expect_nothing_built_twice();
    assert_eq!(outcome.json()["steps"]["built"], 4, "{outcome}");
}

#[test]
fn a_coordinator_killed_again_and_again_loses_and_repeats_nothing() {
    let mut farm = farm("5m");
    farm.add_worker("one", SYSTEM, 2);
    farm.add_worker("two", SYSTEM, 2);
    let local = NixDaemon::start_default();
    let graph = Graph::small_fleet().each_taking(700);
    let fleet = ReplayedFleet::make(&local, &graph);
    let arguments = ["build", "--all-hosts", "--base", "HEAD~1", "--json"];
    let run = farm.fleetctl().args(arguments).args([fleet.flake()]).start();
    for kill in 0..6_u64 {
        run.wait_until_it_says("", PATIENCE);
        // At moments that differ from run to run.
        std::thread::park_timeout(Duration::from_millis(300 + 450 * kill));
        farm.end_coordinator(Signal::KILL);
        farm.start_coordinator();
    }
    let outcome = run.finish();
    outcome.expect_code(0);
    farm.expect_nothing_built_twice();
    let document = outcome.json();
    let wanted = graph.names_needed_by(&["web1", "web2", "db1"]).len();
    assert_eq!(document["steps"]["built"], wanted, "{outcome}");
    // The end is the same for whoever asks later.
    let run = document["run"].as_str().expect("a run");
    let again = farm.fleetctl().args(["attach", run, "--json"]).run();
    again.expect_code(0);
    assert_eq!(again.json()["steps"], document["steps"], "{again}");
}

#[test]
fn a_second_coordinator_on_the_same_state_is_refused() {
    let farm = farm("2m");
    let second = farm.coordinator_command(["--config".as_ref(), farm.configuration().as_os_str()]).output();
    let second = second.expect("it starts");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another") || said.contains("in use") || said.contains("locked"), "{said}");
    farm.fleetctl().args(["status"]).run().expect_code(0);
}

#[test]
fn a_finished_run_is_remembered_over_a_restart() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("web", taking("web", 0))]);
    let outcome = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).run();
    outcome.expect_code(0);
    wait_for_build(&farm, "only", "web");
    farm.end_coordinator(Signal::TERM);
    farm.start_coordinator();
    let document = outcome.json();
    let run = document["run"].as_str().expect("a run");
    let again = farm.fleetctl().args(["attach", run, "--json"]).run();
    again.expect_code(0);
    assert_eq!(again.json()["hosts"], document["hosts"], "{again}");
    let log = farm.fleetctl().args(["runs", "--json"]).run();
    assert!(log.stdout.contains(run), "{log}");
}
