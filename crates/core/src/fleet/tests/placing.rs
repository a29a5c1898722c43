//! Which step goes where, and what waits for a worker that may never come.

use super::*;

#[test]
fn the_longest_chain_goes_first_then_first_come_first_served() {
    let mut stage = Stage::with_worker(1);
    let steps = [
        step("busy", &[]),
        step("b", &[]),
        step("a", &[]),
        step("deep", &[]),
        step("deeper", &["deep"]),
        step("top", &["busy", "a", "b", "deeper"]),
    ];
    stage.run(RUN, &[("web", wants(&steps))]);
    let mut order = Vec::new();
    while let Some(name) = stage.leased().first().cloned() {
        stage.built(&name);
        order.push(name);
    }
    assert_eq!(order, ["deep", "busy", "b", "a", "deeper", "top"]);
}

#[test]
fn a_worker_gets_no_more_leases_than_slots() {
    let mut stage = Stage::with_worker(2);
    stage.run(
        RUN,
        &[("web", wants(&[step("a", &[]), step("b", &[]), step("c", &[]), step("top", &["a", "b", "c"])]))],
    );
    assert_eq!(stage.leased(), ["a", "b"]);
    stage.built("a");
    assert_eq!(stage.leased(), ["b", "c"]);
}

#[test]
fn systems_and_features_are_respected_and_builtin_builds_anywhere() {
    let mut stage = Stage::new(plain());
    stage.join_as(WorkerId(1), &["x86_64-linux"], &[], 4, 1);
    stage.join_as(WorkerId(2), &["aarch64-linux", "x86_64-linux"], &["kvm"], 4, 0);
    stage.join_as(WorkerId(3), &["aarch64-darwin"], &[], 0, 0);
    let arm = NewStep { system: "aarch64-linux".into(), ..step("arm", &[]) };
    let kvm = NewStep { features: vec!["kvm".into()], ..step("kvm", &[]) };
    let fetch = NewStep { system: "builtin".into(), ..step("fetch", &[]) };
    stage.run(RUN, &[("web", wants(&[arm, kvm, fetch, step("top", &["arm", "kvm", "fetch"])]))]);
    let worker = |name: &str| stage.leases[&stage.lease_of(name)].0;
    assert_eq!((worker("arm"), worker("kvm")), (WorkerId(2), WorkerId(2)));
    assert_eq!(worker("fetch"), WorkerId(1), "where there is most room");
}

#[test]
fn a_small_step_is_built_where_its_inputs_are() {
    let mut stage = Stage::with_worker(2);
    let unit = NewStep { prefer_local: true, ..step("unit", &["lib"]) };
    let steps = [step("lib", &[]), step("slow", &[]), unit, step("top", &["unit", "slow"])];
    stage.run(RUN, &[("web", wants(&steps))]);
    stage.join(WorkerId(2), 8, 0);
    stage.built("lib");
    assert_eq!(stage.leases[&stage.lease_of("unit")].0, WORKER);
}

#[test]
fn a_step_that_one_worker_refuses_goes_to_another() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.join(WorkerId(2), 1, 0);
    stage.end("top", failed(FailureClass::Placement));
    assert_eq!(stage.leases[&stage.lease_of("top")].0, WorkerId(2));
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_step_that_all_workers_refuse_fails_for_want_of_a_worker() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.end("top", failed(FailureClass::Placement));
    assert!(stage.finished(RUN).is_none(), "another worker may come");
    stage.fire_timers();
    let failure = stage.settled(RUN)[&("web".into(), Side::After)].failure.clone().unwrap();
    assert_eq!(failure.code, FailureCode::NoWorker);
    assert_eq!(&*failure.cause, "every worker for x86_64-linux refused it: builder failed");
}

#[test]
fn a_step_that_fits_nobody_waits_for_a_worker_that_comes_in_time() {
    let mut stage = Stage::with_worker(1);
    let arm = NewStep { system: "aarch64-linux".into(), features: vec!["kvm".into()], ..step("top", &[]) };
    stage.run(RUN, &[("web", wants(&[arm]))]);
    assert!(stage.leased().is_empty());
    stage.join_as(WorkerId(2), &["aarch64-linux"], &["kvm"], 1, 0);
    assert_eq!(stage.leased(), ["top"]);
    stage.fire_timers();
    assert!(stage.finished(RUN).is_none(), "the timer is stale");
}

#[test]
fn a_step_that_fits_nobody_fails_when_patience_ends() {
    let mut stage = Stage::with_worker(1);
    let arm = NewStep { system: "aarch64-linux".into(), features: vec!["kvm".into()], ..step("top", &[]) };
    stage.run(RUN, &[("web", wants(&[arm]))]);
    stage.fire_timers();
    let failure = stage.settled(RUN)[&("web".into(), Side::After)].failure.clone().unwrap();
    assert_eq!(failure.code, FailureCode::NoWorker);
    assert_eq!(&*failure.cause, "no connected worker builds for aarch64-linux with kvm");
}

#[test]
fn without_patience_what_fits_nobody_fails_at_once() {
    let mut stage = Stage::new(FleetConfig { unplaceable_after_ms: 0, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.lose(WORKER);
    stage.submit(RUN, build(None));
    let failure = stage.finished(RUN).unwrap().failure.unwrap();
    assert_eq!(failure.code, FailureCode::NoWorker);
    stage.join(WorkerId(2), 1, 1);
    let arm = NewStep { system: "aarch64-linux".into(), ..step("arm", &[]) };
    stage.run(RunId(2), &[("arm", wants(&[arm])), ("web", wants(&[step("web", &[])]))]);
    assert_eq!(stage.status(RunId(2), "arm", Side::After), Some(TargetStatus::BuildFailed));
    stage.build_all();
    assert_eq!(stage.status(RunId(2), "web", Side::After), Some(TargetStatus::Built));
}

#[test]
fn even_without_patience_a_run_waits_for_the_first_worker() {
    let mut stage = Stage::new(FleetConfig { unplaceable_after_ms: 0, ..plain() });
    stage.submit(RUN, build(None));
    assert!(stage.finished(RUN).is_none());
    stage.join(WORKER, 1, 1);
    stage.discover(&["web"]);
    stage.evaluate(AFTER, "web", Ok(there("top")));
    stage.realise_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
    // Without one it does not wait for ever.
    let mut stage = Stage::new(FleetConfig { unplaceable_after_ms: 0, ..plain() });
    stage.submit(RUN, build(None));
    stage.fire_timers();
    assert_eq!(stage.finished(RUN).unwrap().failure.unwrap().code, FailureCode::NoWorker);
}

#[test]
fn without_any_worker_a_run_waits_and_then_fails() {
    let mut stage = Stage::new(plain());
    stage.submit(RUN, build(None));
    assert!(stage.finished(RUN).is_none());
    let due = stage.timers.iter().find(|(timer, _)| *timer == Timer::Unplaceable).unwrap().1;
    assert_eq!(due, Time(stage.now).plus_ms(plain().unplaceable_after_ms));
    stage.fire_timers();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Failed);
}
