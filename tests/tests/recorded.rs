//! The recorded fleets of 23 hosts: what needs their size.

use std::collections::BTreeSet;
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
fn an_update_of_23_hosts_is_built_as_one_graph() {
    let daemon = NixDaemon::start_default();
    // Builders do not wait: what takes time here is Nix.
    let fleet = ReplayedFleet::from_recording(&daemon, &recording("nixos-23-hosts-daily.json"), 10_000_000);
    let arguments =
        ["build", "--all-hosts", "--exclude", "", "--base", "HEAD~1", "--json", "--worker-slots", "4"];
    let outcome = Fleetctl::new(&daemon).args(arguments).args([fleet.flake()]).run();
    outcome.expect_code(0);
    let ran = daemon.journal().lines();
    let distinct: BTreeSet<_> = ran.iter().collect();
    assert_eq!(ran.len(), distinct.len(), "something was built twice\n{outcome}");
    let document = outcome.json();
    assert_eq!(document["steps"]["built"], ran.len());
    assert!(document["steps"]["deduplicated"].as_u64() > document["steps"]["wanted"].as_u64(), "{outcome}");
    let hosts = document["hosts"].as_object().expect("hosts");
    assert_eq!(hosts.len(), 23);
    for (name, host) in hosts {
        assert_eq!(host["changed"], true, "{name}: the kernel is on every host");
        for side in ["before", "after"] {
            let toplevel = host[side]["toplevel"].as_str().expect("a toplevel");
            assert!(daemon.physical(toplevel).exists(), "{name} {side}");
        }
    }
    assert!(outcome.peak_memory_kib < 300 * MIB, "fleetctl held {} MiB", outcome.peak_memory_kib / MIB);
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
