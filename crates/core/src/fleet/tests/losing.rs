//! Losing outputs: what nobody has any more is made again, for whoever needs it, and not for ever.

use super::*;

const OTHER: RunId = RunId(2);

/// The step fails because nobody has these any more.
fn misses(stage: &mut Stage, name: &str, missing: &[&str]) -> Vec<Effect> {
    stage.end_with(name, failed(FailureClass::InputMissing), 0, missing)
}

/// The oldest realise job fails because nobody has these any more.
fn realise_misses(stage: &mut Stage, missing: &[&str]) -> Vec<Effect> {
    let (job, (worker, epoch, _)) = stage.realises.pop_first().expect("something is realised");
    let result = Err(failure(FailureCode::Infrastructure, "it is nowhere"));
    let missing = missing.iter().map(|path| (*path).into()).collect();
    stage.apply(Event::Realised { worker, job, epoch, result, missing })
}

fn chain() -> Vec<NewStep> {
    vec![step("lib", &[]), step("mid", &["lib"]), step("top", &["mid"])]
}

fn messages(effects: &[Effect]) -> Vec<String> {
    let messages = effects.iter().filter_map(|effect| match effect {
        Effect::Notify(_, Notice::Message(text)) => Some(text.to_string()),
        _ => None,
    });
    messages.collect()
}

#[test]
fn a_lost_input_is_made_again_and_its_user_waits_for_it() {
    let mut stage = Stage::new(FleetConfig { infrastructure_attempts: 1, quarantine_after: 1, ..plain() });
    stage.join(WORKER, 2, 1);
    stage.run(RUN, &[("web", wants(&chain()))]);
    stage.built("lib");
    stage.built("mid");
    let effects = misses(&mut stage, "top", &["mid-out"]);
    assert_eq!(messages(&effects), ["outputs are lost, and are built again: mid"]);
    assert_eq!(stage.leased(), ["mid"], "at once, and nothing else");
    stage.build_all();
    let finished = stage.finished(RUN).unwrap();
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert_eq!(finished.counts, Counts { wanted: 3, built: 3, ..Counts::default() }, "each counts once");
    let ends: Vec<_> = stage.ends(RUN).into_iter().filter(|(name, _)| name != "lib").collect();
    let told = [
        ("mid", StepStatus::Built),
        ("top", StepStatus::Retried),
        ("mid", StepStatus::Built),
        ("top", StepStatus::Built),
    ];
    assert_eq!(ends, told.map(|(name, status)| (name.to_owned(), status)));
    assert_eq!(stage.fleet.worker_view(WORKER).unwrap().state, crate::view::WorkerState::Connected);
}

#[test]
fn what_is_lost_further_down_is_made_again_too() {
    let mut stage = Stage::with_worker(2);
    stage.run(RUN, &[("web", wants(&chain()))]);
    stage.built("lib");
    stage.built("mid");
    misses(&mut stage, "top", &["lib-out", "mid-out", "source", "top-out"]);
    assert_eq!(stage.leased(), ["lib"], "the others wait");
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn floating_outputs_are_known_by_where_they_turned_out_to_be() {
    let mut stage = Stage::with_worker(1);
    let lib = NewStep { outputs: Vec::new(), ..step("lib", &[]) };
    stage.run(RUN, &[("web", wants(&[lib, step("top", &["lib"])]))]);
    stage.end("lib", StepOutcome::Built(vec![("out".into(), "somewhere".into())]));
    misses(&mut stage, "top", &["somewhere"]);
    assert_eq!(stage.leased(), ["lib"]);
}

#[test]
fn what_was_there_all_along_is_made_when_it_is_lost() {
    let mut stage = Stage::with_worker(1);
    stage.run(OTHER, &[("lib", wants(&[step("lib", &[])]))]);
    stage.apply(Event::RunCancelled { run: OTHER });
    stage.leases.clear();
    stage.run(RUN, &[("web", wants(&[step("top", &["lib"])]))]);
    assert_eq!(stage.leased(), ["top"], "an evaluator says that lib is there");
    misses(&mut stage, "top", &["lib-out"]);
    assert_eq!(stage.leased(), ["lib"]);
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().counts.wanted, 2);
}

#[test]
fn what_no_step_makes_is_tried_again_as_any_missing_input() {
    let mut stage = Stage::new(FleetConfig { infrastructure_attempts: 2, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", wants(&[step("other", &[]), step("top", &["other"])]))]);
    stage.built("other");
    for _ in 0..2 {
        assert_eq!(stage.leased(), ["top"]);
        misses(&mut stage, "top", &["source", "top-out"]);
        stage.fire_timers();
    }
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::BuildFailed));
}

#[test]
fn what_a_step_does_not_need_is_not_made_again() {
    let mut stage = Stage::with_worker(2);
    let steps = [step("a", &[]), step("b", &[]), step("of-a", &["a"]), step("top", &["of-a", "b"])];
    stage.run(RUN, &[("web", wants(&steps))]);
    stage.built("a");
    stage.built("b");
    misses(&mut stage, "of-a", &["b-out"]);
    stage.fire_timers();
    assert_eq!(stage.leased(), ["of-a"]);
}

#[test]
fn an_input_that_was_made_since_is_not_made_twice() {
    let mut stage = Stage::with_worker(3);
    let steps = [step("lib", &[]), step("a", &["lib"]), step("b", &["lib"]), step("top", &["a", "b"])];
    stage.run(RUN, &[("web", wants(&steps))]);
    stage.built("lib");
    misses(&mut stage, "a", &["lib-out"]);
    stage.built("lib");
    // It was leased before the new one was there.
    misses(&mut stage, "b", &["lib-out"]);
    assert_eq!(stage.leased(), ["a", "b"]);
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().counts.built, 4);
}

#[test]
fn an_output_that_is_lost_over_and_over_fails_what_needs_it() {
    let mut stage = Stage::new(FleetConfig { lost_attempts: 2, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", wants(&chain()))]);
    stage.built("lib");
    for _ in 0..2 {
        stage.built("mid");
        misses(&mut stage, "top", &["mid-out"]);
    }
    stage.built("mid");
    misses(&mut stage, "top", &["mid-out"]);
    assert_eq!(stage.leased(), [""; 0]);
    let failure = stage.settled(RUN)[&("web".into(), Side::After)].failure.clone().unwrap();
    let cause = "the outputs of mid were lost again, after they had been built again 2 times";
    assert_eq!((&*failure.cause, failure.drv), (cause, Some(drv("top"))));
    // Another run has as many tries.
    stage.run(OTHER, &[("web", wants(&[step("else", &["mid"])]))]);
    misses(&mut stage, "else", &["mid-out"]);
    assert_eq!(stage.leased(), ["mid"]);
}

#[test]
fn all_who_wait_for_a_lost_output_want_it() {
    let mut stage = Stage::with_worker(2);
    stage.run(RUN, &[("web", wants(&[step("lib", &[]), step("a", &["lib"])]))]);
    stage.built("lib");
    stage.run(OTHER, &[("web", wants(&[step("slow", &[]), step("b", &["lib", "slow"])]))]);
    misses(&mut stage, "a", &["lib-out"]);
    stage.apply(Event::RunCancelled { run: RUN });
    assert!(stage.leased().contains(&"lib".to_owned()), "the other run needs it");
    stage.leases.retain(|lease, _| !stage.cancelled.contains(lease));
    stage.build_all();
    assert_eq!(stage.finished(OTHER).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_toplevel_that_is_lost_is_built_and_realised_again() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("lib", &[]), step("top", &["lib"])]))]);
    stage.built("lib");
    stage.built("top");
    realise_misses(&mut stage, &["top-out"]);
    assert_eq!(stage.leased(), ["top"]);
    stage.built("top");
    stage.realise_all();
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::Built));
}

#[test]
fn a_target_waits_for_all_that_its_closure_lost() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&chain()))]);
    for name in ["lib", "mid", "top"] {
        stage.built(name);
    }
    realise_misses(&mut stage, &["lib-out", "mid-out"]);
    assert_eq!(stage.leased(), ["lib"], "the toplevel itself is there");
    stage.built("lib");
    assert_eq!((stage.leased(), stage.realises.len()), (vec!["mid".to_owned()], 0));
    stage.built("mid");
    assert_eq!(stage.realises.values().next().unwrap().2, "top-out");
    stage.realise_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_closure_that_cannot_be_made_again_fails_its_target() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&chain()))]);
    for name in ["lib", "mid", "top"] {
        stage.built(name);
    }
    realise_misses(&mut stage, &["lib-out"]);
    stage.end("lib", failed(FailureClass::BuildFailed));
    let settled = &stage.settled(RUN)[&("web".into(), Side::After)];
    assert_eq!(settled.status, TargetStatus::BuildFailed);
    assert_eq!(settled.failure.as_ref().unwrap().drv, Some(drv("lib")));
}

#[test]
fn a_closure_that_is_lost_over_and_over_fails_its_target() {
    let mut stage = Stage::new(FleetConfig { lost_attempts: 1, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.built("top");
    realise_misses(&mut stage, &["top-out"]);
    stage.built("top");
    realise_misses(&mut stage, &["top-out"]);
    let settled = &stage.settled(RUN)[&("web".into(), Side::After)];
    assert_eq!(settled.status, TargetStatus::BuildFailed);
    assert!(settled.failure.as_ref().unwrap().cause.contains("lost again"), "{settled:?}");
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Partial);
}

#[test]
fn a_target_that_waits_for_another_run_s_step_keeps_it() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("lib", &[]), step("top", &["lib"])]))]);
    stage.built("lib");
    stage.built("top");
    let (job, held) = stage.realises.pop_first().unwrap();
    stage.run(OTHER, &[("web", wants(&[step("else", &["lib"])]))]);
    misses(&mut stage, "else", &["lib-out"]);
    stage.realises.insert(job, held);
    realise_misses(&mut stage, &["lib-out"]);
    stage.apply(Event::RunCancelled { run: OTHER });
    assert_eq!(stage.leased(), ["lib"]);
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn only_what_a_run_results_in_is_published() {
    for publish in [true, false] {
        let mut stage = Stage::new(FleetConfig { publish, ..plain() });
        stage.join(WORKER, 2, 2);
        stage.submit(RUN, build(Some(BEFORE)));
        stage.discover(&["web"]);
        stage.discover(&["web"]);
        stage.evaluate(BEFORE, "web", Ok(there("old")));
        stage.evaluate(AFTER, "web", Ok(there("new")));
        let told = stage.effects.iter().filter_map(|effect| match effect {
            Effect::Send(_, Command::Realise { path, publish, .. }) => Some((path.to_string(), *publish)),
            _ => None,
        });
        let wanted = if publish { Publish::Wanted } else { Publish::NotWanted };
        let expected = [("old-out".to_owned(), Publish::NotWanted), ("new-out".to_owned(), wanted)];
        assert_eq!(told.collect::<BTreeMap<_, _>>(), BTreeMap::from(expected));
    }
}
