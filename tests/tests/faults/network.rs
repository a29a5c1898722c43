//! Networks that are cut, silent, slow or flapping between workers and coordinator.

use std::time::{Duration, Instant};

use fleet_testkit::{DaemonOptions, Direction, FaultProxy};
use fleet_tests::{Farm, Network, in_namespaces};
use serde_json::Value;

use super::{Flake, PATIENCE, SYSTEM, farm, starts, taking, wait_for_build};

/// What both ends promise to notice within.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// A farm whose only worker reaches the coordinator through a proxy.
fn behind_a_proxy(away: &str) -> (Farm, FaultProxy) {
    let mut farm = farm(away);
    let proxy = FaultProxy::start(([127, 0, 0, 1], farm.port()).into());
    let url = format!("https://localhost:{}", proxy.address().port());
    farm.add_worker_at("far", SYSTEM, 2, &url, DaemonOptions::default());
    (farm, proxy)
}

fn state_of(farm: &Farm, worker: &str) -> String {
    let listed = farm.fleetctl().args(["worker", "ls", "--json"]).run();
    listed.expect_code(0);
    let document = listed.json();
    let workers = document["workers"].as_array().cloned().unwrap_or_default();
    let found = workers.iter().find(|listed| listed["name"] == worker).map(|found| found["state"].clone());
    found.and_then(|state: Value| state.as_str().map(str::to_owned)).unwrap_or_default()
}

#[track_caller]
fn wait_for_state(farm: &Farm, worker: &str, state: &str, patience: Duration) {
    let started = Instant::now();
    loop {
        let now = state_of(farm, worker);
        if now == state {
            return;
        }
        assert!(started.elapsed() < patience, "{worker} is {now}, not {state}, after {patience:?}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// Both ends notice, the build goes on meanwhile, and its result arrives when the network is back.
fn a_silence_is_survived(directions: &[Direction]) {
    let (farm, proxy) = behind_a_proxy("10m");
    let flake = Flake::of(&[("web", taking("web", 5))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "far", "web");
    for direction in directions {
        proxy.silence(*direction);
    }
    let began = Instant::now();
    wait_for_state(&farm, "far", "away", NOTICED_WITHIN);
    let left = NOTICED_WITHIN.saturating_sub(began.elapsed()) + Duration::from_secs(2);
    farm.worker("far").program().wait_until_it_says("coordinator", left);
    proxy.cut();
    proxy.heal();
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(starts(&farm, "web"), 1, "{outcome}");
}

#[test]
fn a_network_that_is_silent_both_ways_is_noticed_by_both_ends_and_costs_no_build() {
    a_silence_is_survived(&[Direction::Upstream, Direction::Downstream]);
}

#[test]
fn a_network_that_is_silent_one_way_is_noticed_and_costs_no_build() {
    a_silence_is_survived(&[Direction::Downstream]);
}

#[test]
fn a_flapping_network_makes_no_storm_and_costs_no_build() {
    let (farm, proxy) = behind_a_proxy("10m");
    let flake = Flake::of(&[("web", taking("web", 4))]);
    let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
    wait_for_build(&farm, "far", "web");
    let before = proxy.accepted();
    for _ in 0..8 {
        std::thread::park_timeout(Duration::from_secs(1));
        proxy.cut();
    }
    let connections = proxy.accepted() - before;
    assert!(connections <= 24, "{connections} connections in 8 s");
    run.finish().expect_code(0);
    assert_eq!(starts(&farm, "web"), 1);
}

#[test]
fn a_slow_network_carries_a_run() {
    let (farm, proxy) = behind_a_proxy("10m");
    for direction in [Direction::Upstream, Direction::Downstream] {
        proxy.slow_down(direction, 125_000, Duration::from_millis(100));
    }
    let big = r#"package "big" "i=0; while [ $i -lt 2000 ]; do echo $i $RANDOM $RANDOM $RANDOM; i=$((i+1)); done > $out""#;
    let flake = Flake::of(&[("big", big.to_owned()), ("web", taking("web", 1))]);
    let outcome = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).run();
    outcome.expect_code(0);
    assert_eq!((starts(&farm, "big"), starts(&farm, "web")), (1, 1));
    assert_eq!(state_of(&farm, "far"), "connected", "heartbeats are not starved");
}

#[test]
fn a_cut_network_is_noticed_and_costs_no_build() {
    in_namespaces("network::a_cut_network_is_noticed_and_costs_no_build", |_| {
        let mut farm = farm("10m");
        farm.add_worker("far", SYSTEM, 2);
        let flake = Flake::of(&[("web", taking("web", 5))]);
        let run = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).start();
        wait_for_build(&farm, "far", "web");
        Network::down();
        wait_for_state(&farm, "far", "away", NOTICED_WITHIN);
        Network::up();
        run.finish().expect_code(0);
        assert_eq!(starts(&farm, "web"), 1);
    });
}

#[test]
fn a_worker_cut_off_for_longer_than_its_lease_publishes_nothing() {
    let (mut farm, proxy) = behind_a_proxy("3s");
    let flake = Flake::of(&[("web", taking("web", 8))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "far", "web");
    farm.add_worker("near", SYSTEM, 1);
    proxy.silence(Direction::Upstream);
    proxy.silence(Direction::Downstream);
    wait_for_build(&farm, "near", "web");
    let outcome = run.finish();
    outcome.expect_code(0);
    proxy.cut();
    proxy.heal();
    wait_for_state(&farm, "far", "connected", PATIENCE);
    assert_eq!(outcome.json()["steps"]["built"], 1, "{outcome}");
}
