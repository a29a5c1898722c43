//! The coordinator stops and starts again, at any point: nothing is lost, nothing is built twice, and who watched
//! goes on watching.

use std::time::Duration;

use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::{OutcomeClass, RunOutcome};
use tonic::Code;
use tonic::transport::Channel;

use crate::diligent::Diligent;
use crate::scripted::{
    ScriptedWorker, Served, Step, Watcher, cancel, finished, logs, request, serve_durably, submit, within,
};

/// Enough for a run of three hosts, and for its repetition.
const MOST_TURNS: usize = 200;

fn steps() -> (Step, Step, Step, Step) {
    let base = Step::new("base", &[]);
    let (one, two) = (Step::new("one", &[&base]), Step::new("two", &[&base]));
    let three = Step::new("three", &[]);
    (base, one, two, three)
}

/// What a client has seen of a run, over as many streams as it takes.
#[derive(Default)]
struct Seen(Vec<v1::RunEvent>);

impl Seen {
    /// Takes what is there; true when the run is over.
    async fn look(&mut self, channel: &Channel, run: &str, patience_ms: u64) -> bool {
        let mut watcher = Watcher::new(channel, run, self.0.len() as u64, false).await;
        loop {
            match tokio::time::timeout(Duration::from_millis(patience_ms), watcher.0.message()).await {
                Ok(Ok(Some(event))) => {
                    assert_eq!(event.sequence, self.0.len() as u64 + 1, "a gap or a repetition");
                    self.0.push(event);
                }
                Ok(Ok(None)) => return true,
                _ => return false,
            }
        }
    }
}

/// How much of what was said the coordinator takes in before it crashes.
#[derive(Clone, Copy, Debug)]
enum Crash {
    /// All of it.
    Settled,
    /// What it can while others yield so many times.
    Within(usize),
}

/// Runs three hosts; the coordinator crashes before the turn of this number. Gives how many turns there were.
async fn crash_at(turn: usize, crash: Crash) -> usize {
    let (base, one, two, three) = steps();
    let hosts = [("a", vec![&base, &one]), ("b", vec![&base, &two]), ("c", vec![&three])];
    let mut worker = Diligent::new("w", &hosts);
    let mut served = serve_durably().await;
    worker.join(&served.channel).await.expect("let in");
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let mut seen = Seen::default();
    let mut turns = 0;
    let mut crashed = false;
    loop {
        let now = turns == turn && !crashed;
        match crash {
            Crash::Within(yields) if now => {
                for _ in 0..yields {
                    tokio::task::yield_now().await;
                }
            }
            _ if seen.look(&served.channel, &run, if now { 20 } else { 1 }).await => break,
            _ => {}
        }
        assert!(turns < MOST_TURNS, "the run does not end");
        if now {
            crashed = true;
            served = served.crash().await;
            worker.lose_session();
            worker.join(&served.channel).await.expect("let in again");
            assert_eq!(submit(&served.channel, request("k")).await.expect("known"), run);
        }
        // Nothing to hear is no turn: the client looks again.
        if let Ok(heard) = tokio::time::timeout(Duration::from_millis(200), worker.turn()).await {
            assert!(heard, "the session ended");
            turns += 1;
        }
    }
    check(&served, &run, &seen.0, &worker).await;
    turns
}

async fn check(served: &Served, run: &str, seen: &[v1::RunEvent], worker: &Diligent) {
    let end = finished(seen);
    assert_eq!(end.outcome(), RunOutcome::Succeeded, "{end:?}");
    let counts = end.counts.expect("counts");
    assert_eq!((counts.wanted, counts.built, counts.failed), (4, 4, 0));
    let ends = seen.iter().filter(|event| matches!(event.event, Some(Event::RunFinished(_)))).count();
    assert_eq!(ends, 1);
    assert_eq!(worker.built.len(), 4);
    assert!(worker.built.values().all(|times| *times == 1), "built twice: {:?}", worker.built);
    for drv in worker.built.keys() {
        let log = logs(&served.channel, "", drv, 0).await.expect("kept");
        assert_eq!(String::from_utf8_lossy(&log.data), "one\ntwo\n", "{drv}");
    }
    assert_eq!(Watcher::new(&served.channel, run, 0, false).await.rest().await, seen, "asked again");
}

#[tokio::test]
async fn a_coordinator_that_crashes_at_any_point_loses_nothing_and_builds_nothing_twice() {
    let turns = Box::pin(crash_at(usize::MAX, Crash::Settled)).await;
    assert!(turns > 10, "{turns}");
    for turn in 0..turns {
        for crash in [Crash::Settled, Crash::Within(turn * 13 % 97)] {
            println!("crash before turn {turn} of {turns}: {crash:?}");
            Box::pin(crash_at(turn, crash)).await;
        }
    }
}

#[tokio::test]
async fn a_run_that_is_over_stays_as_it_ended_and_a_key_stands_for_one_request_for_ever() {
    let served = serve_durably().await;
    let (base, ..) = steps();
    let mut worker = Diligent::new("w", &[("a", vec![&base])]);
    worker.join(&served.channel).await.expect("let in");
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let mut seen = Seen::default();
    while !seen.look(&served.channel, &run, 1).await {
        // Whatever there is to hear.
        let _ = tokio::time::timeout(Duration::from_millis(50), worker.turn()).await;
    }
    let listed = list(&served.channel).await;
    let shown = show(&served.channel, &run).await;
    let served = served.crash().await;
    assert_eq!(submit(&served.channel, request("k")).await.expect("known"), run);
    assert_eq!(Watcher::new(&served.channel, &run, 0, false).await.rest().await, seen.0);
    assert_eq!(list(&served.channel).await, listed);
    assert_eq!(show(&served.channel, &run).await, shown);
    assert_eq!(shown.targets.len(), 1);
    let asked = shown.request.expect("as it was asked for");
    assert_eq!(asked.idempotency_key, "", "a key is its owner's");
    assert!(asked.after.expect("a source").manifest.is_none());
    let other = v1::SubmitRequest { dry_run: true, ..request("k") };
    assert_eq!(submit(&served.channel, other).await.expect_err("refused").code(), Code::AlreadyExists);
}

async fn list(channel: &Channel) -> Vec<v1::RunSummary> {
    let mut client = v1::runs_client::RunsClient::new(channel.clone());
    within(client.list(v1::ListRunsRequest::default())).await.expect("listed").into_inner().runs
}

async fn show(channel: &Channel, run: &str) -> v1::RunDetail {
    let mut client = v1::runs_client::RunsClient::new(channel.clone());
    within(client.show(v1::ShowRunRequest { run: run.to_owned() })).await.expect("shown").into_inner()
}

/// A worker that holds leases, until its next session.
fn hello(holds: &[&v1::Lease]) -> v1::Hello {
    let held = |lease: &&v1::Lease| v1::HeldLease { lease: lease.lease, epoch: lease.epoch };
    v1::Hello {
        name: "w".to_owned(),
        systems: vec!["x86_64-linux".to_owned()],
        slots: 1,
        eval_slots: 1,
        boot_id: "boot".to_owned(),
        instance_id: "instance".to_owned(),
        holds: holds.iter().map(held).collect(),
        protocol: 1,
        ..v1::Hello::default()
    }
}

#[tokio::test]
async fn a_lease_is_adopted_with_its_log_and_one_that_is_not_held_is_built_elsewhere() {
    let served = serve_durably().await;
    let (mut worker, _) = ScriptedWorker::greet(&served.channel, hello(&[])).await.expect("let in");
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    let mut watcher = Watcher::new(&served.channel, &run, 0, true).await;
    watcher.until(|event| matches!(event, Event::StepStarted(_))).await;
    worker.log(&lease, b"before\n").await;
    watcher.until(|event| matches!(event, Event::StepLog(_))).await;

    let served = served.crash().await;
    let (worker, _) = ScriptedWorker::greet(&served.channel, hello(&[&lease])).await.expect("let in");
    let mut watcher = Watcher::new(&served.channel, &run, 0, true).await;
    watcher.until(|event| matches!(event, Event::StepStarted(_))).await;
    // Said again, as after every loss of a session; what follows is new.
    worker.log(&lease, b"before\nafter\n").await;
    let Event::StepLog(line) = watcher.until(|event| matches!(event, Event::StepLog(_))).await else {
        unreachable!("it was asked for")
    };
    assert_eq!(String::from_utf8_lossy(&line.data), "after\n");
    let served = served.crash().await;
    // This time it has forgotten the lease: another attempt follows at once.
    drop(worker);
    let (mut again, _) = ScriptedWorker::greet(&served.channel, hello(&[])).await.expect("let in");
    let second = again.hear_lease().await;
    assert_eq!(second.steps[0].attempt, 2);
    assert!(second.epoch > lease.epoch);
    // The first is not the worker's any more, whatever it says.
    again.report(&lease, OutcomeClass::BuildFailed, &step).await;
    match again.hear().await {
        FromCoordinator::CancelLease(taken) => {
            assert_eq!((taken.lease, taken.epoch), (lease.lease, lease.epoch));
        }
        other => panic!("what is stale is not taken back: {other:?}"),
    }
    again.report(&second, OutcomeClass::Built, &step).await;
    again.realise().await;
    let events = Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    assert_eq!(finished(&events).outcome(), RunOutcome::Succeeded);
    let kept = logs(&served.channel, "", step.drv(), 1).await.expect("kept");
    assert_eq!(String::from_utf8_lossy(&kept.data), "before\nafter\n");
}

#[tokio::test]
async fn a_restored_backup_uses_no_epoch_again() {
    let served = serve_durably().await;
    submit(&served.channel, request("k")).await.expect("taken");
    let served = served.crash().await;
    let copy = tempfile::tempdir().expect("temporary directory");
    copy_all(served.state.path(), copy.path());
    // Both go on from the same history, one after the other.
    let served = served.crash().await;
    let (mut worker, first) = ScriptedWorker::greet(&served.channel, hello(&[])).await.expect("let in");
    let job = worker.hear_eval().await;
    let restored = served.crash_and_restore(copy).await;
    let (mut worker, second) = ScriptedWorker::greet(&restored.channel, hello(&[])).await.expect("let in");
    let again = worker.hear_eval().await;
    assert!(again.epoch > job.epoch, "{} follows {}", again.epoch, job.epoch);
    assert!(second.epoch > first.epoch, "sessions are numbered anew");
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir_all(&target).expect("creates");
            copy_all(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copies");
        }
    }
}

#[tokio::test]
async fn a_run_that_waits_for_its_first_worker_waits_through_restarts_and_can_be_cancelled() {
    let served = serve_durably().await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let served = served.crash().await;
    let served = served.crash().await;
    cancel(&served.channel, &run).await.expect("known");
    let events = Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    assert_eq!(finished(&events).outcome(), RunOutcome::Cancelled);
    let served = served.crash().await;
    assert_eq!(Watcher::new(&served.channel, &run, 0, false).await.rest().await, events);
}
