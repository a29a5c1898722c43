//! Machines in trouble: daemons that die, hang or hold locks, full disks, builders that do not stop. What is the
//! machine's fault is never the step's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fleet_testkit::{DaemonOptions, NixDaemon, Signal, is_running, kill_hard, send_signal, wait_until_gone};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::coordinator_message::Message;
use fleet_wire::v1::worker_message::Message as FromWorker;
use fleet_worker::Config;

use crate::ENDLESS;
use crate::scripted::{Driven, Gate, PATIENCE, config, script, started, step};

/// A small file system of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(place: &Path, size: &str) -> Self {
        fs::create_dir_all(place).expect("a directory");
        let options = format!("size={size},mode=755");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place).status();
        assert!(mounted.expect("mount runs").success(), "these tests need to mount a small disk");
        Self(place.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Processes that stand between the daemon and its builders.
fn connections(daemon: &NixDaemon) -> Vec<u32> {
    let builders = daemon.builders();
    let processes = daemon.processes().into_iter();
    processes.filter(|pid| *pid != daemon.pid() && !builders.contains(pid)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_under_a_build_leaves_no_builder_when_its_step_is_given_back() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    // The terminal hangs up with the daemon, which ends most builders, and not this one.
    let deaf = "trap \"\" HUP; echo started > /journal; while true; do read -t 1000 x <&2; done";
    let lease = driven.lease(&step(&daemon, &script("orphan", deaf))).await;
    started(&daemon).await;
    let builders = daemon.builders();
    assert!(!builders.is_empty());
    connections(&daemon).into_iter().for_each(kill_hard);
    let lost = driven.hear_lease(lease).await;
    assert_eq!(lost.outcome, OutcomeClass::DaemonGone, "{:?}", lost.report);
    for builder in builders {
        assert!(!is_running(builder), "it goes on");
    }
    let next = driven.build(&step(&daemon, &script("next", "echo made > $out"))).await;
    assert_eq!(next.outcome, OutcomeClass::Built, "{:?}", next.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_restarts_ends_no_build_and_is_waited_for() {
    let (mut daemon, gate) = Gate::daemon();
    let config = Config { daemon_patience: PATIENCE, ..config(&daemon) };
    let mut driven = Driven::start_as(&daemon, &[], config).await;
    let running = Gate::step(&daemon, "running");
    let next = step(&daemon, &script("next", "echo made > $out"));
    let lease = driven.lease(&running).await;
    started(&daemon).await;
    kill_hard(daemon.pid());
    assert!(wait_until_gone(daemon.pid(), PATIENCE));
    let waiting = driven.lease(&next).await;
    gate.open();
    let built = driven.hear_lease(lease).await;
    assert_eq!(built.outcome, OutcomeClass::Built, "{:?}", built.report);
    tokio::task::block_in_place(|| daemon.restart());
    let built = driven.hear_lease(waiting).await;
    assert_eq!(built.outcome, OutcomeClass::Built, "{:?}", built.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_hangs_makes_its_worker_unwell_until_it_answers() {
    let daemon = NixDaemon::start_default();
    let (probe_interval, probe_deadline) = (Duration::from_millis(200), Duration::from_secs(1));
    let config = Config { probe_interval, probe_deadline, ..config(&daemon) };
    let mut driven = Driven::start_as(&daemon, &[], config).await;
    let well = driven.beat(|beat| beat.store_free > 0).await;
    assert_eq!(well.unwell, "");
    assert!(well.memory_total > 0 && well.build_total > 0 && well.load1 > 0.0, "{well:?}");
    send_signal(daemon.pid(), Signal::STOP);
    let unwell = driven.beat(|beat| !beat.unwell.is_empty()).await.unwell;
    assert!(unwell.contains("does not answer"), "{unwell}");
    send_signal(daemon.pid(), Signal::CONT);
    driven.beat(|beat| beat.unwell.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_on_a_full_disk_is_no_success_and_leaves_nothing_behind() {
    let gate = Gate::closed();
    let root = fleet_testkit::short_temp_dir();
    let _disk = SmallDisk::mount(&root.path().join("r"), "48m");
    let daemon =
        gate.daemon_with(DaemonOptions { root: Some(root.path().join("r")), ..DaemonOptions::default() });
    let config = Config { suspicious_free_bytes: 4 << 20, ..config(&daemon) };
    let mut driven = Driven::start_as(&daemon, &[], config).await;

    // Ignores that it could not write, as careless builders do.
    let fill = "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do x=$x$x; done; \
                if ! [ -e /gate/open ]; then while echo $x; do :; done > full 2>/dev/null; read -t 1 x <&2; echo > full; fi; \
                echo made > $out";
    let work = step(&daemon, &script("careless", fill));
    let spoilt = driven.build(&work).await;
    assert_eq!(spoilt.outcome, OutcomeClass::DiskFull, "{:?}", spoilt.report);
    assert!(spoilt.report.outputs.is_empty());

    gate.open();
    let good = driven.build(&work).await;
    assert_eq!(good.outcome, OutcomeClass::Built, "built anew, not taken as it was: {:?}", good.report);

    let honest = "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do x=$x$x; done; \
                  while echo $x; do :; done > $out || exit 1; exit 1";
    let failed = driven.build(&step(&daemon, &script("honest", honest))).await;
    assert_eq!(failed.outcome, OutcomeClass::DiskFull, "{:?}", failed.report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_below_the_floor_makes_its_worker_unwell() {
    let daemon = NixDaemon::start_default();
    let config = Config { min_free_bytes: 1 << 60, ..config(&daemon) };
    let mut driven = Driven::start_as(&daemon, &[], config).await;
    let unwell = driven.beat(|beat| !beat.unwell.is_empty()).await.unwell;
    assert!(unwell.contains("disk is full") && unwell.contains("MiB"), "{unwell}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_spool_costs_log_lines_and_no_build() {
    let daemon = NixDaemon::start_default();
    // Not below the daemon's directory: whatever sees such a mount would be taken for one of its builders.
    let directory = fleet_testkit::short_temp_dir();
    let state = directory.path().join("small");
    let _disk = SmallDisk::mount(&state, "512k");
    let config = Config { state_dir: Some(state.clone()), ..config(&daemon) };
    let mut driven = Driven::start_as(&daemon, &[], config).await;
    let talk = "echo started > /journal; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); \
                echo $i ................................................................................................\
                ................................................................................................\
                ................................................................................................; done; \
                echo over > /journal; echo made > $out";
    let work = v1::StepWork { max_log_bytes: 1 << 30, ..step(&daemon, &script("talker", talk)) };
    driven.close();
    driven.knock().await;
    driven.say(Message::Welcome(crate::scripted::welcome())).await;
    let lease = driven.lease(&work).await;
    driven.close();
    driven.knock().await;
    assert!(daemon.journal().wait_for(PATIENCE, |line| line == "over").is_some());
    driven.say(Message::Welcome(crate::scripted::welcome())).await;
    let (mut heard, mut end, mut outcome) = (0, 0, None);
    loop {
        match driven.hear().await {
            FromWorker::StepLogged(logged) => {
                assert!(logged.offset >= end, "in order");
                heard += logged.data.len() as u64;
                end = logged.offset + logged.data.len() as u64;
            }
            FromWorker::StepReported(report) => outcome = Some(report.outcome()),
            FromWorker::LeaseFinished(finished) => {
                assert_eq!(finished.lease, lease);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(outcome, Some(OutcomeClass::Built));
    assert!(heard > 0 && heard < end, "{heard} of {end} bytes: a gap shows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_is_waited_for_and_then_not_the_steps_fault() {
    let daemon = NixDaemon::start_default();
    let config = Config { start_within: Duration::from_secs(2), ..config(&daemon) };
    let mut driven = Driven::start_as(&daemon, &[], config).await;
    let expression = script("locked", "echo made > $out");
    let work = step(&daemon, &expression);
    let output =
        daemon.nix_stdout(["eval", "--impure", "--raw", "--expr", &format!("({expression}).outPath")]);
    let lock = fs::File::create(format!("{}.lock", daemon.physical(&output).display())).expect("a lock");
    lock.lock().expect("locked");
    let waited = driven.build(&work).await;
    assert_eq!(waited.outcome, OutcomeClass::Infrastructure, "{:?} {}", waited.report, daemon.log());
    assert!(waited.report.message.contains("lock"), "{}", waited.report.message);
    drop(lock);
    assert_eq!(driven.build(&work).await.outcome, OutcomeClass::Built);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store_makes_its_worker_unwell_and_fails_no_build() {
    let daemon = NixDaemon::start_default();
    let config = Config { probe_interval: Duration::from_millis(200), ..config(&daemon) };
    let mut driven = Driven::start_as(&daemon, &[], config).await;
    let work = step(&daemon, &script("never", "echo made > $out"));
    let database = daemon.physical("/nix/var/nix/db");
    for file in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
        let path = database.join(file);
        if let Ok(metadata) = fs::metadata(&path) {
            let noise = vec![0x5a; usize::try_from(metadata.len()).expect("small")];
            fs::write(&path, noise).expect("writes");
        }
    }
    let built = driven.build(&work).await;
    let is_machines = matches!(
        built.outcome,
        OutcomeClass::Infrastructure | OutcomeClass::DaemonGone | OutcomeClass::InputMissing
    );
    assert!(is_machines, "{:?}", built.report);
    driven.beat(|beat| !beat.unwell.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_builder_that_ignores_signals_and_leaves_children_ends_with_its_lease() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;
    let stubborn = "trap \"\" TERM HUP INT; (trap \"\" TERM HUP INT; while true; do read -t 1000 x <&2; done) & \
                    echo started > /journal; while true; do read -t 1000 x <&2; done";
    let lease = driven.lease(&step(&daemon, &script("stubborn", stubborn))).await;
    started(&daemon).await;
    let builders = daemon.builders();
    assert!(builders.len() >= 2, "{builders:?}");
    driven.say(Message::CancelLease(v1::CancelLease { lease, epoch: 9 })).await;
    for builder in builders {
        assert!(wait_until_gone(builder, PATIENCE), "{builder} goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_kept_and_named() {
    let daemon = NixDaemon::start_default();
    let mut driven = Driven::start(&daemon, &[]).await;

    let silent = step(&daemon, &script("silent", ENDLESS));
    let late = driven.build(&v1::StepWork { max_silent_s: 1, ..silent }).await;
    assert_eq!(late.outcome, OutcomeClass::TimedOut, "{:?}", late.report);

    let big = step(&daemon, &script("big", "echo 0123456789 > $out"));
    let too_big = driven.build(&v1::StepWork { max_output_bytes: 100, ..big.clone() }).await;
    assert_eq!(too_big.outcome, OutcomeClass::OutputTooBig, "{:?}", too_big.report);
    assert!(too_big.report.outputs.is_empty());
    assert_eq!(
        driven.build(&v1::StepWork { max_output_bytes: 1000, ..big }).await.outcome,
        OutcomeClass::AlreadyValid
    );

    // A line without an end never reaches us: the daemon has to count it.
    let line =
        "x=0123456789abcdef; for i in 1 2 3 4 5 6 7 8 9 10; do x=$x$x; done; while true; do echo -n $x; done";
    let endless = step(&daemon, &script("line", line));
    let cut = driven.build(&v1::StepWork { max_log_bytes: 1 << 20, ..endless }).await;
    assert_eq!(cut.outcome, OutcomeClass::LogLimit, "{:?}", cut.report);
}
