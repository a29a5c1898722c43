//! Networks that are cut, silent, slow or flapping between workers and coordinator.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fleet_testkit::{DaemonOptions, Direction, FaultProxy, Signal};
use fleet_tests::{Farm, Fleetctl, Network, in_namespaces};

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
    farm.listed(worker)["state"].as_str().unwrap_or_default().to_owned()
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

#[test]
fn a_worker_killed_before_its_report_arrived_costs_no_build() {
    let (mut farm, proxy) = behind_a_proxy("10m");
    let toplevel = r#"package "web" "read -t 2 x <&2 || :; echo web > $out; echo web done >> /journal""#;
    let flake = Flake::of(&[("web", toplevel.to_owned())]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "far", "web");
    proxy.silence(Direction::Upstream);
    proxy.silence(Direction::Downstream);
    wait_for_build(&farm, "far", "web done");
    // Time for its daemon to register the output; the report has nowhere to go.
    std::thread::park_timeout(Duration::from_secs(2));
    farm.end_worker("far", Signal::KILL);
    proxy.cut();
    proxy.heal();
    farm.start_worker("far");
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(starts(&farm, "web"), 1, "{outcome}");
}

#[test]
fn a_transfer_that_stalls_costs_no_build() {
    let (farm, proxy) = behind_a_proxy("10m");
    let big = r#"package "big" "i=0; while [ $i -lt 20000 ]; do echo $i $RANDOM $RANDOM $RANDOM; i=$((i+1)); done > $out; echo big done >> /journal""#;
    let flake = Flake::of(&[("big", big.to_owned())]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "far", "big");
    // Some seconds for what it uploads.
    proxy.slow_down(Direction::Upstream, 20_000, Duration::ZERO);
    wait_for_build(&farm, "far", "big done");
    std::thread::park_timeout(Duration::from_secs(3));
    proxy.silence(Direction::Upstream);
    wait_for_state(&farm, "far", "away", NOTICED_WITHIN);
    proxy.cut();
    proxy.heal();
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(starts(&farm, "big"), 1, "{outcome}");
}

#[test]
fn a_client_cut_off_anywhere_has_one_run_and_one_result() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 2);
    let client = TlsClient::of(&farm);
    let proxy = FaultProxy::start(([127, 0, 0, 1], farm.port()).into());
    let build = |flake: &Flake| {
        let url = format!("https://localhost:{}", proxy.address().port());
        client.fleetctl(&farm, &url).args(["build", "--all-hosts", "--json"]).args([flake.path()])
    };
    // Before, amid and after what a client says and hears: handshake, chunks, submission, events.
    let places = [700, 2_000, 3_500, 5_000, 8_000, 12_000];
    let directions = [Direction::Upstream, Direction::Downstream];
    for (number, (bytes, direction)) in
        places.iter().flat_map(|bytes| directions.map(|direction| (*bytes, direction))).enumerate()
    {
        let name = format!("host{number}");
        let flake = Flake::of(&[(&name, taking(&name, 0))]);
        let before = proxy.accepted();
        proxy.break_after(direction, bytes);
        let run = build(&flake).start();
        while proxy.accepted() < before + 2 && !run.ends_within(Duration::from_millis(10)) {}
        proxy.heal();
        let outcome = run.finish();
        outcome.expect_code(0);
        assert_eq!(outcome.json()["steps"]["built"], 1, "cut after {bytes} bytes {direction:?}: {outcome}");
        assert_eq!(starts(&farm, &name), 1);
        let runs = farm.fleetctl().args(["runs", "--json"]).run().json();
        let runs = runs["runs"].as_array().map(Vec::len);
        assert_eq!(runs, Some(number + 1), "cut after {bytes} bytes {direction:?}: {outcome}");
    }
}

/// A client on another machine: a token, and the certificates of the farm's CA.
struct TlsClient {
    token: PathBuf,
    authority: PathBuf,
}

impl TlsClient {
    fn of(farm: &Farm) -> TlsClient {
        let token = farm.fleetctl().args(["client", "token", "--name", "ci", "--role", "submit"]).run();
        token.expect_code(0);
        let kept = fs::read_to_string(farm.state().join("ca/authority.pem")).expect("the farm has a CA");
        let begin = kept.find("-----BEGIN CERTIFICATE").expect("a certificate");
        let end = begin + kept[begin..].find("-----END CERTIFICATE-----\n").expect("a whole one") + 26;
        let client = TlsClient {
            token: farm.scratch().join("token"),
            authority: farm.scratch().join("authority.pem"),
        };
        fs::write(&client.token, token.stdout).expect("written");
        fs::set_permissions(&client.token, fs::Permissions::from_mode(0o600)).expect("private");
        fs::write(&client.authority, &kept[begin..end]).expect("written");
        client
    }

    fn fleetctl(&self, farm: &Farm, url: &str) -> Fleetctl {
        let fleetctl = Fleetctl::remote(url, &farm.scratch());
        fleetctl.env("FLEET_CA", &self.authority).env("FLEET_TOKEN_FILE", &self.token)
    }
}
