//! Standing: who gets work, and who is let in.

use super::*;
use crate::view::WorkerState;

const REST_MS: u64 = 1_000;

fn order(stage: &mut Stage, worker: WorkerId, order: WorkerOrder) -> Vec<Effect> {
    let name = format!("w{worker}").into();
    stage.apply(Event::WorkerOrdered { worker, name, order, reason: "maintenance".into() })
}

fn state(stage: &Stage, worker: WorkerId) -> (WorkerState, String) {
    let view = stage.fleet.worker_view(worker).unwrap();
    (view.state, view.reason.to_string())
}

fn three_steps() -> Evaluated {
    wants(&[step("a", &[]), step("b", &[]), step("top", &["a", "b"])])
}

#[test]
fn a_drained_worker_finishes_what_it_has_and_gets_nothing_new() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", three_steps())]);
    let effects = order(&mut stage, WORKER, WorkerOrder::Drain);
    assert!(effects.contains(&Effect::Send(WORKER, Command::Drain { reason: "maintenance".into() })));
    assert_eq!(state(&stage, WORKER), (WorkerState::Drained, "maintenance".into()));
    stage.built("a");
    assert!(stage.leased().is_empty());
    let session = stage.join_with(WORKER, hello(WORKER), &[]);
    assert_eq!(stage.sessions[&WORKER], session, "it is let in");
    let told = stage.effects.iter().filter(|effect| matches!(effect, Effect::Send(_, Command::Drain { .. })));
    assert_eq!(told.count(), 2, "and told so again");
    let effects = order(&mut stage, WORKER, WorkerOrder::Resume);
    assert!(effects.contains(&Effect::Send(WORKER, Command::Resume)));
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_drained_worker_still_realises_what_it_built() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    order(&mut stage, WORKER, WorkerOrder::Drain);
    stage.built("top");
    stage.realise_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn work_that_only_a_drained_worker_fits_waits_and_then_fails() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", three_steps())]);
    order(&mut stage, WORKER, WorkerOrder::Drain);
    stage.built("a");
    stage.fire_timers();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Partial);
}

#[test]
fn an_order_may_come_before_the_worker() {
    let mut stage = Stage::new(plain());
    order(&mut stage, WORKER, WorkerOrder::Drain);
    assert_eq!(state(&stage, WORKER).0, WorkerState::Drained);
    assert_eq!(stage.fleet.worker_named("w1"), WORKER);
    stage.join(WORKER, 1, 1);
    stage.submit(RUN, build(None));
    assert!(stage.evals.is_empty());
}

#[test]
fn a_revoked_worker_is_cut_off_at_once_and_never_let_in_again() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    let (lease, (_, epoch, _)) = stage.leases.pop_first().unwrap();
    let session = stage.sessions[&WORKER];
    order(&mut stage, WORKER, WorkerOrder::Revoke);
    assert_eq!(stage.ended, [(WORKER, session, SessionEnd::Revoked)]);
    let outcome = StepOutcome::Built(Vec::new());
    let report = StepReport::Ended { outcome, duration_ms: 1, output_bytes: 0, missing: Vec::new() };
    let late = Event::StepReported { worker: WORKER, lease, epoch, drv: drv("top"), report };
    assert!(stage.apply(late).is_empty(), "its word counts no more");
    for _ in 0..2 {
        let knock = stage.join_with(WORKER, hello(WORKER), &[(lease, epoch)]);
        assert_eq!(stage.ended.last(), Some(&(WORKER, knock, SessionEnd::Revoked)));
        order(&mut stage, WORKER, WorkerOrder::Resume);
    }
    stage.join(WorkerId(2), 1, 1);
    assert_eq!(stage.leases.values().next().unwrap().2[0].attempt, 2);
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn revoking_workers_is_no_fault_of_the_steps_they_built() {
    let mut stage = Stage::new(plain());
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    for worker in (1..=8).map(WorkerId) {
        assert_eq!(stage.leased(), ["top"]);
        stage.leases.clear();
        order(&mut stage, worker, WorkerOrder::Revoke);
        stage.join(WorkerId(worker.0 + 1), 1, 1);
    }
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_worker_that_is_not_well_gets_nothing_until_it_is() {
    let mut stage = Stage::with_worker(1);
    let session = stage.sessions[&WORKER];
    let hear = |stage: &mut Stage, unwell: Option<&str>| {
        let load = Load { unwell: unwell.map(Into::into), ..Load::default() };
        stage.apply(Event::WorkerHeard { worker: WORKER, session, load });
    };
    stage.run(RUN, &[("web", three_steps())]);
    hear(&mut stage, Some("the daemon does not answer"));
    assert_eq!(state(&stage, WORKER), (WorkerState::Connected, "the daemon does not answer".into()));
    stage.built("a");
    assert!(stage.leased().is_empty());
    let records = stage.records.len();
    hear(&mut stage, Some("the daemon still does not answer"));
    assert_eq!(stage.records.len(), records, "it is unwell as before");
    hear(&mut stage, None);
    assert_eq!(stage.leased(), ["b"]);
}

#[test]
fn a_worker_that_fails_what_others_manage_rests_and_is_tried_with_a_canary() {
    let config = FleetConfig { quarantine_after: 2, quarantine_rest_ms: REST_MS, ..plain() };
    let mut stage = Stage::new(config);
    stage.join(WORKER, 2, 1);
    let steps: Vec<NewStep> = ["a", "b", "c", "d"].map(|name| step(name, &[])).to_vec();
    let top = step("top", &["a", "b", "c", "d"]);
    stage.run(RUN, &[("web", wants(&[steps, vec![top]].concat()))]);
    assert_eq!(stage.leased(), ["a", "b"]);
    stage.end("a", failed(FailureClass::DiskFull));
    assert_eq!(stage.leased(), ["b", "c"], "one failure is none");
    stage.end("b", failed(FailureClass::DaemonGone));
    let reason = "it failed 2 steps in a row, the last one because builder failed";
    assert_eq!(state(&stage, WORKER), (WorkerState::Quarantined, reason.into()));
    assert_eq!(stage.leased(), ["c"], "what it has goes on, but nothing comes");
    stage.end("c", failed(FailureClass::Infrastructure));
    assert!(stage.leased().is_empty());
    stage.fire(|timer| matches!(timer, Timer::Canary(_)));
    assert_eq!(stage.leased().len(), 1, "one step at a time");
    let canary = stage.leased().remove(0);
    stage.end(&canary, failed(FailureClass::Transfer));
    assert!(stage.leased().is_empty(), "it rests again");
    stage.fire_timers();
    let canary = stage.leased().remove(0);
    stage.built(&canary);
    assert_eq!(state(&stage, WORKER).0, WorkerState::Connected);
    stage.fire_timers();
    stage.build_all();
    stage.fire_timers();
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn one_step_that_fails_again_and_again_does_not_put_its_worker_in_quarantine() {
    let mut stage = Stage::new(FleetConfig { quarantine_after: 2, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    for _ in 0..4 {
        stage.end("top", failed(FailureClass::OutOfMemory));
        assert_eq!(state(&stage, WORKER).0, WorkerState::Connected);
        stage.fire_timers();
    }
}

#[test]
fn a_success_between_failures_keeps_a_worker_out_of_quarantine() {
    let mut stage = Stage::new(FleetConfig { quarantine_after: 2, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", wants(&[step("a", &[]), step("b", &[]), step("c", &[]), step("top", &["a"])]))]);
    stage.end("a", failed(FailureClass::DiskFull));
    stage.built("b");
    stage.end("c", failed(FailureClass::DiskFull));
    assert_eq!(state(&stage, WORKER).0, WorkerState::Connected);
}

#[test]
fn builders_that_fail_do_not_speak_against_their_worker() {
    let mut stage = Stage::new(FleetConfig { quarantine_after: 1, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])])), ("db", wants(&[step("db", &[])]))]);
    stage.end("top", failed(FailureClass::BuildFailed));
    assert_eq!(stage.leased(), ["db"]);
}

#[test]
fn quarantine_and_drain_outlast_a_restart() {
    let mut stage = Stage::new(FleetConfig { quarantine_after: 1, quarantine_rest_ms: REST_MS, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.end("top", failed(FailureClass::DiskFull));
    order(&mut stage, WorkerId(2), WorkerOrder::Drain);
    stage.fleet = stage.restored();
    stage.timers.clear();
    stage.apply(Event::Restarted { epoch_floor: Epoch(0) });
    assert_eq!(state(&stage, WORKER).0, WorkerState::Quarantined);
    assert_eq!(state(&stage, WorkerId(2)).0, WorkerState::Drained);
    assert!(stage.timers.iter().any(|(timer, _)| *timer == Timer::Canary(WORKER)));
}
