//! Coordinator and workers as separate programs, over TLS, each worker with a store of its own.

use std::collections::{BTreeMap, BTreeSet};

use fleet_testkit::NixDaemon;
use fleet_tests::{Farm, FarmOptions, Graph, ReplayedFleet};

const SYSTEMS: [&str; 3] = ["x86_64-linux", "aarch64-linux", "aarch64-darwin"];

/// One worker for each of three systems.
fn mixed_farm() -> Farm {
    let mut farm = Farm::start(FarmOptions::default());
    for (name, system) in [("amd", SYSTEMS[0]), ("arm", SYSTEMS[1]), ("mac", SYSTEMS[2])] {
        farm.add_worker(name, &[system], 2);
    }
    farm
}

#[test]
fn each_step_is_built_once_and_on_a_worker_of_its_system() {
    let farm = mixed_farm();
    let local = NixDaemon::start_default();
    let graph = Graph::small_fleet().spread_over(&SYSTEMS);
    let systems = graph.systems();
    let fleet = ReplayedFleet::make(&local, &graph);
    let arguments = ["build", "--all-hosts", "--base", "HEAD~1", "--json"];
    let outcome = farm.fleetctl().args(arguments).args([fleet.flake()]).run();
    outcome.expect_code(0);

    farm.expect_nothing_built_twice();
    let (mut names, mut builds) = (BTreeSet::new(), 0);
    for (worker, lines) in farm.built() {
        assert!(!lines.is_empty(), "{worker} built nothing\n{outcome}");
        let system =
            BTreeMap::from([("amd", SYSTEMS[0]), ("arm", SYSTEMS[1]), ("mac", SYSTEMS[2])])[&*worker];
        builds += lines.len();
        for line in lines {
            let name = line.split(' ').next().unwrap_or(&line).to_owned();
            assert_eq!(systems[&name], system, "{name} was built on {worker}\n{outcome}");
            names.insert(name);
        }
    }
    let wanted: BTreeSet<_> = graph.names_needed_by(&["web1", "web2", "db1"]).into_iter().collect();
    assert_eq!(names, wanted, "{outcome}");
    let document = outcome.json();
    assert_eq!(document["steps"]["built"], builds, "{outcome}");
    for host in ["web1", "web2", "db1"] {
        assert_eq!(document["hosts"][host]["changed"], true, "{outcome}");
    }
}
