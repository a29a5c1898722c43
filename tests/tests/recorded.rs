//! The recorded fleets of 23 hosts: what needs their size.

use std::path::{Path, PathBuf};

use fleet_testkit::NixDaemon;
use fleet_tests::{Fleetctl, ReplayedFleet};

/// In KiB.
const MIB: u64 = 1024;

fn recording(name: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the repository");
    repository.join("examples/replay-fleet/data").join(name)
}

#[test]
fn an_update_that_changes_nothing_on_23_hosts_builds_nothing() {
    let daemon = NixDaemon::start_default();
    let fleet = ReplayedFleet::from_recording(&daemon, &recording("nixos-23-hosts-noop.json"), 1000);
    let arguments = ["build", "--all-hosts", "--exclude", "", "--base", "HEAD~1", "--json"];
    let outcome = Fleetctl::new(&daemon).args(arguments).args([fleet.flake()]).run();
    outcome.expect_code(0);
    assert!(daemon.journal().lines().is_empty(), "{outcome}");
    let document = outcome.json();
    let hosts = document["hosts"].as_object().expect("hosts");
    assert_eq!(hosts.len(), 23);
    for (name, host) in hosts {
        assert_eq!(host["after"]["status"], "unchanged", "{name}\n{outcome}");
        assert_eq!(host["changed"], false, "{name}");
    }
    assert_eq!(document["steps"]["built"], 0);
}

#[test]
fn a_mass_rebuild_of_23_hosts_is_planned_in_less_than_300_mib() {
    let daemon = NixDaemon::start_default();
    let fleet = ReplayedFleet::from_recording(&daemon, &recording("nixos-23-hosts-staging.json"), 1000);
    let arguments = ["build", "--all-hosts", "--exclude", "", "--base", "HEAD~1", "--dry-run", "--json"];
    let outcome = Fleetctl::new(&daemon).args(arguments).args([fleet.flake()]).run();
    outcome.expect_code(0);
    assert_eq!(outcome.json()["hosts"].as_object().map(serde_json::Map::len), Some(23));
    let peak = outcome.peak_memory_kib;
    assert!((1..300 * MIB).contains(&peak), "fleetctl held {} MiB", peak / MIB);
}
