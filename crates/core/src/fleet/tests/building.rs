//! From submission to the end, when nothing goes wrong.

use super::*;

#[test]
fn a_run_goes_from_discovery_to_a_realised_toplevel() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("lib", &[]), step("top", &["lib"])]))]);
    assert_eq!(stage.leased(), ["lib"]);
    stage.built("lib");
    assert_eq!(stage.leased(), ["top"]);
    stage.built("top");
    assert!(stage.finished(RUN).is_none(), "the toplevel is not realised yet");
    assert_eq!(stage.realises.values().next().unwrap().2, "top-out");
    stage.realise_all();
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::Built));
    let finished = stage.finished(RUN).unwrap();
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert_eq!(finished.counts, Counts { wanted: 2, built: 2, ..Counts::default() });
    assert_eq!(stage.ends(RUN), [("lib".into(), StepStatus::Built), ("top".into(), StepStatus::Built)]);
}

#[test]
fn an_attempt_is_recorded_before_its_lease_is_sent() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    let at = |wanted: fn(&Effect) -> bool| stage.effects.iter().position(wanted).unwrap();
    let recorded =
        at(|effect| matches!(effect, Effect::Append(Record::Decided(Decision::LeaseGranted { .. }))));
    let sent = at(|effect| matches!(effect, Effect::Send(_, Command::StartLease { .. })));
    assert!(recorded < sent);
}

#[test]
fn the_end_of_a_run_is_its_last_notice_after_its_counts() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.built("top");
    let (job, (worker, epoch, _)) = stage.realises.pop_first().unwrap();
    let effects = stage.apply(Event::Realised { worker, job, epoch, result: Ok(()), missing: Vec::new() });
    assert!(matches!(effects.last(), Some(Effect::Notify(RUN, Notice::Finished(_)))));
    let counts = stage.effects.iter().rev().find_map(|effect| match effect {
        Effect::Notify(RUN, Notice::Counts(counts)) => Some(*counts),
        _ => None,
    });
    assert_eq!(counts, Some(stage.finished(RUN).unwrap().counts));
}

#[test]
fn a_toplevel_that_is_there_is_only_realised() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", there("top"))]);
    assert!(stage.leased().is_empty());
    stage.realise_all();
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::Cached));
    assert_eq!(stage.finished(RUN).unwrap().counts.substituted, 7);
}

#[test]
fn a_step_that_was_valid_counts_as_cached() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.end("top", StepOutcome::AlreadyValid(vec![("out".into(), "top-out".into())]));
    stage.realise_all();
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::Cached));
    assert_eq!(stage.finished(RUN).unwrap().counts, Counts { wanted: 1, cached: 1, ..Counts::default() });
}

#[test]
fn an_unchanged_host_costs_nothing() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(Some(BEFORE)));
    stage.discover(&["web"]);
    stage.discover(&["web"]);
    stage.evaluate(BEFORE, "web", Ok(wants(&[step("top", &[])])));
    assert!(stage.leased().is_empty(), "nothing is wanted before both sides are known");
    stage.finish_evals();
    // Another derivation with the same output is the same system.
    let same = Evaluated { drv: drv("top2"), ..wants(&[NewStep { drv: drv("top2"), ..step("top", &[]) }]) };
    stage.evaluate(AFTER, "web", Ok(same));
    assert!(stage.leased().is_empty() && stage.realises.is_empty());
    for side in [Side::Before, Side::After] {
        assert_eq!(stage.status(RUN, "web", side), Some(TargetStatus::Unchanged));
    }
    let finished = stage.finished(RUN).unwrap();
    assert_eq!((finished.outcome, finished.counts), (Outcome::Succeeded, Counts::default()));
}

#[test]
fn both_sides_of_a_changed_host_are_built_and_compared() {
    let mut stage = Stage::with_worker(2);
    stage.submit(RUN, build(Some(BEFORE)));
    stage.discover(&["web"]);
    stage.discover(&["web"]);
    stage.evaluate(BEFORE, "web", Ok(wants(&[step("lib", &[]), step("old", &["lib"])])));
    stage.finish_evals();
    let new = Evaluated {
        new_steps: vec![step("new", &["lib"])],
        ..wants(&[step("lib", &[]), step("new", &["lib"])])
    };
    stage.evaluate(AFTER, "web", Ok(new));
    stage.finish_evals();
    assert_eq!(stage.leased(), ["lib"]);
    stage.built("lib");
    assert_eq!(stage.leased(), ["old", "new"]);
    stage.build_all();
    let closures = stage.effects.iter().filter(|effect| {
        matches!(effect, Effect::Send(_, Command::Realise { closure: Closure::Wanted, .. }))
    });
    assert_eq!(closures.count(), 2);
    let counts = stage.finished(RUN).unwrap().counts;
    assert_eq!((counts.wanted, counts.built, counts.deduplicated), (3, 3, 1));
}

#[test]
fn a_plan_counts_and_leases_nothing() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, RunRequest { goal: Goal::Plan, ..build(None) });
    stage.discover(&["db", "web"]);
    stage.evaluate(AFTER, "db", Ok(wants(&[step("lib", &[]), step("db", &["lib"])])));
    stage.evaluate(AFTER, "web", Ok(wants(&[step("lib", &[]), step("web", &["lib"])])));
    assert!(stage.leased().is_empty() && stage.realises.is_empty());
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::Planned));
    let finished = stage.finished(RUN).unwrap();
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert_eq!((finished.counts.wanted, finished.counts.deduplicated), (3, 1));
}

#[test]
fn a_floating_toplevel_is_realised_where_it_turned_out_to_be() {
    let mut stage = Stage::with_worker(1);
    let floating = NewStep { outputs: Vec::new(), ..step("top", &[]) };
    stage.run(RUN, &[("web", wants(&[floating]))]);
    let outputs = vec![("dev".into(), "x-dev".into()), ("out".into(), "x".into())];
    stage.end("top", StepOutcome::Built(outputs));
    assert_eq!(stage.realises.values().next().unwrap().2, "x");
    stage.realise_all();
    assert_eq!(stage.settled(RUN)[&("web".into(), Side::After)].toplevel, Some("x".into()));
}

#[test]
fn a_run_that_was_submitted_twice_runs_once() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", there("top"))]);
    assert!(stage.apply(Event::RunSubmitted { run: RUN, request: build(None) }).is_empty());
    stage.realise_all();
    assert!(stage.apply(Event::RunSubmitted { run: RUN, request: build(None) }).is_empty());
}

#[test]
fn views_show_runs_steps_and_workers() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("lib", &[]), step("top", &["lib"])]))]);
    let view = stage.fleet.view();
    assert_eq!((view.leased, view.waiting, view.workers[0].leased), (1, 1, 1));
    let open = stage.fleet.open_steps(RUN, 1);
    assert_eq!((&*open[0].name, open[0].rank), ("lib", 1));
    assert_eq!(stage.fleet.step_view(&drv("top")).unwrap().waits_for, 1);
    stage.build_all();
    assert!(stage.fleet.run_view(RUN).unwrap().finished.is_some());
}
