//! Stopping a run: politely, impatiently, and with no warning at all.

use std::time::Duration;

use fleet_testkit::{DaemonOptions, NixDaemon, Signal, Trust, wait_until_gone};
use fleet_tests::{Fleetctl, HandMadeFleet, Running};

const PATIENCE: Duration = Duration::from_mins(1);
/// What a user is promised.
const STOPPED_WITHIN: Duration = Duration::from_secs(10);

/// A run that is in the middle of two builds which would take minutes.
fn run_in_the_middle_of_builds(daemon: &NixDaemon) -> Running {
    let endless = |name: &str| format!(r#"package "{name}" "read -t 600 x <&2; echo done > $out""#);
    let mut fleet = HandMadeFleet::new(daemon).host("one", &endless("first")).host("two", &endless("second"));
    fleet.commit();
    let fleetctl = Fleetctl::new(daemon).args(["build", "--all-hosts", "--worker-slots", "2"]);
    let running = fleetctl.args([fleet.flake()]).start();
    for name in ["first", "second"] {
        assert!(daemon.journal().wait_for(PATIENCE, |line| line == name).is_some(), "{name} does not start");
    }
    running
}

fn an_interrupt_stops_the_builds(trust: Trust) {
    let daemon = NixDaemon::start(&DaemonOptions { trust, ..DaemonOptions::default() });
    let running = run_in_the_middle_of_builds(&daemon);
    let builders = daemon.builders();
    assert!(!builders.is_empty(), "builders run");
    running.signal(Signal::INT);
    assert!(running.ends_within(STOPPED_WITHIN), "fleetctl goes on after an interrupt");
    let outcome = running.finish();
    outcome.expect_code(130);
    assert!(outcome.stdout.is_empty(), "{outcome}");
    for builder in builders {
        assert!(wait_until_gone(builder, STOPPED_WITHIN), "builder {builder} goes on");
    }
}

#[test]
fn an_interrupt_stops_the_builds_of_a_trusted_user() {
    an_interrupt_stops_the_builds(Trust::Trusted);
}

#[test]
fn an_interrupt_stops_the_builds_of_an_untrusted_user() {
    an_interrupt_stops_the_builds(Trust::Untrusted);
}

#[test]
fn a_second_interrupt_quits_at_once() {
    let daemon = NixDaemon::start_default();
    let running = run_in_the_middle_of_builds(&daemon);
    // A daemon that does not answer any more keeps the polite end from finishing.
    for pid in daemon.processes() {
        fleet_testkit::send_signal(pid, Signal::STOP);
    }
    running.signal(Signal::INT);
    running.wait_until_it_says("Ctrl-C again", STOPPED_WITHIN);
    running.signal(Signal::INT);
    assert!(running.ends_within(Duration::from_secs(3)), "fleetctl goes on after two interrupts");
    running.finish().expect_code(130);
}

#[test]
fn a_killed_fleetctl_leaves_no_builder_and_a_sound_store() {
    for trust in [Trust::Trusted, Trust::Untrusted] {
        let daemon = NixDaemon::start(&DaemonOptions { trust, ..DaemonOptions::default() });
        let running = run_in_the_middle_of_builds(&daemon);
        let builders = daemon.builders();
        assert!(!builders.is_empty(), "builders run");
        running.signal(Signal::KILL);
        assert_eq!(running.finish().status.code(), None, "killed");
        for builder in builders {
            assert!(
                wait_until_gone(builder, STOPPED_WITHIN),
                "builder {builder} outlives fleetctl ({trust:?})"
            );
        }
        daemon.nix_stdout(["store", "verify", "--all", "--no-trust"]);
    }
}

#[test]
fn a_run_after_a_killed_one_finishes_the_job() {
    let daemon = NixDaemon::start_default();
    let mut fleet = HandMadeFleet::new(&daemon)
        .host("quick", r#"package "quick" "echo x > $out""#)
        .host("slow", r#"package "slow" "[ -e /journal ] && read -t 600 x <&2; echo x > $out""#);
    fleet.commit();
    let arguments =
        |fleetctl: Fleetctl, host: &str| fleetctl.args(["build", "--host", host]).args([fleet.flake()]);
    let running = arguments(Fleetctl::new(&daemon), "*").start();
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "slow").is_some(), "the slow build starts");
    running.signal(Signal::KILL);
    running.finish();
    arguments(Fleetctl::new(&daemon), "quick").run().expect_code(0);
}
