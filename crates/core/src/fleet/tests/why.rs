//! Why something is not done, in words.

use super::*;
use crate::view::WhyView;

fn why(stage: &Stage, selector: &str) -> WhyView {
    let mut answers = stage.fleet.why(None, selector, 10);
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0)
}

fn reasons(view: &WhyView) -> Vec<String> {
    view.rejections.iter().map(|rejection| format!("{} {}", rejection.worker, rejection.reason)).collect()
}

#[test]
fn a_host_waits_for_the_step_that_blocks_it() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", wants(&[step("lib", &[]), step("mid", &["lib"]), step("top", &["mid"])]))]);
    let view = why(&stage, "web");
    assert_eq!(view.subject, "web, after");
    assert_eq!(view.state, "it waits for lib: it is being built by w1");
    let chain: Vec<&str> = view.chain.iter().map(|step| &*step.name).collect();
    assert_eq!(chain, ["top", "mid", "lib"]);
    stage.end("lib", failed(FailureClass::Transient));
    assert_eq!(why(&stage, "web").state, "it waits for lib: it failed attempt 1 and rests for 1 s");
    let path = "/nix/store/lib.drv";
    assert_eq!(why(&stage, path).state, "it failed attempt 1 and rests for 1 s");
    stage.fire_timers();
    stage.build_all();
    assert!(stage.fleet.why(None, "web", 10).is_empty(), "the run is over");
    assert_eq!(why(&stage, "lib.drv").state, "it is built");
}

#[test]
fn a_step_without_a_worker_says_who_does_not_take_it_and_until_when_it_waits() {
    let mut stage = Stage::with_worker(1);
    stage.join_as(WorkerId(2), &["aarch64-linux"], &[], 1, 0);
    stage.join_as(WorkerId(3), &["aarch64-linux"], &["kvm"], 0, 0);
    let arm = NewStep { system: "aarch64-linux".into(), features: vec!["kvm".into()], ..step("top", &[]) };
    stage.run(RUN, &[("web", wants(&[arm]))]);
    let view = why(&stage, "web");
    let waits = "it waits for a worker for aarch64-linux with kvm; there is none, and it fails in 600 s";
    assert_eq!(view.state, waits);
    let expected = ["w1 builds for x86_64-linux only", "w2 does not offer kvm", "w3 builds nothing"];
    assert_eq!(reasons(&view), expected);
}

#[test]
fn each_worker_s_standing_is_its_reason() {
    let mut stage = Stage::new(FleetConfig { quarantine_after: 1, away_ms: 5, ..plain() });
    for worker in (1..=8).map(WorkerId) {
        stage.join(worker, 1, 0);
    }
    for (worker, order) in [(1, WorkerOrder::Drain), (2, WorkerOrder::Revoke)] {
        let name = format!("w{worker}").into();
        let worker = WorkerId(worker);
        stage.apply(Event::WorkerOrdered { worker, name, order, reason: "so".into() });
    }
    let (worker, session) = (WorkerId(3), stage.sessions[&WorkerId(3)]);
    let load = Load { unwell: Some("its disk is full".into()), ..Load::default() };
    stage.apply(Event::WorkerHeard { worker, session, load });
    stage.part(WorkerId(4));
    let mandatory = WorkerHello { mandatory_features: vec!["big".into()], ..hello(WorkerId(5)) };
    stage.join_with(WorkerId(5), mandatory, &[]);
    stage.join(WorkerId(9), 0, 1);
    let steps: Vec<NewStep> = ["a", "b", "c", "d"].map(|name| step(name, &[])).to_vec();
    let top = step("top", &["a", "b", "c", "d"]);
    stage.run(RUN, &[("web", wants(&[steps, vec![top]].concat()))]);
    assert_eq!(stage.leases[&stage.lease_of("a")].0, WorkerId(6));
    stage.end("a", failed(FailureClass::DiskFull));
    stage.fire(|timer| matches!(timer, Timer::RetryStep(_)));
    let view = why(&stage, "d.drv");
    let expected = [
        "w1 is drained: so",
        "w2 is revoked: so",
        "w3 is not well: its disk is full",
        "w4 is away",
        "w5 takes only what requires big",
        "w6 is quarantined: it failed 1 steps in a row, the last one because builder failed",
        "w7 all 1 slots are taken",
        "w8 all 1 slots are taken",
        "w9 builds nothing",
    ];
    assert_eq!(reasons(&view), expected);
}

#[test]
fn a_host_that_nobody_evaluates_says_so() {
    let mut stage = Stage::new(plain());
    stage.join(WORKER, 1, 1);
    stage.submit(RUN, build(None));
    stage.discover(&["a", "b"]);
    stage.part(WORKER);
    stage.join(WorkerId(2), 1, 0);
    let view = why(&stage, "b");
    assert_eq!(view.state, "it waits for an evaluator; there is none, and it fails in 600 s");
    assert_eq!(reasons(&view), ["w1 is gone", "w2 does not evaluate"]);
}

#[test]
fn a_target_that_failed_says_why() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("db", wants(&[step("db", &[])])), ("web", wants(&[step("web", &[])]))]);
    stage.end("db", failed(FailureClass::BuildFailed));
    assert_eq!(why(&stage, "db").state, "it failed: builder failed");
    assert!(stage.fleet.why(Some(RunId(9)), "db", 10).is_empty());
    assert!(stage.fleet.why(None, "nothing", 10).is_empty());
}
