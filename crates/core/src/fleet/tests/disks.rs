//! Disks: nobody gets what its store has no room for, and what is learned of sizes lasts.

use super::*;

const GIB: u64 = 1 << 30;

fn narrow() -> FleetConfig {
    FleetConfig { disk_floor_bytes: GIB, disk_prior_bytes: GIB, unplaceable_after_ms: 1_000, ..plain() }
}

/// A worker says what its store has room for.
fn measure(stage: &mut Stage, worker: WorkerId, store_free: Option<u64>) -> Vec<Effect> {
    let session = stage.sessions[&worker];
    stage.apply(Event::WorkerHeard { worker, session, load: Load { unwell: None, store_free } })
}

fn with_room(config: FleetConfig, slots: u32, free: u64) -> Stage {
    let mut stage = Stage::new(config);
    stage.join(WORKER, slots, 1);
    measure(&mut stage, WORKER, Some(free));
    stage
}

fn alone(names: &[&str]) -> Evaluated {
    let steps: Vec<NewStep> = names.iter().map(|name| step(name, &[])).collect();
    wants(&[steps, vec![step("top", names)]].concat())
}

#[test]
fn leases_leave_room_for_what_others_will_make() {
    let mut stage = with_room(narrow(), 4, 3 * GIB);
    stage.run(RUN, &[("web", alone(&["a", "b", "c"]))]);
    assert_eq!(stage.leased(), ["a", "b"], "two of 1 GiB each beside the floor");
    stage.end_with("a", StepOutcome::Built(Vec::new()), 10, &[]);
    assert_eq!(stage.leased(), ["b"], "a is on the disk now, however little it is");
    measure(&mut stage, WORKER, Some(4 * GIB));
    assert_eq!(stage.leased(), ["b", "c"]);
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_worker_whose_disk_nobody_knows_is_not_held_back() {
    let mut stage = with_room(narrow(), 2, 0);
    stage.run(RUN, &[("web", alone(&["a", "b"]))]);
    assert_eq!(stage.leased(), [""; 0]);
    measure(&mut stage, WORKER, None);
    assert_eq!(stage.leased(), ["a", "b"]);
}

#[test]
fn what_was_built_before_is_known_by_name_and_system_in_later_versions_and_after_a_restart() {
    let mut stage = with_room(narrow(), 1, 100 * GIB);
    stage.run(RUN, &[("web", wants(&[step("big-1.0", &[])]))]);
    stage.end_with("big-1.0", StepOutcome::Built(Vec::new()), 5 * GIB, &[]);
    stage.realise_all();
    assert!(stage.finished(RUN).is_some());
    stage.records = stage.fleet.condense().unwrap();
    stage.fleet = stage.restored();
    measure(&mut stage, WORKER, Some(5 * GIB));
    stage.run(RunId(2), &[("web", wants(&[step("small-1.1", &[]), step("big-1.1", &["small-1.1"])]))]);
    stage.built("small-1.1");
    assert_eq!(stage.leased(), [""; 0], "the new version is as large as the old one");
    measure(&mut stage, WORKER, Some(6 * GIB));
    assert_eq!(stage.leased(), ["big-1.1"]);
}

#[test]
fn what_fits_no_disk_waits_says_so_and_fails_when_patience_is_over() {
    let mut stage = with_room(narrow(), 1, GIB + 1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    let why = stage.fleet.why(None, "top.drv", 1).remove(0);
    assert_eq!(why.state, "it waits for a worker for x86_64-linux; there is none, and it fails in 1 s");
    let reason = "has 1.1 GiB free; the step needs about 1.0 GiB, and 1.0 GiB stay free";
    assert_eq!(why.rejections[0].reason, reason);
    stage.fire_timers();
    let settled = &stage.settled(RUN)[&("web".into(), Side::After)];
    let failure = settled.failure.as_ref().unwrap();
    assert_eq!(failure.code, FailureCode::NoWorker);
    assert_eq!(&*failure.cause, "no worker for x86_64-linux has room on its disk for about 1.0 GiB");
}

#[test]
fn what_waits_only_for_another_lease_s_room_is_not_given_up() {
    let mut stage = with_room(narrow(), 2, 2 * GIB);
    stage.run(RUN, &[("web", alone(&["a", "b"]))]);
    assert_eq!(stage.leased(), ["a"]);
    let why = stage.fleet.why(None, "b.drv", 1).remove(0);
    assert_eq!(why.state, "it waits for a worker for x86_64-linux");
    assert!(why.rejections[0].reason.contains("of which its leases will take 1.0 GiB"), "{why:?}");
    stage.fire_timers();
    stage.built("a");
    assert_eq!(stage.leased(), ["b"]);
}

#[test]
fn a_little_more_room_counts_when_something_waits_for_it() {
    let mut stage = with_room(narrow(), 1, 2 * GIB - 1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    assert_eq!(stage.leased(), [""; 0]);
    measure(&mut stage, WORKER, Some(2 * GIB));
    assert_eq!(stage.leased(), ["top"]);
    assert!(measure(&mut stage, WORKER, Some(2 * GIB + 1)).is_empty(), "it makes no difference");
}

#[test]
fn a_step_too_large_for_all_that_fit_best_is_emulated() {
    let mut stage = Stage::new(narrow());
    let emulating = WorkerHello { emulated: vec!["x86_64-linux".into()], slots: 2, ..hello(WORKER) };
    stage.join_with(WORKER, emulating, &[]);
    let native = WorkerId(2);
    stage.join(native, 1, 0);
    measure(&mut stage, native, Some(2 * GIB));
    stage.run(RUN, &[("web", alone(&["a", "b"]))]);
    assert_eq!(stage.leased(), ["a"], "b waits for who does not emulate");
    measure(&mut stage, native, Some(GIB));
    assert_eq!(stage.leased(), ["a", "b"]);
    assert_eq!(stage.leases[&stage.lease_of("b")].0, WORKER);
}

#[test]
fn a_cancelled_step_keeps_no_room() {
    let mut stage = with_room(narrow(), 2, 2 * GIB);
    stage.run(RUN, &[("web", wants(&[step("a", &[])]))]);
    stage.apply(Event::RunCancelled { run: RUN });
    stage.leases.clear();
    stage.run(RunId(2), &[("web", wants(&[step("b", &[])]))]);
    assert_eq!(stage.leased(), ["b"]);
}
