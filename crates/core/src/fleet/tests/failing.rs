//! Failures: who is told, who is tried again, and who goes on.

use super::*;

#[test]
fn a_failure_reaches_exactly_the_dependents() {
    let mut stage = Stage::with_worker(4);
    let lib = step("lib", &[]);
    stage.run(
        RUN,
        &[
            ("db", wants(&[step("db", &[])])),
            ("mail", wants(&[lib.clone(), step("mid", &["lib"]), step("mail", &["mid"])])),
            ("web", wants(&[lib, step("other", &[]), step("web", &["lib", "other"])])),
        ],
    );
    stage.end("lib", failed(FailureClass::BuildFailed));
    stage.build_all();
    assert_eq!(stage.status(RUN, "db", Side::After), Some(TargetStatus::Built));
    for name in ["mail", "web"] {
        let settled = &stage.settled(RUN)[&(name.into(), Side::After)];
        assert_eq!(settled.status, TargetStatus::BuildFailed);
        let failure = settled.failure.as_ref().unwrap();
        assert_eq!((failure.code, failure.drv.clone()), (FailureCode::BuildFailed, Some(drv("lib"))));
        assert_eq!(&*failure.detail, "log of builder failed");
    }
    let ends: BTreeMap<String, StepStatus> = stage.ends(RUN).into_iter().collect();
    assert_eq!(ends["lib"], StepStatus::Failed);
    for name in ["mid", "mail", "web"] {
        assert_eq!(ends[name], StepStatus::DependencyFailed, "{name}");
    }
    assert_eq!(ends["other"], StepStatus::Built, "what does not depend on it is built");
    let finished = stage.finished(RUN).unwrap();
    assert_eq!(finished.outcome, Outcome::Partial);
    assert_eq!(
        finished.counts,
        Counts { wanted: 6, built: 2, failed: 4, deduplicated: 1, ..Counts::default() }
    );
}

#[test]
fn a_dependent_s_failure_names_the_root_and_not_its_log() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("lib", &[]), step("mid", &["lib"]), step("top", &["mid"])]))]);
    let effects = stage.end("lib", failed(FailureClass::BuildFailed));
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Notify(_, Notice::StepFinished { name, failure, .. }) if &**name == "top" => failure.clone(),
        _ => None,
    });
    let told = told.unwrap();
    assert_eq!(told.code, FailureCode::DependencyFailed);
    assert_eq!((&*told.cause, &*told.detail, told.drv), ("lib failed", "", Some(drv("lib"))));
}

#[test]
fn fail_fast_cancels_the_rest() {
    let mut stage = Stage::with_worker(2);
    stage.submit(RUN, RunRequest { on_failure: OnFailure::FailFast, ..build(None) });
    stage.discover(&["a", "b"]);
    stage.evaluate(AFTER, "a", Ok(wants(&[step("a", &[])])));
    stage.evaluate(AFTER, "b", Ok(wants(&[step("b", &[])])));
    let lease = stage.lease_of("b");
    stage.end("a", failed(FailureClass::BuildFailed));
    assert_eq!(stage.cancelled, BTreeSet::from([lease]));
    assert_eq!(stage.status(RUN, "b", Side::After), Some(TargetStatus::Cancelled));
    let finished = stage.finished(RUN).unwrap();
    assert_eq!(finished.outcome, Outcome::Partial);
    assert_eq!(finished.counts, Counts { wanted: 2, failed: 1, cancelled: 1, ..Counts::default() });
}

#[test]
fn a_transient_failure_rests_and_is_tried_again_until_it_is_final() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    for attempt in 1..=2 {
        stage.end("top", failed(FailureClass::Transient));
        assert!(stage.leased().is_empty(), "attempt {attempt} rests");
        stage.apply(Event::TimerFired { timer: Timer::RetryStep(drv("top")) });
        assert!(stage.leased().is_empty(), "an early timer is harmless");
        stage.fire_timers();
        assert_eq!(stage.leases.values().next().unwrap().2[0].attempt, attempt + 1);
    }
    stage.end("top", failed(FailureClass::Transient));
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::BuildFailed));
    let retried = stage.ends(RUN).iter().filter(|(_, status)| *status == StepStatus::Retried).count();
    assert_eq!(retried, 2);
}

#[test]
fn a_builder_s_failure_is_final_at_once() {
    for class in [FailureClass::BuildFailed, FailureClass::TimedOut, FailureClass::LogLimit] {
        let mut stage = Stage::with_worker(1);
        stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
        stage.end("top", failed(class));
        assert!(stage.finished(RUN).is_some(), "{class:?}");
    }
}

#[test]
fn a_lost_worker_requeues_its_batch() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.lose(WORKER);
    stage.join(WorkerId(2), 1, 1);
    assert_eq!(stage.leased(), ["top"]);
    assert_eq!(stage.leases.values().next().unwrap().2[0].attempt, 2);
    stage.build_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_step_that_loses_worker_after_worker_touches_three_of_them() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    for worker in 1..=3 {
        assert_eq!(stage.leased(), ["top"], "worker {worker}");
        stage.lose(WorkerId(worker));
        stage.join(WorkerId(worker + 1), 1, 1);
        stage.fire_timers();
    }
    let failure = stage.settled(RUN)[&("web".into(), Side::After)].failure.clone().unwrap();
    assert_eq!(failure.code, FailureCode::WorkerLost);
    assert_eq!(&*failure.cause, "3 workers were lost with it, the last was w3");
}

#[test]
fn a_stale_report_changes_nothing() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    let lease = stage.lease_of("top");
    let (worker, epoch, _) = stage.leases[&lease].clone();
    stage.lose(WORKER);
    stage.join(WorkerId(2), 1, 1);
    let report = StepReport::Ended {
        outcome: failed(FailureClass::BuildFailed),
        duration_ms: 1,
        output_bytes: 0,
        missing: Vec::new(),
    };
    let current = *stage.leases.first_key_value().unwrap().0;
    for (worker, lease, epoch) in [
        (worker, lease, epoch),
        (WorkerId(2), lease, epoch),
        (WorkerId(2), current, epoch),
        (worker, current, stage.leases[&current].1),
        (WorkerId(2), current, Epoch(u64::MAX)),
    ] {
        let event = Event::StepReported { worker, lease, epoch, drv: drv("top"), report: report.clone() };
        assert!(stage.apply(event).is_empty());
        assert!(stage.apply(Event::LeaseFinished { worker, lease, epoch }).is_empty());
    }
    assert_eq!(stage.leased(), ["top"]);
}

#[test]
fn a_report_that_comes_twice_counts_once() {
    let mut stage = Stage::with_worker(2);
    stage.run(RUN, &[("web", wants(&[step("a", &[]), step("b", &[]), step("top", &["a", "b"])]))]);
    let lease = stage.lease_of("a");
    let (worker, epoch, _) = stage.leases[&lease].clone();
    stage.built("a");
    let report = StepReport::Ended {
        outcome: StepOutcome::Built(Vec::new()),
        duration_ms: 1,
        output_bytes: 0,
        missing: Vec::new(),
    };
    assert!(stage.apply(Event::StepReported { worker, lease, epoch, drv: drv("a"), report }).is_empty());
}

#[test]
fn a_lease_that_ends_without_a_word_is_tried_again() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    let (lease, (worker, epoch, _)) = stage.leases.pop_first().unwrap();
    stage.apply(Event::LeaseFinished { worker, lease, epoch });
    stage.fire_timers();
    assert_eq!(stage.leased(), ["top"]);
}

#[test]
fn a_toplevel_that_cannot_be_realised_fails_its_target() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", there("top"))]);
    let (job, (worker, epoch, _)) = stage.realises.pop_first().unwrap();
    let result = Err(failure(FailureCode::BuildFailed, "no substituter has it"));
    stage.apply(Event::Realised { worker, job, epoch, result, missing: Vec::new() });
    assert_eq!(stage.status(RUN, "web", Side::After), Some(TargetStatus::BuildFailed));
}

#[test]
fn a_lost_worker_s_toplevels_are_realised_elsewhere() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.join(WorkerId(2), 1, 1);
    stage.built("top");
    assert_eq!(stage.realises.values().next().unwrap().0, WORKER, "its builder has it");
    stage.lose(WORKER);
    assert_eq!(stage.realises.values().next().unwrap().0, WorkerId(2));
    stage.realise_all();
    assert_eq!(stage.finished(RUN).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_run_that_takes_too_long_is_cancelled_and_says_so() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("top", &[])]))]);
    stage.apply(Event::TimerFired { timer: Timer::RunDeadline(RUN) });
    assert!(stage.finished(RUN).is_none(), "it is not due yet");
    stage.fire(|timer| *timer == Timer::RunDeadline(RUN));
    let finished = stage.finished(RUN).unwrap();
    assert_eq!(
        (finished.outcome, finished.failure.unwrap().code),
        (Outcome::Cancelled, FailureCode::TimedOut)
    );
    assert_eq!(stage.cancelled.len(), 1);
}

#[test]
fn a_deep_chain_fails_without_recursion() {
    let length = 20_000;
    let names: Vec<String> = (0..length).map(|number| format!("s{number}")).collect();
    let steps: Vec<NewStep> = (0..length)
        .map(|at| {
            step(&names[at], &names[at.saturating_sub(1)..at].iter().map(String::as_str).collect::<Vec<_>>())
        })
        .collect();
    let mut fleet = Fleet::new(plain());
    let mut sent = Vec::new();
    let mut apply = |fleet: &mut Fleet, event| {
        sent.extend(fleet.apply(Time(1), event).into_iter().filter_map(|effect| match effect {
            Effect::Send(_, command) => Some(command),
            _ => None,
        }));
        sent.pop()
    };
    let hello = WorkerHello {
        name: "w".into(),
        systems: vec!["x86_64-linux".into()],
        features: Vec::new(),
        slots: 1,
        eval_slots: 1,
        ..WorkerHello::default()
    };
    let joined =
        Event::WorkerJoined { worker: WORKER, session: crate::id::Session(1), hello, holds: Vec::new() };
    apply(&mut fleet, joined);
    let command = apply(&mut fleet, Event::RunSubmitted { run: RUN, request: build(None) });
    let Some(Command::StartEval { job, epoch, .. }) = command else { panic!("a discovery comes first") };
    let report = EvalReport::Discovered(vec![host("web")]);
    let command = apply(&mut fleet, Event::EvalReported { worker: WORKER, job, epoch, report });
    let Some(Command::StartEval { job, epoch, .. }) = command else { panic!("then an evaluation") };
    let report = EvalReport::HostEvaluated { host: host("web"), result: Ok(wants(&steps)) };
    let command = apply(&mut fleet, Event::EvalReported { worker: WORKER, job, epoch, report });
    let Some(Command::StartLease { lease, epoch, .. }) = command else { panic!("then a lease") };
    assert_eq!(fleet.step_view(&drv("s0")).unwrap().rank as usize, length - 1);
    let report = StepReport::Ended {
        outcome: failed(FailureClass::BuildFailed),
        duration_ms: 1,
        output_bytes: 0,
        missing: Vec::new(),
    };
    apply(&mut fleet, Event::StepReported { worker: WORKER, lease, epoch, drv: drv("s0"), report });
    let finished = fleet.run_view(RUN).unwrap().finished.unwrap();
    assert_eq!(finished.counts.failed as usize, length);
    invariant::check(&fleet).unwrap();
}
