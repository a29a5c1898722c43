//! Discovery and evaluation, and what becomes of hosts that have no graph.

use super::*;

fn fail_job(stage: &mut Stage, failure: Option<Failure>, unstarted: &[&str]) {
    let (job, (worker, epoch, ..)) = stage.evals.pop_first().unwrap();
    let unstarted = unstarted.iter().copied().map(host).collect();
    stage.apply(Event::EvalReported {
        worker,
        job,
        epoch,
        report: EvalReport::Finished { failure, unstarted },
    });
}

fn asked(stage: &Stage) -> Vec<(SourceId, Vec<String>)> {
    let hosts = |task: &EvalTask| match task {
        EvalTask::Discover(_) => Vec::new(),
        EvalTask::Hosts(hosts) => hosts.iter().map(|host| host.name.to_string()).collect(),
    };
    stage.evals.values().map(|(_, _, source, task)| (*source, hosts(task))).collect()
}

#[test]
fn one_source_on_both_sides_is_evaluated_once() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(Some(AFTER)));
    stage.discover(&["web"]);
    stage.evaluate(AFTER, "web", Ok(wants(&[step("top", &[])])));
    assert_eq!(stage.settled(RUN).len(), 2);
    assert_eq!(stage.status(RUN, "web", Side::Before), Some(TargetStatus::Unchanged));
    let evals = |effect: &&Effect| matches!(effect, Effect::Send(_, Command::StartEval { .. }));
    assert_eq!(stage.effects.iter().filter(evals).count(), 2, "a discovery and an evaluation");
}

#[test]
fn hosts_are_selected_by_globs_and_told_in_name_order() {
    let mut stage = Stage::with_worker(1);
    let selection =
        Selection { hosts: vec!["w*".into()], excludes: vec!["*-minimal".into()], ..build(None).selection };
    stage.submit(RUN, RunRequest { selection, ..build(None) });
    stage.discover(&["wiki", "web", "web-minimal", "db", "web"]);
    let found = stage.effects.iter().find_map(|effect| match effect {
        Effect::Notify(RUN, Notice::HostsFound { side: Side::After, hosts }) => Some(hosts.clone()),
        _ => None,
    });
    assert_eq!(found, Some(vec![host("web"), host("wiki")]));
}

#[test]
fn without_a_matching_host_the_run_fails() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(Some(BEFORE)));
    stage.discover(&[]);
    assert!(stage.finished(RUN).is_none(), "the other tree may hold some");
    stage.discover(&[]);
    let finished = stage.finished(RUN).unwrap();
    assert_eq!((finished.outcome, finished.failure.unwrap().code), (Outcome::Failed, FailureCode::NoHosts));
}

#[test]
fn whoever_selects_no_host_learns_which_there_are() {
    let mut stage = Stage::with_worker(1);
    let selection = Selection { hosts: vec!["wbe".into()], ..build(None).selection };
    stage.submit(RUN, RunRequest { selection, ..build(None) });
    stage.discover(&["web", "db"]);
    let finished = stage.finished(RUN).unwrap();
    assert_eq!(&*finished.failure.unwrap().detail, "db\nweb");
}

#[test]
fn a_flake_that_does_not_evaluate_fails_the_run_with_its_error() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(Some(BEFORE)));
    let error = failure(FailureCode::EvalFailed, "flake.nix does not exist");
    fail_job(&mut stage, Some(error.clone()), &[]);
    let finished = stage.finished(RUN).unwrap();
    assert_eq!((finished.outcome, finished.failure), (Outcome::Failed, Some(error)));
    assert!(stage.fleet.view().evals_waiting == 0, "the other discovery is withdrawn");
}

#[test]
fn a_host_on_one_side_only_is_one_target() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(Some(BEFORE)));
    stage.discover(&["gone"]);
    stage.discover(&["new"]);
    assert_eq!(asked(&stage), [(BEFORE, vec!["gone".into()])]);
    stage.evaluate(BEFORE, "gone", Ok(there("gone")));
    stage.finish_evals();
    stage.evaluate(AFTER, "new", Ok(there("new")));
    stage.realise_all();
    let targets: Vec<_> = stage.settled(RUN).into_keys().collect();
    assert_eq!(targets, [("gone".into(), Side::Before), ("new".into(), Side::After)]);
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn both_sides_of_a_host_are_evaluated_near_each_other() {
    let mut stage = Stage::new(FleetConfig { eval_group: 2, ..plain() });
    stage.join(WORKER, 1, 8);
    stage.submit(RUN, build(Some(BEFORE)));
    stage.discover(&["a", "b", "c"]);
    stage.discover(&["a", "b", "c"]);
    let expected: Vec<(SourceId, Vec<String>)> =
        [(BEFORE, "a"), (AFTER, "a"), (BEFORE, "b"), (AFTER, "b"), (BEFORE, "c"), (AFTER, "c")]
            .map(|(source, name)| (source, vec![name.into()]))
            .into();
    assert_eq!(asked(&stage), expected, "eight evaluators leave no host in a group of two");
}

#[test]
fn a_worker_gets_no_more_eval_jobs_than_eval_slots() {
    let mut stage = Stage::new(FleetConfig { eval_group: 1, ..plain() });
    stage.join(WORKER, 1, 2);
    stage.submit(RUN, build(None));
    stage.discover(&["a", "b", "c"]);
    assert_eq!(stage.evals.len(), 2);
    stage.finish_evals();
    assert_eq!(stage.evals.len(), 2, "the forgotten ones are tried again");
}

#[test]
fn one_side_s_error_leaves_the_other_side_to_be_built() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(Some(BEFORE)));
    stage.discover(&["web"]);
    stage.discover(&["web"]);
    stage.evaluate(BEFORE, "web", Err(failure(FailureCode::EvalFailed, "it throws")));
    stage.finish_evals();
    stage.evaluate(AFTER, "web", Ok(wants(&[step("top", &[])])));
    stage.build_all();
    assert_eq!(stage.status(RUN, "web", Side::Before), Some(TargetStatus::EvalFailed));
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::Built));
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Partial);
}

#[test]
fn hosts_that_were_not_started_are_given_to_another_job() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(None));
    stage.discover(&["a", "b", "c"]);
    for _ in 0..10 {
        // For ever, as long as one host comes out each time, and no longer.
        let Some((_, hosts)) = asked(&stage).pop() else { break };
        stage.evaluate(AFTER, &hosts[0], Ok(there("top")));
        let rest: Vec<&str> = hosts[1..].iter().map(String::as_str).collect();
        fail_job(&mut stage, None, &rest);
    }
    stage.realise_all();
    assert_eq!(stage.settled(RUN).len(), 3);
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn handing_all_hosts_back_is_bounded() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(None));
    stage.discover(&["a", "b"]);
    for attempt in 1..=3 {
        assert!(stage.finished(RUN).is_none(), "attempt {attempt}");
        fail_job(&mut stage, None, &["a", "b"]);
    }
    assert_eq!(stage.status(RUN, "b", Side::After), Some(TargetStatus::EvalFailed));
    assert!(stage.finished(RUN).is_some());
}

#[test]
fn an_evaluator_that_died_costs_the_host_it_was_on() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(None));
    stage.discover(&["a", "b"]);
    stage.evaluate(AFTER, "a", Err(failure(FailureCode::EvalDied, "killed (memory)")));
    fail_job(&mut stage, None, &["b"]);
    assert_eq!(asked(&stage), [(AFTER, vec!["b".into()])]);
    assert_eq!(
        stage.settled(RUN)[&("a".into(), Side::After)].failure.as_ref().unwrap().code,
        FailureCode::EvalDied
    );
}

#[test]
fn a_lost_worker_s_hosts_are_evaluated_elsewhere_a_bounded_number_of_times() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(None));
    stage.discover(&["a"]);
    for worker in 2..=3 {
        stage.lose(WorkerId(worker - 1));
        assert!(stage.evals.is_empty());
        stage.join(WorkerId(worker), 1, 1);
        assert_eq!(asked(&stage), [(AFTER, vec!["a".into()])]);
    }
    stage.lose(WorkerId(3));
    let failure = stage.settled(RUN)[&("a".into(), Side::After)].failure.clone().unwrap();
    assert_eq!(failure.code, FailureCode::WorkerLost);
    assert!(stage.finished(RUN).is_some());
}

#[test]
fn a_stale_epoch_s_evaluation_is_refused_but_its_definitions_are_kept() {
    let mut stage = Stage::with_worker(1);
    stage.submit(RUN, build(None));
    stage.discover(&["a"]);
    let (job, (_, epoch, ..)) = stage.evals.pop_first().unwrap();
    stage.lose(WORKER);
    stage.join(WorkerId(2), 1, 1);
    let report = EvalReport::HostEvaluated { host: host("a"), result: Ok(wants(&[step("top", &[])])) };
    let effects = stage.apply(Event::EvalReported { worker: WORKER, job, epoch, report });
    assert!(matches!(effects[..], [Effect::Append(_)]), "it has no effect but to be kept");
    stage.evaluate(AFTER, "a", Ok(Evaluated { new_steps: Vec::new(), ..wants(&[step("top", &[])]) }));
    assert_eq!(stage.leased(), ["top"]);
}

#[test]
fn a_graph_that_was_not_described_fails_its_target_only() {
    let mut stage = Stage::with_worker(1);
    let undefined = Evaluated { new_steps: Vec::new(), ..wants(&[step("top", &[])]) };
    let without_top = Evaluated { drv: drv("other"), ..wants(&[step("lib", &[])]) };
    stage.run(RUN, &[("a", undefined), ("b", without_top), ("c", wants(&[step("c", &[])]))]);
    stage.build_all();
    assert_eq!(stage.status(RUN, "a", Side::After), Some(TargetStatus::EvalFailed));
    assert_eq!(stage.status(RUN, "b", Side::After), Some(TargetStatus::EvalFailed));
    assert_eq!(stage.status(RUN, "c", Side::After), Some(TargetStatus::Built));
}

#[test]
fn bounds_on_runs_hosts_and_steps_fail_what_exceeds_them() {
    let config = FleetConfig { max_runs: 1, max_hosts: 2, max_steps: 6, ..plain() };
    let mut stage = Stage::new(config);
    stage.join(WORKER, 1, 1);
    stage.submit(RUN, build(None));
    stage.submit(RunId(2), build(None));
    assert_eq!(stage.finished(RunId(2)).unwrap().outcome, Outcome::Failed);
    stage.discover(&["a", "b", "c"]);
    let failure = stage.finished(RUN).unwrap().failure.unwrap();
    assert_eq!(&*failure.cause, "3 hosts are more than the limit of 2; select fewer");
    let names: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
    let steps: Vec<NewStep> = names.iter().map(|name| step(name, &[])).collect();
    stage.run(RunId(3), &[("a", wants(&steps))]);
    let settled = &stage.settled(RunId(3))[&("a".into(), Side::After)];
    assert!(settled.failure.as_ref().unwrap().cause.contains("beside the limit of 6 derivations"));
}
