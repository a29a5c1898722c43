//! What later runs believe of steps that failed, and what attempts may take.

use super::*;

const OTHER: RunId = RunId(2);

fn remembering() -> Stage {
    let mut stage = Stage::new(FleetConfig { remember_failures: 2, ..plain() });
    stage.join(WORKER, 4, 1);
    stage
}

fn lib_and_top() -> Evaluated {
    wants(&[step("lib", &[]), step("top", &["lib"])])
}

fn retry() -> RunRequest {
    RunRequest { earlier_failures: EarlierFailures::Retry, ..build(None) }
}

fn limited(timeout_s: Option<u32>) -> RunRequest {
    RunRequest { limits: StepLimits { timeout_s, ..StepLimits::default() }, ..build(None) }
}

impl Stage {
    fn run_as(&mut self, run: RunId, request: RunRequest, evaluated: Evaluated) {
        self.submit(run, request);
        self.discover(&["web"]);
        self.evaluate(AFTER, "web", Ok(evaluated));
        self.finish_evals();
    }

    fn failure_of(&self, run: RunId) -> Failure {
        self.settled(run)[&("web".into(), Side::After)].failure.clone().unwrap()
    }
}

#[test]
fn a_later_run_fails_at_once_with_the_earlier_failure() {
    let mut stage = remembering();
    stage.run(RUN, &[("web", lib_and_top())]);
    stage.end("lib", failed(FailureClass::BuildFailed));
    assert!(stage.finished(RUN).is_some());
    stage.run(OTHER, &[("web", lib_and_top())]);
    assert!(stage.leased().is_empty());
    let failure = stage.failure_of(OTHER);
    assert_eq!((failure.code, failure.drv.clone()), (FailureCode::BuildFailed, Some(drv("lib"))));
    assert_eq!(&*failure.cause, "it failed in an earlier run: builder failed");
    assert_eq!(&*failure.detail, "log of builder failed");
    assert_eq!(stage.finished(OTHER).unwrap().counts.failed, 2);
}

#[test]
fn an_earlier_failure_outlasts_restarts_and_condensation() {
    let mut stage = remembering();
    stage.run(RUN, &[("web", lib_and_top())]);
    stage.end("lib", failed(FailureClass::BuildFailed));
    stage.records = stage.fleet.condense().unwrap();
    stage.fleet = stage.restored();
    stage.run(OTHER, &[("web", lib_and_top())]);
    assert!(stage.leased().is_empty());
}

#[test]
fn whoever_asks_for_it_has_earlier_failures_tried_again() {
    let mut stage = remembering();
    stage.run(RUN, &[("web", lib_and_top())]);
    stage.end("lib", failed(FailureClass::BuildFailed));
    stage.run_as(OTHER, retry(), lib_and_top());
    assert_eq!(stage.leased(), ["lib"]);
    stage.build_all();
    assert_eq!(stage.finished(OTHER).unwrap().outcome, Outcome::Succeeded);
    stage.run(RunId(3), &[("web", lib_and_top())]);
    stage.build_all();
    assert_eq!(stage.finished(RunId(3)).unwrap().outcome, Outcome::Succeeded, "it is forgotten");
}

#[test]
fn a_retry_changes_nothing_for_a_run_that_saw_the_failure() {
    let mut stage = remembering();
    stage.run(RUN, &[("a", wants(&[step("slow", &[])])), ("b", lib_and_top())]);
    stage.end("lib", failed(FailureClass::BuildFailed));
    stage.run_as(OTHER, retry(), lib_and_top());
    assert_eq!(stage.leased(), ["slow", "lib"]);
    stage.build_all();
    assert_eq!(stage.finished(OTHER).unwrap().outcome, Outcome::Succeeded);
    let finished = stage.finished(RUN).unwrap();
    assert_eq!((finished.outcome, finished.counts.failed), (Outcome::Partial, 2));
}

#[test]
fn a_retried_step_that_fails_in_the_same_run_is_not_tried_for_ever() {
    let mut stage = remembering();
    stage.submit(RUN, retry());
    stage.discover(&["a", "b"]);
    stage.evaluate(AFTER, "a", Ok(lib_and_top()));
    stage.end("lib", failed(FailureClass::BuildFailed));
    stage.evaluate(AFTER, "b", Ok(wants(&[step("lib", &[]), step("other", &["lib"])])));
    assert!(stage.leased().is_empty());
    assert!(stage.finished(RUN).is_some());
}

#[test]
fn only_what_is_the_derivation_s_own_fault_is_remembered() {
    use FailureClass::*;
    for class in
        [Infrastructure, DiskFull, OutOfMemory, Transfer, DaemonGone, Transient, Placement, InputMissing]
    {
        let mut stage = remembering();
        stage.run(RUN, &[("web", lib_and_top())]);
        while stage.finished(RUN).is_none() {
            if stage.leased().is_empty() {
                stage.fire_timers();
            } else {
                stage.end("lib", failed(class));
            }
        }
        stage.run(OTHER, &[("web", lib_and_top())]);
        assert_eq!(stage.leased(), ["lib"], "{class:?}");
    }
    let mut stage = remembering();
    let fetched = NewStep { fixed_output: true, ..step("top", &[]) };
    stage.run(RUN, &[("web", wants(std::slice::from_ref(&fetched)))]);
    for _ in 0..3 {
        stage.end("top", failed(FailureClass::BuildFailed));
        stage.fire_timers();
    }
    assert!(stage.finished(RUN).is_some());
    stage.run(OTHER, &[("web", wants(&[fetched]))]);
    assert_eq!(stage.leased(), ["top"], "what is fetched may be there next time");
}

#[test]
fn remembered_failures_are_bounded() {
    let mut stage = remembering();
    for (run, name) in (1..).zip(["a", "b", "c"]) {
        stage.run(RunId(run), &[("web", wants(&[step(name, &[])]))]);
        stage.end(name, failed(FailureClass::BuildFailed));
    }
    stage.run(RunId(9), &[("web", wants(&[step("a", &[])]))]);
    assert_eq!(stage.leased(), ["a"], "the oldest is forgotten");
}

#[test]
fn the_most_generous_run_sets_a_step_s_limits() {
    let mut stage = remembering();
    let slow = wants(&[step("slow", &[]), step("top", &["slow"])]);
    stage.run_as(RUN, limited(Some(5)), slow.clone());
    stage.run_as(OTHER, limited(Some(50_000)), slow);
    assert_eq!(stage.leases.values().next().unwrap().2[0].limits.timeout_s, Some(5), "it was leased before");
    stage.built("slow");
    let limits = stage.leases.values().next().unwrap().2[0].limits;
    let config = plain().limits;
    assert_eq!(
        limits,
        StepLimits { timeout_s: Some(50_000), ..config },
        "where nobody says, the settings do"
    );
}

#[test]
fn one_run_s_short_timeout_fails_no_other_run() {
    let mut stage = remembering();
    stage.run_as(RUN, limited(Some(5)), lib_and_top());
    stage.run_as(OTHER, limited(None), lib_and_top());
    stage.end("lib", failed(FailureClass::TimedOut));
    let again = stage.leases.values().next().unwrap().2[0].clone();
    assert_eq!((again.attempt, again.limits.timeout_s), (2, plain().limits.timeout_s));
    stage.build_all();
    assert_eq!(stage.finished(OTHER).unwrap().outcome, Outcome::Succeeded);
}

#[test]
fn a_failure_at_a_limit_is_believed_only_under_that_limit() {
    let mut stage = remembering();
    stage.run_as(RUN, limited(Some(5)), lib_and_top());
    stage.end("lib", failed(FailureClass::TimedOut));
    assert_eq!(stage.failure_of(RUN).code, FailureCode::BuildFailed, "as the worker says");
    stage.run_as(OTHER, limited(Some(4)), lib_and_top());
    assert!(stage.finished(OTHER).is_some(), "it cannot do better");
    stage.run_as(RunId(3), limited(None), lib_and_top());
    assert_eq!(stage.leased(), ["lib"]);
}
