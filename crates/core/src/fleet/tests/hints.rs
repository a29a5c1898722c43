//! Hints: busy workers fetch ahead for what they will probably build, and get it if nothing is more urgent.

use super::*;

/// What workers were told to fetch ahead for, in order.
fn told(effects: &[Effect]) -> Vec<(WorkerId, String)> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Send(worker, Command::Prefetch { drv, .. }) => Some((*worker, name_of(drv.as_str()))),
        _ => None,
    });
    told.collect()
}

fn fan(names: &[&str]) -> Evaluated {
    let steps: Vec<NewStep> = names.iter().map(|name| step(name, &[])).collect();
    wants(&[steps, vec![step("top", names)]].concat())
}

fn two_workers() -> Stage {
    let mut stage = Stage::with_worker(1);
    stage.join(WorkerId(2), 1, 0);
    stage
}

#[test]
fn each_busy_worker_expects_one_step_and_no_two_the_same() {
    let mut stage = two_workers();
    stage.run(RUN, &[("web", fan(&["a", "b", "c", "d", "e"]))]);
    let expected = [(WorkerId(1), "c".to_owned()), (WorkerId(2), "d".to_owned())];
    assert_eq!(told(&stage.effects), expected);
    let lease = stage.lease_of("a");
    let epoch = stage.leases[&lease].1;
    let right = |effect: &Effect| {
        matches!(effect, Effect::Send(WORKER, Command::Prefetch { lease: by, epoch: at, .. })
            if (*by, *at) == (lease, epoch))
    };
    assert!(stage.effects.iter().any(right), "by the right of what it builds");
}

#[test]
fn who_expects_a_step_gets_it_though_another_came_first() {
    let mut stage = two_workers();
    stage.run(RUN, &[("web", fan(&["a", "b", "c", "d", "e"]))]);
    let effects = stage.built("b");
    assert_eq!(stage.leases[&stage.lease_of("d")].0, WorkerId(2));
    assert_eq!(told(&effects), [(WorkerId(2), "e".to_owned())]);
    let effects = stage.built("a");
    assert_eq!(stage.leases[&stage.lease_of("c")].0, WORKER);
    assert_eq!(told(&effects), [], "e is expected already");
}

#[test]
fn what_is_much_more_urgent_goes_first() {
    let mut stage = two_workers();
    stage.run(RUN, &[("web", fan(&["a", "b", "c", "d"]))]);
    let mut steps = vec![step("urgent", &[])];
    for number in 0..5 {
        let below = steps.last().unwrap().name.to_string();
        steps.push(step(&format!("chain{number}"), &[&below]));
    }
    stage.run(RunId(2), &[("db", wants(&steps))]);
    stage.built("b");
    assert_eq!(stage.leases[&stage.lease_of("urgent")].0, WorkerId(2));
}

#[test]
fn a_step_that_is_no_longer_ready_is_expected_by_nobody() {
    let mut stage = Stage::with_worker(1);
    stage.run(RUN, &[("web", fan(&["a", "b"]))]);
    assert_eq!(told(&stage.effects), [(WORKER, "b".to_owned())]);
    stage.join(WorkerId(2), 1, 0);
    assert_eq!(stage.leases[&stage.lease_of("b")].0, WorkerId(2), "room is not left unused");
    let effects = stage.built("a");
    assert_eq!(told(&effects), []);
}

#[test]
fn nobody_fetches_ahead_without_need_or_leave() {
    let local = |name| NewStep { prefer_local: true, ..step(name, &[]) };
    let mut stage = Stage::with_worker(1);
    let steps = [local("a"), local("b"), step("top", &["a", "b"])];
    stage.run(RUN, &[("web", wants(&steps))]);
    assert_eq!(told(&stage.effects), [], "its inputs are where it is built");
    let mut stage = Stage::new(FleetConfig { prefetch: false, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", fan(&["a", "b"]))]);
    assert_eq!(told(&stage.effects), []);
    let mut stage = Stage::with_worker(1);
    stage.apply(Event::WorkerOrdered {
        worker: WORKER,
        name: "w1".into(),
        order: WorkerOrder::Drain,
        reason: "so".into(),
    });
    stage.join(WorkerId(2), 1, 1);
    stage.run(RUN, &[("web", fan(&["a", "b"]))]);
    assert_eq!(told(&stage.effects), [(WorkerId(2), "b".to_owned())], "a drained worker gets nothing more");
}

#[test]
fn a_restart_forgets_what_was_expected_and_tells_again() {
    let mut stage = Stage::new(FleetConfig { away_ms: 10_000, ..plain() });
    stage.join(WORKER, 1, 1);
    stage.run(RUN, &[("web", fan(&["a", "b"]))]);
    let (lease, (_, epoch, _)) = stage.leases.first_key_value().unwrap();
    let holds = [(*lease, *epoch)];
    stage.fleet = stage.restored();
    assert_eq!(told(&stage.apply(Event::Restarted { epoch_floor: Epoch(0) })), []);
    let before = stage.effects.len();
    stage.join_with(WORKER, hello(WORKER), &holds);
    assert_eq!(told(&stage.effects[before..]), [(WORKER, "b".to_owned())]);
}
