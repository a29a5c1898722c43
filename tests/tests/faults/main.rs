//! Real programs in real trouble: whatever is killed, stopped or cut off, a run comes to its one end and builds
//! nothing twice.

mod clients;
mod clocks;
mod coordinator;
mod daemons;
mod network;
mod workers;

use std::path::PathBuf;
use std::time::Duration;

use fleet_testkit::{DaemonOptions, NixDaemon};
use fleet_tests::{Farm, FarmOptions, HandMadeFleet};

const PATIENCE: Duration = Duration::from_mins(1);
const SYSTEM: &[&str] = &["x86_64-linux"];

/// A farm whose workers' leases wait only this long for them.
fn farm(away: &str) -> Farm {
    let coordinator = format!("[workers]\naway = \"{away}\"\nheartbeat = \"1s\"\n");
    Farm::start(FarmOptions { coordinator, ..FarmOptions::default() })
}

/// A daemon on which builders that ask for it never end: those with `slow_here`.
fn slow_daemon(farm: &Farm) -> DaemonOptions {
    let marker = farm.scratch().join("slow");
    std::fs::write(&marker, "").expect("a marker is written");
    let setting = ("extra-sandbox-paths".to_owned(), format!("/slow={}", marker.display()));
    DaemonOptions { settings: vec![setting], ..DaemonOptions::default() }
}

/// A toplevel that never ends on a [`slow_daemon`], and at once elsewhere.
fn slow_here(name: &str) -> String {
    format!(r#"package "{name}" "[ ! -e /slow ] || read -t 600 x <&2; echo {name} > $out""#)
}

/// A toplevel that takes so many seconds.
fn taking(name: &str, seconds: u32) -> String {
    format!(r#"package "{name}" "read -t {seconds} x <&2 || :; echo {name} > $out""#)
}

/// A flake of hosts, and the daemon that it was made with, which plays no other part.
struct Flake {
    fleet: HandMadeFleet,
    _daemon: NixDaemon,
}

impl Flake {
    fn of(hosts: &[(&str, String)]) -> Flake {
        let daemon = NixDaemon::start_default();
        let mut fleet = HandMadeFleet::new(&daemon);
        for (name, toplevel) in hosts {
            fleet = fleet.host(name, toplevel);
        }
        fleet.commit();
        Flake { fleet, _daemon: daemon }
    }

    fn path(&self) -> PathBuf {
        self.fleet.flake().to_owned()
    }
}

/// How often each line stands in the journals of all workers.
fn starts(farm: &Farm, name: &str) -> usize {
    farm.built().values().flatten().filter(|line| *line == name).count()
}

/// Waits until a builder says its name on this worker.
#[track_caller]
fn wait_for_build(farm: &Farm, worker: &str, name: &str) {
    let found = farm.worker(worker).daemon.journal().wait_for(PATIENCE, |line| line == name);
    assert!(found.is_some(), "{name} is never built on {worker}: {:?}", farm.built());
}
