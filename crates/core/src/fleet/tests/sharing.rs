//! Steps that several targets and runs want, and runs that stop wanting them.

use super::*;

const OTHER: RunId = RunId(2);

#[test]
fn a_step_that_two_runs_want_is_built_once() {
    let mut stage = Stage::with_worker(4);
    let steps = [step("lib", &[]), step("top", &["lib"])];
    stage.run(RUN, &[("web", wants(&steps))]);
    stage.run(OTHER, &[("web", wants(&steps))]);
    assert_eq!(stage.leased(), ["lib"]);
    let started = stage
        .effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Notify(OTHER, Notice::StepStarted { .. })));
    assert_eq!(started.count(), 1, "who comes later is told what runs");
    stage.build_all();
    for run in [RUN, OTHER] {
        let finished = stage.finished(run).unwrap();
        assert_eq!(finished.counts, Counts { wanted: 2, built: 2, ..Counts::default() });
    }
}

#[test]
fn cancelling_a_run_removes_only_its_interest() {
    let mut stage = Stage::with_worker(4);
    stage.run(
        RUN,
        &[("web", wants(&[step("shared", &[]), step("own", &[]), step("top", &["shared", "own"])]))],
    );
    stage.run(OTHER, &[("web", wants(&[step("shared", &[]), step("other", &["shared"])]))]);
    let own = stage.lease_of("own");
    stage.apply(Event::RunCancelled { run: RUN });
    assert_eq!(stage.cancelled, BTreeSet::from([own]));
    let finished = stage.finished(RUN).unwrap();
    assert_eq!((finished.outcome, finished.counts.cancelled), (Outcome::Cancelled, 3));
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::Cancelled));
    stage.leases.remove(&own);
    stage.build_all();
    assert_eq!(stage.finished(OTHER).unwrap().outcome, Outcome::Succeeded);
    assert!(stage.apply(Event::RunCancelled { run: RUN }).is_empty(), "an ended run is left alone");
}

#[test]
fn cancelling_during_evaluation_stops_the_evaluators() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(None));
    stage.discover(&["web"]);
    let effects = stage.apply(Event::RunCancelled { run: RUN });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Send(WORKER, Command::CancelEval { .. }))));
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Cancelled);
    stage.evals.clear();
    stage.run(OTHER, &[("web", there("top"))]);
    stage.realise_all();
    assert!(stage.finished(OTHER).is_some(), "the eval slot is free again");
}

#[test]
fn a_step_that_was_given_up_can_be_wanted_again() {
    let mut stage = Stage::with_worker(1);
    let steps = [step("top", &[])];
    stage.run(RUN, &[("web", wants(&steps))]);
    let lease = stage.lease_of("top");
    let (worker, epoch, _) = stage.leases.remove(&lease).unwrap();
    stage.apply(Event::RunCancelled { run: RUN });
    stage.run(OTHER, &[("web", wants(&steps))]);
    assert_eq!(stage.leases[&stage.lease_of("top")].2[0].attempt, 2);
    let report = StepReport::Ended {
        outcome: failed(FailureClass::Cancelled),
        duration_ms: 1,
        output_bytes: 0,
        missing: Vec::new(),
    };
    let late = Event::StepReported { worker, lease, epoch, drv: drv("top"), report };
    assert!(stage.apply(late).is_empty(), "the cancelled lease's last word is refused");
    stage.build_all();
    assert_eq!(stage.finished(OTHER).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn derivations_with_the_same_outputs_are_one_step() {
    let mut stage = Stage::with_worker(4);
    let here = NewStep { fixed_output: true, ..step("source", &[]) };
    let elsewhere = NewStep { drv: drv("mirror"), ..here.clone() };
    stage.run(
        RUN,
        &[("a", wants(&[here, step("a", &["source"])])), ("b", wants(&[elsewhere, step("b", &["mirror"])]))],
    );
    assert_eq!(stage.leased(), ["source"]);
    stage.built("source");
    assert_eq!(stage.leased(), ["a", "b"]);
    let counts = {
        stage.build_all();
        stage.finished(RUN).unwrap().counts
    };
    assert_eq!((counts.wanted, counts.built, counts.deduplicated), (3, 3, 1));
}

#[test]
fn a_fetcher_s_own_source_makes_no_cycle() {
    let mut stage = Stage::with_worker(4);
    let bootstrap = step("bootstrap", &[]);
    let curl = step("curl", &["bootstrap"]);
    let again = NewStep { drv: drv("again"), ..NewStep { inputs: vec![drv("curl")], ..bootstrap.clone() } };
    // The user of curl is seen first, where curl is there already.
    let first = [again.clone(), step("a", &["again"])];
    let second = [bootstrap, curl, again, step("b", &["again", "curl"])];
    stage.run(RUN, &[("a", wants(&first)), ("b", wants(&second))]);
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded, "{:?}", stage.settled(RUN));
}

#[test]
fn steps_that_need_each_other_fail_instead_of_waiting_for_ever() {
    let mut stage = Stage::with_worker(1);
    let steps = [step("a", &["b"]), step("b", &["a"]), step("top", &["a"])];
    stage.run(RUN, &[("web", wants(&steps))]);
    let settled = &stage.settled(RUN)[&("web".into(), Side::After)];
    assert_eq!(settled.failure.as_ref().unwrap().code, FailureCode::Infrastructure);
    assert!(stage.finished(RUN).is_some());
}

#[test]
fn a_step_built_while_a_host_was_evaluated_is_not_built_again() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(None));
    stage.discover(&["a", "b"]);
    stage.evaluate(AFTER, "a", Ok(wants(&[step("lib", &[]), step("a", &["lib"])])));
    let (job, (worker, epoch, ..)) =
        stage.evals.first_key_value().map(|(job, eval)| (*job, eval.clone())).unwrap();
    stage.apply(Event::EvalReported { worker, job, epoch, report: EvalReport::HostStarted(host("b")) });
    stage.built("lib");
    // The evaluator asked its store before that.
    let result = Ok(wants(&[step("lib", &[]), step("b", &["lib"])]));
    stage.apply(Event::EvalReported {
        worker,
        job,
        epoch,
        report: EvalReport::HostEvaluated { host: host("b"), result },
    });
    stage.build_all();
    let leases =
        stage.effects.iter().filter(|effect| matches!(effect, Effect::Send(_, Command::StartLease { .. })));
    assert_eq!(leases.count(), 3);
}

#[test]
fn a_step_whose_outputs_were_collected_is_built_again() {
    let mut stage = Stage::with_worker(1);
    let steps = [step("lib", &[]), step("top", &["lib"])];
    stage.run(RUN, &[("web", wants(&steps))]);
    stage.build_all();
    stage.run(OTHER, &[("web", wants(&steps))]);
    assert_eq!(stage.leased(), ["lib"]);
    stage.build_all();
    assert_eq!(stage.finished(OTHER).unwrap().counts.built, 2);
}

#[test]
fn a_step_that_another_worker_has_is_not_built_again() {
    let mut stage = Stage::with_worker(1);
    let steps = [step("lib", &[]), step("top", &["lib"])];
    stage.run(RUN, &[("web", wants(&steps))]);
    stage.build_all();
    stage.join(WorkerId(2), 1, 2);
    stage.submit(OTHER, build(None));
    assert_eq!(stage.evals.values().next().unwrap().0, WorkerId(2), "it has more room");
    stage.discover(&["web"]);
    stage.evaluate(AFTER, "web", Ok(wants(&steps)));
    assert!(stage.leased().is_empty());
    assert_eq!(stage.realises.values().next().unwrap().0, WORKER, "who built it has it");
    stage.realise_all();
    assert_eq!(stage.finished(OTHER).unwrap().counts, Counts { wanted: 2, cached: 2, ..Counts::default() });
}

#[test]
fn a_failure_is_remembered_as_long_as_a_run_knows_it() {
    let mut stage = Stage::with_worker(2);
    let steps = [step("lib", &[]), step("top", &["lib"])];
    stage.run(RUN, &[("a", wants(&[step("slow", &[])])), ("b", wants(&steps))]);
    stage.end("lib", failed(FailureClass::BuildFailed));
    stage.run(OTHER, &[("b", wants(&steps))]);
    assert_eq!(stage.finished(OTHER).unwrap().counts.failed, 2, "the first run still lives");
    stage.build_all();
    assert!(stage.finished(RUN).is_some());
    stage.run(RunId(3), &[("b", wants(&steps))]);
    assert_eq!(stage.leased(), ["lib"], "nobody remembers");
}

#[test]
fn the_same_events_have_the_same_effects() {
    let play = || {
        let mut stage = Stage::with_worker(2);
        stage.run(RUN, &[("web", wants(&[step("a", &[]), step("b", &[]), step("top", &["a", "b"])]))]);
        stage.end("a", failed(FailureClass::Transient));
        stage.fire_timers();
        stage.effects
    };
    assert_eq!(play(), play());
}

#[test]
fn targets_are_named_by_host_and_side() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("--option", there("top"))]);
    stage.realise_all();
    let target = Target { host: host("--option"), side: Side::After };
    assert!(stage.effects.iter().any(
        |effect| matches!(effect, Effect::Notify(_, Notice::TargetSettled { target: of, .. }) if *of == target)
    ));
}
