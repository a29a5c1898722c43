//! Where bytes go: from worker to worker, to the coordinator only what hosts need or who cannot be reached otherwise,
//! and from there to hosts, as plain Nix takes them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fleet_testkit::{DaemonOptions, NixDaemon, Signal};
use fleet_tests::{Farm, FarmOptions, HandMadeFleet, Outcome};

const AMD: &[&str] = &["x86_64-linux"];
const ARM: &[&str] = &["aarch64-linux"];

fn farm(coordinator: &str) -> Farm {
    Farm::start(FarmOptions { coordinator: coordinator.to_owned(), ..FarmOptions::default() })
}

/// A derivation of some system that writes what the script says, and notes that it runs.
fn on(systems: &[&str], name: &str, script: &str) -> String {
    let system = systems[0];
    format!(
        r#"(derivation {{ name = "{name}"; system = "{system}"; builder = "/bin/sh";
           args = [ "-c" "echo {name} >> /journal; {script}" ]; }})"#
    )
}

/// A toplevel on one system that reads a line of something large from the other, and does not refer to it. `note`
/// makes it another derivation.
fn reads_large(note: &str) -> String {
    let lines = "i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done > $out";
    let large = on(ARM, "large", lines);
    on(AMD, "top", &format!("read first < ${{{large}}}; echo {note} $first > $out"))
}

/// A flake of one host, made with a daemon that plays no other part.
struct Flake {
    fleet: HandMadeFleet,
    _daemon: NixDaemon,
}

impl Flake {
    fn of(toplevel: &str) -> Self {
        let daemon = NixDaemon::start_default();
        let mut fleet = HandMadeFleet::new(&daemon).host("web", toplevel);
        fleet.commit();
        Self { fleet, _daemon: daemon }
    }

    /// Builds its host as it is now.
    fn build(&self, farm: &Farm) -> Outcome {
        farm.fleetctl().args(["build", "--all-hosts"]).args([self.fleet.flake()]).run()
    }

    fn change(&mut self, toplevel: &str) {
        self.fleet.replace("web", toplevel);
    }
}

/// The toplevel that a build printed.
fn toplevel(outcome: &Outcome) -> String {
    outcome.expect_code(0);
    outcome.stdout.split_whitespace().nth(1).expect("a store path").to_owned()
}

/// Names of the paths whose bytes the coordinator has.
fn kept(farm: &Farm) -> BTreeSet<String> {
    let shelves = fs::read_dir(farm.state().join("objects/manifests")).expect("there are manifests");
    let shelves = shelves.map(|shelf| shelf.expect("a shelf").path());
    let files = shelves.flat_map(|shelf| fs::read_dir(shelf).expect("a shelf"));
    files.map(|file| file.expect("a manifest").file_name().to_string_lossy()[33..].to_owned()).collect()
}

#[test]
fn what_only_workers_need_goes_from_one_to_the_other() {
    let mut farm = farm("");
    farm.add_worker("amd", AMD, 1);
    farm.add_worker("arm", ARM, 1);
    let flake = Flake::of(&reads_large("once"));
    let top = toplevel(&flake.build(&farm));
    assert_eq!(fs::read_to_string(farm.worker("amd").daemon.physical(&top)).expect("built"), "once line 0\n");
    let kept = kept(&farm);
    assert!(kept.contains("top") && !kept.contains("large"), "{kept:?}");
}

#[test]
fn what_a_worker_has_that_nobody_can_reach_comes_through_the_coordinator() {
    let mut farm = farm("");
    farm.add_worker("amd", AMD, 1);
    farm.add_hidden_worker("arm", ARM, 1);
    let flake = Flake::of(&reads_large("once"));
    toplevel(&flake.build(&farm));
    let kept = kept(&farm);
    assert!(kept.contains("top") && kept.contains("large"), "{kept:?}");
    farm.expect_nothing_built_twice();
}

#[test]
fn what_workers_hold_is_known_after_a_restart_of_everything() {
    let mut farm = farm("");
    farm.add_worker("amd", AMD, 1);
    farm.add_worker("arm", ARM, 1);
    let mut flake = Flake::of(&reads_large("once"));
    toplevel(&flake.build(&farm));
    for worker in ["amd", "arm"] {
        farm.end_worker(worker, Signal::TERM);
    }
    farm.end_coordinator(Signal::KILL);
    farm.start_coordinator();
    farm.start_worker("amd");
    farm.start_worker("arm");
    // Whoever fetched it could have it still: it is not what is asked here.
    farm.worker("amd").daemon.nix_stdout(["store", "gc"]);
    flake.change(&reads_large("twice"));
    toplevel(&flake.build(&farm));
    let built = farm.built();
    assert_eq!(built["arm"], ["large"], "{built:?}");
    assert_eq!(built["amd"], ["top", "top"], "{built:?}");
}

#[test]
fn what_was_lost_with_its_machine_is_built_again_when_it_is_needed() {
    let mut farm = farm("[workers]\naway = \"3s\"\nheartbeat = \"1s\"\n");
    farm.add_worker("amd", AMD, 1);
    farm.add_worker("arm", ARM, 1);
    let mut flake = Flake::of(&reads_large("once"));
    toplevel(&flake.build(&farm));
    // A worker holds for a while what it fetched.
    farm.end_worker("amd", Signal::TERM);
    farm.worker("amd").daemon.nix_stdout(["store", "gc"]);
    farm.start_worker("amd");
    assert_eq!(farm.lose_machine("arm"), ["large"]);
    // Its end is not told: what nobody needs is not built, and a run that needs nothing of it does not notice.
    assert_eq!(toplevel(&flake.build(&farm)).rsplit('-').next(), Some("top"));
    farm.add_worker("other", ARM, 1);
    flake.change(&reads_large("twice"));
    toplevel(&flake.build(&farm));
    assert_eq!(farm.built()["other"], ["large"]);
}

#[test]
fn a_host_gets_its_system_from_the_coordinator_and_trusts_nothing_else() {
    let mut farm = farm("[cache]\npublic = true\n");
    farm.add_worker("amd", AMD, 1);
    let part = on(AMD, "part", "echo part > $out");
    let flake = Flake::of(&on(AMD, "system", &format!("echo ${{{part}}} > $out")));
    let top = toplevel(&flake.build(&farm));
    let info = farm.fleetctl().args(["cache", "info", "--json"]).run();
    info.expect_code(0);
    let key = info.json()["public_keys"][0].as_str().expect("a key").to_owned();
    let authority = farm.scratch().join("ca.pem");
    let printed =
        farm.coordinator_command(["--config".as_ref(), farm.configuration().as_os_str(), "ca".as_ref()]);
    fs::write(&authority, output_of(printed)).expect("written");
    let host = |key: &str| {
        let authority = authority.display().to_string();
        NixDaemon::start(&DaemonOptions {
            substituters: vec![farm.url()],
            trusted_public_keys: vec![key.to_owned()],
            require_signatures: true,
            settings: vec![("ssl-cert-file".to_owned(), authority)],
            ..DaemonOptions::default()
        })
    };
    let switched = host(&key);
    let realised = switched.command("nix-store", ["--realise", &top]).output().expect("nix-store starts");
    assert!(realised.status.success(), "{}", String::from_utf8_lossy(&realised.stderr));
    let part = fs::read_to_string(switched.physical(&top)).expect("it is there");
    assert_eq!(fs::read_to_string(switched.physical(part.trim())).expect("its closure, too"), "part\n");
    switched.nix_stdout(["store", "verify", "--recursive", &top]);
    let other = key.split(':').next().expect("a name").to_owned() + ":" + &"A".repeat(43) + "=";
    let refused = host(&other).command("nix-store", ["--realise", &top]).output().expect("nix-store starts");
    assert!(!refused.status.success(), "another key signed it");
}

#[test]
fn garbage_collected_all_the_time_costs_no_build() {
    let mut farm = farm("");
    farm.add_worker("amd", AMD, 1);
    farm.add_worker("arm", ARM, 1);
    let steps = (0..8).fold(on(AMD, "step-0", "echo 0 > $out"), |input, number| {
        let systems = if number % 2 == 0 { ARM } else { AMD };
        on(systems, &format!("step-{}", number + 1), &format!("read -t 0.3 x <&2; echo ${{{input}}} > $out"))
    });
    let flake = Flake::of(&steps);
    let over = AtomicBool::new(false);
    let top = std::thread::scope(|scope| {
        for worker in ["amd", "arm"] {
            let (daemon, over) = (&farm.worker(worker).daemon, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Acquire) {
                    let _ = daemon.command("nix-collect-garbage", [] as [&str; 0]).output();
                }
            });
        }
        let built = flake.build(&farm);
        over.store(true, Ordering::Release);
        toplevel(&built)
    });
    farm.expect_nothing_built_twice();
    assert!(top.ends_with("step-8"));
    let kept = kept(&farm);
    assert_eq!(kept.len(), 9, "the closure is published: {kept:?}");
}

#[test]
fn a_worker_whose_disk_is_nearly_full_gets_nothing() {
    let mut farm = farm("[workers]\nheartbeat = \"1s\"\n");
    // The floor of one is above what any test's disk has.
    farm.add_worker_with("full", AMD, 2, "min_free_bytes = 1000000000000000\n");
    farm.add_worker("roomy", AMD, 1);
    wait_until(|| farm.listed("full")["load"]["unwell"].as_str().is_some_and(|why| !why.is_empty()));
    let part = on(AMD, "part", "echo part > $out");
    let flake = Flake::of(&on(AMD, "system", &format!("echo ${{{part}}} > $out")));
    toplevel(&flake.build(&farm));
    let built = farm.built();
    assert!(built["full"].is_empty() && built["roomy"].len() == 2, "{built:?}");
}

#[track_caller]
fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    panic!("it does not come to be");
}

/// A pin outlives retention: what it keeps is there after a collection without grace, and what nothing keeps is not.
#[test]
fn what_is_pinned_stays_and_what_nothing_keeps_goes() {
    let mut farm = farm("[retention]\nruns = 1\nage = \"1s\"\ngrace = \"1s\"\n");
    farm.add_worker("amd", AMD, 1);
    let mut flake = Flake::of(&on(AMD, "first", "echo 1 > $out"));
    let first = toplevel(&flake.build(&farm));
    flake.change(&on(AMD, "second", "echo 2 > $out"));
    toplevel(&flake.build(&farm));
    flake.change(&on(AMD, "third", "echo 3 > $out"));
    toplevel(&flake.build(&farm));
    farm.fleetctl().args(["pin", &base_name(&first), "--name", "good"]).run().expect_code(0);
    collect_until(&farm, &["first", "third"]);
    farm.fleetctl().args(["unpin", "good"]).run().expect_code(0);
    collect_until(&farm, &["third"]);
    farm.fleetctl().args(["cache", "verify"]).run().expect_code(0);
}

/// Collects until just these are left.
#[track_caller]
fn collect_until(farm: &Farm, left: &[&str]) {
    let left: BTreeSet<String> = left.iter().map(|name| (*name).to_owned()).collect();
    wait_until(|| {
        farm.fleetctl().args(["cache", "gc", "--grace", "0s"]).run().expect_code(0);
        let kept = kept(farm);
        assert!(left.is_subset(&kept), "what is needed goes: {kept:?}");
        kept == left
    });
}

fn base_name(path: &str) -> String {
    Path::new(path).file_name().expect("a store path").to_string_lossy().into_owned()
}

fn output_of(mut command: std::process::Command) -> Vec<u8> {
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
