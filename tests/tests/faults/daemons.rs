//! Nix daemons that restart, die or hang under a worker, stores without room, and outputs that come from elsewhere.

use std::path::Path;
use std::time::{Duration, Instant};

use fleet_testkit::{DaemonOptions, NixDaemon, Signal, is_running, kill_hard, send_signal, wait_until_gone};
use fleet_tests::{Farm, FarmOptions, fill, in_namespaces, small_file_system};

use super::{Flake, PATIENCE, SYSTEM, farm, slow_daemon, starts, taking, wait_for_build};

/// A farm whose workers look at their machine every second and mind a small disk only when it is nearly full.
fn watchful_farm() -> Farm {
    let coordinator = "[workers]\naway = \"2m\"\nheartbeat = \"1s\"\n\
                       disk_floor = \"1MiB\"\ndisk_prior = \"1MiB\"\n"
        .to_owned();
    let worker = "probe_interval_s = 1\nprobe_deadline_s = 1\nmin_free_bytes = 8388608\n\
                  suspicious_free_bytes = 4194304\n";
    Farm::start(FarmOptions { coordinator, worker: worker.to_owned(), ..FarmOptions::default() })
}

/// Waits until a worker says, or no longer says, that it is unwell for this reason.
#[track_caller]
fn wait_for_unwell(farm: &Farm, worker: &str, reason: &str) {
    let started = Instant::now();
    loop {
        let listed = farm.listed(worker);
        let unwell = listed["load"]["unwell"].as_str().unwrap_or_default();
        if unwell.contains(reason) && unwell.is_empty() == reason.is_empty() {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "it never says “{reason}”: {listed}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// Processes that stand between the daemon and its builders.
fn connections(daemon: &NixDaemon) -> Vec<u32> {
    let builders = daemon.builders();
    daemon.processes().into_iter().filter(|pid| *pid != daemon.pid() && !builders.contains(pid)).collect()
}

#[test]
fn a_daemon_that_restarts_costs_no_build() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("a", taking("a", 4)), ("b", taking("b", 1))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "only", "a");
    let listening = farm.worker("only").daemon.pid();
    kill_hard(listening);
    assert!(wait_until_gone(listening, PATIENCE));
    // The first build ends meanwhile. The second is built over its connection, or waits for a new one.
    std::thread::park_timeout(Duration::from_secs(6));
    farm.daemon_of("only").restart();
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!((starts(&farm, "a"), starts(&farm, "b")), (1, 1), "{outcome}");
}

#[test]
fn a_connection_s_daemon_that_dies_leaves_no_builder_beside_the_next_one() {
    let mut farm = farm("2m");
    let (slow, url) = (slow_daemon(&farm), farm.url());
    farm.add_worker_at("first", SYSTEM, 1, &url, slow);
    // The terminal hangs up with the daemon, which ends most builders, and not this one.
    let deaf =
        r#"package "web" "trap \"\" HUP; while [ -e /slow ]; do read -t 600 x <&2; done; echo web > $out""#;
    let flake = Flake::of(&[("web", deaf.to_owned())]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "first", "web");
    farm.add_worker("second", SYSTEM, 1);
    farm.fleetctl().args(["worker", "drain", "first"]).run().expect_code(0);
    let daemon = &farm.worker("first").daemon;
    let builders = daemon.builders();
    assert!(!builders.is_empty());
    connections(daemon).into_iter().for_each(kill_hard);
    wait_for_build(&farm, "second", "web");
    for builder in builders {
        assert!(!is_running(builder), "the orphan {builder} builds beside it");
    }
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(outcome.json()["steps"]["built"], 1, "{outcome}");
}

#[test]
fn a_daemon_that_hangs_gets_no_new_step_until_it_answers() {
    let mut farm = watchful_farm();
    farm.add_worker("first", SYSTEM, 1);
    let flake = Flake::of(&[("a", taking("a", 6)), ("b", taking("b", 0))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "first", "a");
    let hung = farm.worker("first").daemon.pid();
    send_signal(hung, Signal::STOP);
    wait_for_unwell(&farm, "first", "does not answer");
    farm.add_worker("second", SYSTEM, 1);
    wait_for_build(&farm, "second", "b");
    send_signal(hung, Signal::CONT);
    wait_for_unwell(&farm, "first", "");
    let outcome = run.finish();
    outcome.expect_code(0);
    farm.expect_nothing_built_twice();
    assert_eq!(outcome.json()["steps"]["built"], 2, "{outcome}");
}

/// A worker whose store is on such a file system gets a step that uses up what it has; another one has room.
fn a_full_store(place: &Path, size: &str, greedy: &str) {
    let mut farm = watchful_farm();
    let small = small_file_system(place.join("small"), size);
    let options = DaemonOptions { root: Some(small.clone()), ..slow_daemon(&farm) };
    let url = farm.url();
    farm.add_worker_at("small", SYSTEM, 1, &url, options);
    let toplevel = format!(r#"package "web" "[ ! -e /slow ] || {{ {greedy} }}; echo web > $out""#);
    let flake = Flake::of(&[("web", toplevel)]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "small", "web");
    farm.add_worker("large", SYSTEM, 1);
    wait_for_build(&farm, "large", "web");
    let outcome = run.finish();
    outcome.expect_code(0);
    let document = outcome.json();
    assert_eq!(document["steps"]["built"], 1, "{outcome}");
    let output =
        document["hosts"]["web"]["after"]["toplevel"].as_str().unwrap_or_else(|| panic!("{outcome}"));
    let made = std::fs::read_to_string(farm.worker("large").daemon.physical(output));
    assert_eq!(made.ok().as_deref(), Some("web\n"), "{outcome}");
    assert!(!farm.worker("small").daemon.physical(output).exists(), "what a full disk made is gone");
    fill(&small);
    wait_for_unwell(&farm, "small", "disk is full");
    std::fs::remove_file(small.join("filler")).expect("removed");
    wait_for_unwell(&farm, "small", "");
}

#[test]
fn a_success_on_a_full_disk_is_built_again_elsewhere() {
    in_namespaces("daemons::a_success_on_a_full_disk_is_built_again_elsewhere", |place| {
        // Ignores that it could not write, as careless builders do, and makes room at its end.
        let greedy = "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10; do x=$x$x; done; \
                      while echo $x; do :; done > $out 2>/dev/null; read -t 2 x <&2; echo > $out;";
        a_full_store(place, "64m", greedy);
    });
}

#[test]
fn a_failure_on_a_full_disk_is_no_failure_of_the_step() {
    in_namespaces("daemons::a_failure_on_a_full_disk_is_no_failure_of_the_step", |place| {
        let greedy = "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10; do x=$x$x; done; \
                      while echo $x; do :; done > $out; exit 1;";
        a_full_store(place, "64m", greedy);
    });
}

#[test]
fn a_store_without_inodes_is_a_full_disk() {
    in_namespaces("daemons::a_store_without_inodes_is_a_full_disk", |place| {
        let greedy = "i=0; while echo > many$i; do i=$((i+1)); done; read -t 1 x <&2; exit 1;";
        a_full_store(place, "64m,nr_inodes=3000", greedy);
    });
}

#[test]
fn an_output_that_comes_from_elsewhere_is_not_built_again() {
    let mut farm = farm("2m");
    farm.add_worker("only", SYSTEM, 1);
    let flake = Flake::of(&[("a", taking("a", 8)), ("web", taking("web", 0))]);
    let run = farm.fleetctl().args(["build", "--all-hosts", "--json"]).args([flake.path()]).start();
    wait_for_build(&farm, "only", "a");
    let daemon = &farm.worker("only").daemon;
    let wanted = format!("{}#nixosConfigurations.web.config.system.build.toplevel", flake.path().display());
    daemon.nix_stdout(["build", "--no-link", &wanted]);
    assert_eq!((starts(&farm, "a"), starts(&farm, "web")), (1, 1), "while the step waits");
    let outcome = run.finish();
    outcome.expect_code(0);
    assert_eq!(starts(&farm, "web"), 1, "{outcome}");
    assert_eq!(outcome.json()["steps"]["built"], 1, "{outcome}");
}
