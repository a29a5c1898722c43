//! Sessions: workers go away and come back, and so does the coordinator.

use super::*;

const AWAY_MS: u64 = 1_000;

/// With one worker, whose leases wait for it, and a run with one step that it builds.
fn building() -> Stage {
    let mut stage = Stage::new(FleetConfig { away_ms: AWAY_MS, ..plain() });
    stage.join_with(WORKER, hello(WORKER), &[]);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage
}

fn held(stage: &Stage) -> Vec<(LeaseId, Epoch)> {
    stage.leases.iter().map(|(lease, (_, epoch, _))| (*lease, *epoch)).collect()
}

fn instance(of: &str) -> WorkerHello {
    WorkerHello { instance: of.into(), ..hello(WORKER) }
}

/// The coordinator dies and starts again.
fn restart(stage: &mut Stage) {
    stage.fleet = stage.restored();
    stage.sessions.clear();
    stage.timers.clear();
    stage.apply(Event::Restarted { epoch_floor: Epoch(1_000) });
}

#[test]
fn a_worker_that_comes_back_in_time_keeps_its_leases() {
    let mut stage = building();
    let holds = held(&stage);
    stage.part(WORKER);
    stage.join(WorkerId(2), 1, 1);
    assert_eq!(stage.leases.len(), 1, "it is not given to another meanwhile");
    stage.join_with(WORKER, hello(WORKER), &holds);
    stage.fire_timers();
    stage.build_all();
    let finished = stage.finished(RUN).unwrap();
    assert_eq!((finished.outcome, finished.counts.built), (Outcome::Succeeded, 1));
    assert!(stage.ends(RUN).iter().all(|(_, status)| *status == StepStatus::Built), "{:?}", stage.ends(RUN));
}

#[test]
fn a_worker_that_stays_away_loses_its_leases_for_good() {
    let mut stage = building();
    let holds = held(&stage);
    stage.part(WORKER);
    stage.join(WorkerId(2), 1, 1);
    stage.apply(Event::TimerFired { timer: Timer::WorkerAway(WORKER, Session(1)) });
    assert_eq!(stage.leases.len(), 1, "it is not due yet");
    stage.fire_timers();
    let (worker, _, steps) = stage.leases.last_key_value().unwrap().1.clone();
    assert_eq!((worker, steps[0].attempt), (WorkerId(2), 2));
    stage.join_with(WORKER, hello(WORKER), &holds);
    assert!(stage.cancelled.contains(&holds[0].0), "what it holds is void");
}

#[test]
fn a_timer_of_an_earlier_absence_is_stale() {
    let mut stage = building();
    let holds = held(&stage);
    stage.part(WORKER);
    stage.join_with(WORKER, hello(WORKER), &holds);
    stage.now += AWAY_MS;
    stage.part(WORKER);
    stage.apply(Event::TimerFired { timer: Timer::WorkerAway(WORKER, Session(1)) });
    stage.join_with(WORKER, hello(WORKER), &holds);
    stage.build_all();
    assert_eq!(stage.ends(RUN), [("top".into(), StepStatus::Built)]);
}

#[test]
fn leases_that_a_worker_no_longer_holds_are_lost_at_once() {
    let mut stage = building();
    stage.part(WORKER);
    stage.leases.clear();
    stage.join_with(WORKER, instance("second"), &[]);
    assert_eq!(stage.leases.values().next().unwrap().2[0].attempt, 2);
}

#[test]
fn a_lease_that_cannot_be_told_to_its_worker_is_tried_a_bounded_number_of_times() {
    let mut stage = building();
    for _ in 0..5 {
        assert_eq!(stage.leased(), ["top"]);
        stage.leases.clear();
        stage.part(WORKER);
        stage.join_with(WORKER, hello(WORKER), &[]);
        assert!(stage.leased().is_empty(), "it rests");
        stage.fire_timers();
    }
    let failure = stage.settled(RUN)[&("web".into(), Side::After)].failure.clone().unwrap();
    assert_eq!((failure.code, &*failure.cause), (FailureCode::WorkerLost, "worker w1 never got it"));
}

#[test]
fn leases_that_nobody_knows_are_cancelled_where_they_are_held() {
    let mut stage = building();
    let mut holds = held(&stage);
    let unknown = [(LeaseId(77), Epoch(77)), (holds[0].0, Epoch(99))];
    holds.extend(unknown);
    stage.part(WORKER);
    let session = stage.join_with(WORKER, hello(WORKER), &holds);
    assert_eq!(stage.sessions[&WORKER], session);
    let cancelled: Vec<(LeaseId, Epoch)> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send(WORKER, Command::CancelLease { lease, epoch }) => Some((*lease, *epoch)),
            _ => None,
        })
        .collect();
    assert_eq!(cancelled, unknown);
}

#[test]
fn another_worker_s_lease_is_not_adopted() {
    let mut stage = building();
    let holds = held(&stage);
    stage.join_with(WorkerId(2), hello(WorkerId(2)), &holds);
    assert_eq!(stage.leases.values().map(|lease| lease.0).collect::<Vec<_>>(), [WORKER]);
    assert!(stage.cancelled.contains(&holds[0].0), "where it is not its own, it is cancelled");
}

#[test]
fn a_start_of_the_machine_voids_its_leases() {
    let mut stage = building();
    let holds = held(&stage);
    stage.part(WORKER);
    let again = WorkerHello { boot: "second".into(), instance: "second".into(), ..hello(WORKER) };
    stage.join_with(WORKER, again, &holds);
    assert!(stage.cancelled.contains(&holds[0].0));
    assert_eq!(stage.leases.last_key_value().unwrap().1.2[0].attempt, 2);
}

#[test]
fn evaluations_and_realisations_of_an_absent_worker_go_elsewhere_at_once() {
    let mut stage = Stage::new(FleetConfig { away_ms: AWAY_MS, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.submit(RUN, build(None));
    stage.evals.clear();
    stage.part(WORKER);
    stage.join(WorkerId(2), 1, 1);
    stage.discover(&["web"]);
    stage.evaluate(AFTER, "web", Ok(there("top")));
    assert_eq!(stage.realises.values().next().unwrap().0, WorkerId(2));
    stage.realises.clear();
    stage.part(WorkerId(2));
    stage.join(WorkerId(3), 1, 1);
    stage.realise_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_toplevel_waits_for_its_builder_to_come_back() {
    let mut stage = building();
    stage.join(WorkerId(2), 1, 1);
    stage.built("top");
    stage.realises.clear();
    stage.part(WORKER);
    assert!(stage.realises.is_empty());
    stage.join_with(WORKER, hello(WORKER), &[]);
    assert_eq!(stage.realises.values().next().unwrap().0, WORKER);
}

#[test]
fn a_newer_connection_of_the_same_process_takes_the_older_one_s_place() {
    let mut stage = building();
    let (old, holds) = (stage.sessions[&WORKER], held(&stage));
    stage.join_with(WORKER, hello(WORKER), &holds);
    assert_eq!(stage.ended, [(WORKER, old, SessionEnd::Replaced)]);
    assert!(stage.apply(Event::WorkerLost { worker: WORKER, session: old }).is_empty(), "it is replaced");
    stage.build_all();
    assert_eq!(stage.ends(RUN), [("top".into(), StepStatus::Built)]);
}

#[test]
fn a_restarted_worker_is_welcome_once_its_predecessor_is_missed() {
    let mut stage = building();
    let knock = stage.join_with(WORKER, instance("second"), &[]);
    assert_eq!(stage.ended, [(WORKER, knock, SessionEnd::Contended)]);
    stage.leases.clear();
    stage.part(WORKER);
    let session = stage.join_with(WORKER, instance("second"), &[]);
    assert_eq!(stage.sessions[&WORKER], session);
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn two_instances_of_one_identity_are_both_locked_until_resumed() {
    let mut stage = building();
    let first = stage.sessions[&WORKER];
    let heard = |stage: &mut Stage| {
        stage.apply(Event::WorkerHeard { worker: WORKER, session: first, load: Load::default() });
    };
    stage.join_with(WORKER, instance("clone"), &[]);
    heard(&mut stage);
    let knock = stage.join_with(WORKER, instance("clone"), &[]);
    assert_eq!(stage.ended.last(), Some(&(WORKER, knock, SessionEnd::Contended)), "it was on the way");
    stage.now += plain().contended_ms;
    heard(&mut stage);
    stage.leases.clear();
    let knock = stage.join_with(WORKER, instance("clone"), &[]);
    let locked = |session| (WORKER, session, SessionEnd::Locked);
    assert_eq!(stage.ended[stage.ended.len() - 2..], [locked(knock), locked(first)]);
    stage.join(WorkerId(2), 1, 1);
    assert_eq!(stage.leased(), ["top"], "its work went elsewhere");
    for who in ["first", "clone"] {
        let knock = stage.join_with(WORKER, instance(who), &[]);
        assert_eq!(stage.ended.last(), Some(&locked(knock)));
    }
    let order = WorkerOrder::Resume;
    stage.apply(Event::WorkerOrdered { worker: WORKER, name: "w1".into(), order, reason: "".into() });
    let session = stage.join_with(WORKER, instance("first"), &[]);
    assert_eq!(stage.sessions[&WORKER], session);
}

#[test]
fn heartbeats_and_stale_words_leave_no_record() {
    let mut stage = building();
    let session = stage.sessions[&WORKER];
    let records = stage.records.len();
    for _ in 0..100 {
        stage.apply(Event::WorkerHeard { worker: WORKER, session, load: Load::default() });
        stage.apply(Event::WorkerHeard { worker: WorkerId(9), session, load: Load::default() });
        stage.apply(Event::TimerFired { timer: Timer::RunDeadline(RUN) });
        stage.apply(Event::RunCancelled { run: RunId(9) });
        stage.join_with(WORKER, instance("second"), &[]);
    }
    assert_eq!(stage.records.len(), records + 1, "but for the first knock");
}

#[test]
fn a_restart_of_the_coordinator_loses_nothing_and_builds_nothing_twice() {
    let mut stage = building();
    stage.submit(RunId(2), build(None));
    let holds = held(&stage);
    stage.evals.clear();
    restart(&mut stage);
    assert!(stage.evals.is_empty(), "nobody is there");
    let view = stage.fleet.worker_view(WORKER).unwrap();
    assert_eq!((view.state, view.leased), (crate::view::WorkerState::Away, 1));
    stage.join_with(WORKER, hello(WORKER), &holds);
    assert_eq!(stage.evals.len(), 1, "the evaluation begins again");
    stage.built("top");
    stage.discover(&["web"]);
    stage.evaluate(AFTER, "web", Ok(there("top")));
    stage.build_all();
    for run in [RUN, RunId(2)] {
        assert_eq!(stage.finished(run).unwrap().outcome, Outcome::Succeeded);
    }
    let leases = stage.effects.iter();
    let leases = leases.filter(|effect| matches!(effect, Effect::Send(_, Command::StartLease { .. })));
    assert_eq!(leases.count(), 1);
}

#[test]
fn grants_after_a_restart_lie_above_the_floor_and_above_all_before() {
    let mut stage = building();
    stage.leases.clear();
    restart(&mut stage);
    stage.join_with(WORKER, hello(WORKER), &[]);
    let (lease, (_, epoch, steps)) = stage.leases.first_key_value().unwrap();
    assert_eq!((lease.0, epoch.0, steps[0].attempt), (1_001, 1_001, 2));
}

#[test]
fn a_lease_that_was_granted_and_never_sent_blames_nobody() {
    let mut stage = Stage::new(FleetConfig { away_ms: AWAY_MS, workers_per_crashing_step: 1, ..plain() });
    stage.join_with(WORKER, hello(WORKER), &[]);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    for attempt in 2..5 {
        stage.leases.clear();
        restart(&mut stage);
        stage.join_with(WORKER, hello(WORKER), &[]);
        assert_eq!(stage.leases.values().next().unwrap().2[0].attempt, attempt);
    }
    restart(&mut stage);
    stage.join_with(WORKER, instance("another"), &[]);
    let finished = stage.finished(RUN).unwrap();
    assert_eq!(finished.outcome, Outcome::Partial, "its process may have died of it");
}

#[test]
fn a_fleet_with_a_busy_evaluator_is_not_at_rest() {
    let mut stage = Stage::new(plain());
    stage.join(WORKER, 1, 1);
    stage.submit(RUN, build(None));
    stage.discover(&["web"]);
    stage.evaluate(AFTER, "web", Ok(there("top")));
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
    assert!(stage.fleet.condense().is_none(), "its slot is not free");
    stage.finish_evals();
    assert!(stage.fleet.condense().is_some());
}

#[test]
fn after_a_restart_a_worker_that_stays_away_is_given_up() {
    let mut stage = building();
    stage.leases.clear();
    restart(&mut stage);
    stage.join(WorkerId(2), 1, 1);
    assert!(stage.leases.is_empty(), "its leases wait for it");
    stage.fire_timers();
    assert_eq!(stage.leased(), ["top"]);
}

#[test]
fn rests_and_deadlines_are_armed_again_after_a_restart() {
    let mut stage = building();
    stage.end("top", failed(FailureClass::Transient));
    restart(&mut stage);
    let armed: Vec<&Timer> = stage.timers.iter().map(|(timer, _)| timer).collect();
    assert!(armed.contains(&&Timer::RetryStep(drv("top"))) && armed.contains(&&Timer::RunDeadline(RUN)));
    stage.join_with(WORKER, hello(WORKER), &[]);
    stage.fire_timers();
    assert_eq!(stage.leases.values().next().unwrap().2[0].attempt, 2, "attempts go on");
}

#[test]
fn evaluations_that_a_restart_cut_short_do_not_count_as_tries() {
    let mut stage = Stage::new(FleetConfig { away_ms: AWAY_MS, eval_attempts: 1, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.submit(RUN, build(None));
    for _ in 0..3 {
        stage.evals.clear();
        restart(&mut stage);
        stage.join_with(WORKER, hello(WORKER), &[]);
    }
    stage.discover(&["web"]);
    assert_eq!(stage.evals.len(), 1);
}

#[test]
fn a_worker_keeps_its_id_across_sessions_and_no_other_gets_it() {
    let mut stage = Stage::new(FleetConfig { max_workers: 2, ..plain() });
    for name in ["a", "b"] {
        let worker = stage.fleet.worker_named(name);
        stage.join_with(worker, WorkerHello { name: name.into(), ..hello(worker) }, &[]);
    }
    let (a, b) = (stage.fleet.worker_named("a"), stage.fleet.worker_named("b"));
    let c = stage.fleet.worker_named("c");
    assert!(a != b && b != c && a != c);
    let session = stage.join_with(c, WorkerHello { name: "c".into(), ..hello(c) }, &[]);
    assert_eq!(stage.ended, [(c, session, SessionEnd::TooMany)]);
    stage.part(b);
    stage.join_with(c, WorkerHello { name: "c".into(), ..hello(c) }, &[]);
    assert_eq!(stage.fleet.worker_named("c"), c);
    assert!(stage.fleet.worker_named("b") > c, "who was forgotten for another comes back as somebody new");
}

#[test]
fn a_fleet_at_rest_is_condensed_to_what_must_be_remembered() {
    let mut stage = building();
    assert!(stage.fleet.condense().is_none(), "a run is live");
    let lease = *stage.leases.first_key_value().unwrap().0;
    stage.build_all();
    stage.part(WORKER);
    let order = WorkerOrder::Drain;
    stage.apply(Event::WorkerOrdered { worker: WorkerId(2), name: "w2".into(), order, reason: "old".into() });
    let before = stage.fleet.view();
    stage.records = stage.fleet.condense().unwrap();
    stage.fleet = stage.restored();
    let after = stage.fleet.view();
    assert_eq!((&after.workers, &after.runs), (&before.workers, &before.runs));
    assert!(!stage.fleet.knows(&drv("top")), "it must be described again");
    stage.join_with(WORKER, hello(WORKER), &[]);
    stage.run(RunId(2), &[("web", wants(&[step("top", &[])]))]);
    assert!(*stage.leases.first_key_value().unwrap().0 > lease);
    stage.build_all();
    assert_eq!(stage.finished(RunId(2)).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_history_that_contradicts_itself_is_refused() {
    let stage = building();
    let decided = stage.records.iter().position(|record| matches!(record, Record::Decided(_))).unwrap();
    let restore = |records: Vec<Record>| Fleet::restore(plain(), records);
    let mut twice = stage.records.clone();
    twice.insert(decided, twice[decided].clone());
    let error = restore(twice).unwrap_err();
    assert!(matches!(error, crate::RestoreError::Unfit { record, .. } if record == decided + 2), "{error}");
    let headless = vec![stage.records[decided].clone()];
    assert_eq!(restore(headless).unwrap_err(), crate::RestoreError::Headless { record: 1 });
    // Decisions that did not reach the disk are taken again: nobody was told of them.
    let records = stage.records[..stage.records.len() - 1].to_vec();
    let mut fleet = restore(records).unwrap();
    fleet.apply(Time(100), Event::Restarted { epoch_floor: Epoch(50) });
    invariant::check(&fleet).unwrap();
}
