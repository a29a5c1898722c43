//! The coordinator as its workers and clients meet it: the real services, with peers that keep to a script.

mod diligent;
mod malformed;
mod paths;
mod restarts;
mod scripted;
mod whereabouts;

use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;
use fleet_wire::v1::coordinator_message::Message as FromCoordinator;
use fleet_wire::v1::run_event::Event;
use fleet_wire::v1::worker_message::Message;
use scripted::{
    ScriptedWorker, Step, Watcher, cancel, failures, finished, logs, reported, request, serve, serve_with,
    source, submit,
};
use tonic::Code;

#[tokio::test]
async fn a_session_has_one_hello_and_begins_with_it() {
    let served = serve().await;
    let heartbeat = Message::Heartbeat(v1::Heartbeat::default());
    let refused = ScriptedWorker::open(&served.channel, heartbeat).await.err().expect("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    worker.say(Message::Hello(v1::Hello::default())).await;
    assert_eq!(worker.end().await.expect_err("ended").code(), Code::FailedPrecondition);
    let worker = ScriptedWorker::join(&served.channel, "w2", 1, 1).await;
    worker.say_nothing().await;
    assert_eq!(worker.end().await.expect_err("ended").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_forged_derivation_ends_the_session_and_is_not_kept() {
    let served = serve().await;
    let worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let mut forged = Step::new("honest", &[]).derivation;
    forged.aterm = Step::new("hidden", &[]).derivation.aterm;
    worker.say(Message::DerivationsSeen(v1::DerivationsSeen { derivations: vec![forged] })).await;
    let status = worker.end().await.expect_err("ended");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("is really"), "{status}");
}

#[tokio::test]
async fn a_host_that_wants_an_unknown_derivation_fails_by_its_name() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("unsent", &[]);
    let mut job = worker.discover(&["a"]).await;
    // Infrastructure failures are tried again.
    for last in [false, false, true] {
        worker.evaluated_without_telling(&job, "a", &[&step]).await;
        if !last {
            job = worker.hear_eval().await;
        }
    }
    let events = Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    let cause = &failures(&events)[0].cause;
    assert!(cause.contains(step.drv()) && cause.contains("never sent"), "{cause}");
}

#[tokio::test]
async fn a_run_goes_from_its_source_to_its_toplevel() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    assert_eq!(lease.steps[0].drv, step.drv());
    worker.report(&lease, OutcomeClass::Built, &step).await;
    worker.realise().await;
    let events = Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    assert_eq!(finished(&events).outcome(), v1::RunOutcome::Succeeded);
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=events.len() as u64).collect::<Vec<_>>());
}

#[tokio::test]
async fn reports_of_an_older_epoch_or_another_worker_change_nothing() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let stranger = ScriptedWorker::join(&served.channel, "stranger", 0, 0).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    let mut watcher = Watcher::new(&served.channel, &run, 0, true).await;

    let stale = v1::Lease { epoch: lease.epoch.wrapping_sub(1), ..lease.clone() };
    worker.log(&stale, b"of an older epoch\n").await;
    worker.report(&stale, OutcomeClass::BuildFailed, &step).await;
    match worker.hear().await {
        FromCoordinator::CancelLease(taken) => {
            assert_eq!((taken.lease, taken.epoch), (stale.lease, stale.epoch));
        }
        other => panic!("what is stale is not taken back: {other:?}"),
    }
    stranger.log(&lease, b"of a stranger\n").await;
    let phase = v1::StepPhased { lease: lease.lease, drv: step.drv().to_owned(), phase: "strange".into() };
    stranger.say(Message::StepPhased(phase)).await;
    stranger.report(&lease, OutcomeClass::BuildFailed, &step).await;
    // All of the stranger is heard before what the worker goes on to say: its session was ended for another
    // hello after it.
    stranger.say(Message::Hello(v1::Hello::default())).await;
    assert!(stranger.end().await.is_err());

    worker.log(&lease, b"of the holder\n").await;
    worker.report(&lease, OutcomeClass::Built, &step).await;
    let job = worker.hear_realise().await;
    worker.say(Message::PathsRealised(infos(&job, job.epoch.wrapping_sub(1), "stale"))).await;
    worker.say(Message::PathsRealised(infos(&job, job.epoch, "own"))).await;
    let done = v1::PathsRealised { job: job.job, epoch: job.epoch, done: true, ..Default::default() };
    worker.say(Message::PathsRealised(done)).await;

    let events = watcher.rest().await;
    assert_eq!(finished(&events).outcome(), v1::RunOutcome::Succeeded);
    let mut said = Vec::new();
    for event in &events {
        match event.event.as_ref().expect("an event") {
            Event::StepLog(log) => said.push(String::from_utf8_lossy(&log.data).into_owned()),
            Event::StepPhase(phase) => said.push(phase.phase.clone()),
            Event::PathInfos(infos) => said.push(infos.infos[0].pname.clone()),
            _ => {}
        }
    }
    assert_eq!(said, ["of the holder\n", "own"]);
    let log = logs(&served.channel, "", step.drv(), 0).await.expect("kept");
    assert_eq!(log.data, b"of the holder\n");
}

fn infos(job: &v1::Realise, epoch: u64, pname: &str) -> v1::PathsRealised {
    let info = v1::PathInfo {
        path: job.path.clone(),
        nar_hash: vec![0; 32].into(),
        pname: pname.to_owned(),
        ..v1::PathInfo::default()
    };
    v1::PathsRealised { job: job.job, epoch, infos: vec![info], ..v1::PathsRealised::default() }
}

#[tokio::test]
async fn watchers_resume_after_any_event_without_loss() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let mut first = Watcher::new(&served.channel, &run, 0, false).await;
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    first.until(|event| matches!(event, Event::StepStarted(_))).await;
    drop(first);
    worker.report(&lease, OutcomeClass::Built, &step).await;
    worker.realise().await;
    let all = Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    for seen in 0..=all.len() {
        let rest = Watcher::new(&served.channel, &run, seen as u64, false).await.rest().await;
        assert_eq!(rest, all[seen..], "after {seen}");
    }
    let beyond = Watcher::new(&served.channel, &run, u64::MAX, false).await.rest().await;
    assert!(beyond.is_empty());
}

#[tokio::test]
async fn a_slow_watcher_loses_log_lines_but_no_event() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    let mut slow = Watcher::new(&served.channel, &run, 0, true).await;
    slow.until(|event| matches!(event, Event::StepStarted(_))).await;
    // More than the stream's window and the backlog hold together.
    let line = [vec![b'x'; 32 << 10], b"\n".to_vec()].concat();
    for _ in 0..1_000 {
        worker.log(&lease, &line).await;
    }
    worker.report(&lease, OutcomeClass::Built, &step).await;
    worker.realise().await;
    let mut patient = Watcher::new(&served.channel, &run, 0, false).await;
    let all = patient.rest().await;

    let rest = slow.rest().await;
    let lines = rest.iter().filter(|event| matches!(event.event, Some(Event::StepLog(_)))).count();
    let said = rest.iter().any(|event| match &event.event {
        Some(Event::Notice(notice)) => notice.text.contains("were dropped"),
        _ => false,
    });
    assert!(lines < 1_000, "nothing was lost");
    assert!(said, "the loss is not said");
    let numbered: Vec<u64> = rest.iter().map(|event| event.sequence).filter(|number| *number > 0).collect();
    let expected: Vec<u64> = all.iter().map(|event| event.sequence).collect();
    assert!(expected.ends_with(&numbered));
    assert_eq!(finished(&rest).outcome(), v1::RunOutcome::Succeeded);
}

#[tokio::test]
async fn the_same_key_is_the_same_run_and_only_for_the_same_request() {
    let served = serve().await;
    let _worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    assert_eq!(submit(&served.channel, request("k")).await.expect("again"), run);
    assert_ne!(submit(&served.channel, request("other")).await.expect("taken"), run);
    let other = v1::SubmitRequest { dry_run: true, ..request("k") };
    assert_eq!(submit(&served.channel, other).await.expect_err("refused").code(), Code::AlreadyExists);
}

#[tokio::test]
async fn requests_that_no_client_makes_are_refused() {
    let served = serve().await;
    let with = |change: fn(&mut v1::Source)| {
        let mut source = source();
        change(&mut source);
        v1::SubmitRequest { after: Some(source), ..request("k") }
    };
    let bad = [
        v1::SubmitRequest { after: None, ..request("k") },
        request(""),
        with(|source| source.nar_hash = vec![1; 31].into()),
        with(|source| source.nar_size = 101),
        with(|source| source.manifest = None),
        with(|source| source.manifest.as_mut().expect("one").chunks[0].digest = vec![1; 3].into()),
        with(|source| source.subdir = "../outside".into()),
        with(|source| source.rev = "HEAD --upload-pack=x".into()),
    ];
    for request in bad {
        let text = format!("{request:?}");
        let status = submit(&served.channel, request).await.expect_err(&text);
        assert_eq!(status.code(), Code::InvalidArgument, "{text}");
    }
    assert_eq!(cancel(&served.channel, "run-nobody").await.expect_err("refused").code(), Code::NotFound);
}

#[tokio::test]
async fn a_cancelled_run_takes_its_lease_back_and_frees_the_slot() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    let mut watcher = Watcher::new(&served.channel, &run, 0, false).await;
    watcher.until(|event| matches!(event, Event::StepStarted(_))).await;
    cancel(&served.channel, &run).await.expect("known");
    match worker.hear().await {
        FromCoordinator::CancelLease(cancelled) => assert_eq!(cancelled.lease, lease.lease),
        other => panic!("not a cancellation: {other:?}"),
    }
    assert_eq!(finished(&watcher.rest().await).outcome(), v1::RunOutcome::Cancelled);
    // A cancelled lease is over without a word of the worker; late words change nothing.
    worker.report(&lease, OutcomeClass::Cancelled, &step).await;
    submit(&served.channel, request("another")).await.expect("taken");
    let again = worker.until_lease(&step).await;
    assert_ne!(again.lease, lease.lease);
}

#[tokio::test]
async fn a_cancelled_run_stops_its_evaluation() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let job = worker.hear_eval().await;
    cancel(&served.channel, &run).await.expect("known");
    match worker.hear().await {
        FromCoordinator::CancelEval(cancelled) => assert_eq!(cancelled.job, job.job),
        other => panic!("not a cancellation: {other:?}"),
    }
    submit(&served.channel, request("another")).await.expect("taken");
    assert_ne!(worker.hear_eval().await.job, job.job, "the eval slot is free");
}

#[tokio::test]
async fn cancelling_one_of_two_runs_that_share_a_step_leaves_it_to_the_other() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let one = submit(&served.channel, request("one")).await.expect("taken");
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    let two = submit(&served.channel, request("two")).await.expect("taken");
    let job = worker.discover(&["a"]).await;
    worker.evaluated(&job, "a", &[&step]).await;
    let mut watcher = Watcher::new(&served.channel, &two, 0, false).await;
    watcher.until(|event| matches!(event, Event::StepStarted(_))).await;
    cancel(&served.channel, &one).await.expect("known");
    let first = Watcher::new(&served.channel, &one, 0, false).await.rest().await;
    assert_eq!(finished(&first).outcome(), v1::RunOutcome::Cancelled);
    worker.report(&lease, OutcomeClass::Built, &step).await;
    // Nothing was taken back before.
    worker.realise().await;
    assert_eq!(finished(&watcher.rest().await).outcome(), v1::RunOutcome::Succeeded);
}

#[tokio::test]
async fn a_worker_that_is_silent_is_lost_and_told_so() {
    let served = serve_with(|config| {
        config.fleet.unplaceable_after_ms = 0;
        config.heartbeat_ms = 20;
    })
    .await;
    let mut worker = ScriptedWorker::join(&served.channel, "quiet", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    worker.hear_eval().await;
    let end = worker.end().await.expect_err("ended");
    assert_eq!(end.code(), Code::DeadlineExceeded);
    let events = Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    let said = events.iter().any(|event| match &event.event {
        Some(Event::Notice(notice)) => notice.text == "worker quiet left: the worker was silent for too long",
        _ => false,
    });
    assert!(said, "{events:#?}");
}

#[tokio::test]
async fn a_worker_is_welcomed_with_the_settings_of_its_session() {
    let served = serve_with(|config| {
        config.heartbeat_ms = 1234;
        config.upload_outputs = true;
        config.fleet.away_ms = 77;
    })
    .await;
    let hello = |name: &str, protocol| v1::Hello { name: name.to_owned(), protocol, ..v1::Hello::default() };
    let mut sessions = Vec::new();
    // From before revisions, ours, and one that is not made yet.
    for protocol in [0, 1, 99] {
        let name = format!("w{protocol}");
        let (worker, welcome) =
            ScriptedWorker::greet(&served.channel, hello(&name, protocol)).await.expect("let in");
        assert_eq!((welcome.heartbeat_ms, welcome.upload_outputs, welcome.away_ms), (1234, true, 77));
        assert_eq!(welcome.protocol, 1);
        sessions.push((worker, welcome.epoch));
    }
    assert!(sessions.is_sorted_by(|one, other| one.1 < other.1), "sessions are numbered");
}

#[tokio::test]
async fn a_newer_session_of_a_process_takes_the_place_of_the_older_and_another_process_waits() {
    let served = serve().await;
    let hello = |instance: &str| v1::Hello {
        name: "w".to_owned(),
        instance_id: instance.to_owned(),
        ..v1::Hello::default()
    };
    let (older, _) = ScriptedWorker::greet(&served.channel, hello("one")).await.expect("let in");
    let (newer, _) = ScriptedWorker::greet(&served.channel, hello("one")).await.expect("let in");
    assert_eq!(older.end().await.expect_err("cut").code(), Code::Unavailable);
    let refused = ScriptedWorker::greet(&served.channel, hello("two")).await.err().expect("refused");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("come again later"), "{refused}");
    drop(newer);
    // The other is gone, which is heard in a moment.
    let mut let_in = ScriptedWorker::greet(&served.channel, hello("two")).await.is_ok();
    for _ in 0..1_000 {
        if let_in {
            return;
        }
        tokio::task::yield_now().await;
        let_in = ScriptedWorker::greet(&served.channel, hello("two")).await.is_ok();
    }
    assert!(let_in, "the next is not welcome");
}

#[tokio::test]
async fn questions_about_what_is_not_there_have_exact_answers() {
    let served = serve().await;
    let mut client = v1::runs_client::RunsClient::new(served.channel.clone());
    let run = || "run-nobody".to_owned();
    assert_eq!(
        client.show(v1::ShowRunRequest { run: run() }).await.expect_err("none").code(),
        Code::NotFound
    );
    let events = v1::EventsRequest { run: run(), after_sequence: 0, logs: false };
    assert_eq!(client.events(events).await.expect_err("none").code(), Code::NotFound);
    let why = |run: String, selector: String| v1::WhyRequest { run, selector };
    let cases = [
        (why(run(), "a".into()), Code::NotFound),
        (why(String::new(), "a".into()), Code::NotFound),
        (why(String::new(), String::new()), Code::InvalidArgument),
        (why(String::new(), "x".repeat(2000)), Code::InvalidArgument),
    ];
    for (request, code) in cases {
        let text = format!("{request:?}");
        assert_eq!(client.why(request).await.expect_err(&text).code(), code, "{text}");
    }
    let many = v1::ListRunsRequest { limit: 1_001 };
    assert_eq!(client.list(many).await.expect_err("too many").code(), Code::InvalidArgument);
    assert!(
        client.list(v1::ListRunsRequest { limit: 1_000 }).await.expect("listed").into_inner().runs.is_empty()
    );
}

#[tokio::test]
async fn the_fleet_is_seen_at_a_glance_and_in_detail() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 2, 1).await;
    let load =
        v1::Heartbeat { load1: 1.5, unwell: "the disk is full".to_owned(), ..v1::Heartbeat::default() };
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let lease = worker.until_lease(&step).await;
    worker.say(Message::Heartbeat(load.clone())).await;
    let mut client = v1::runs_client::RunsClient::new(served.channel.clone());
    let mut status = client.status(v1::StatusRequest {}).await.expect("told").into_inner();
    while status.workers[0].load != Some(load.clone()) {
        status = client.status(v1::StatusRequest {}).await.expect("told").into_inner();
    }
    let seen = &status.workers[0];
    assert_eq!(
        (seen.name.as_str(), seen.state.as_str(), seen.reason.as_str()),
        ("w", "connected", "the disk is full")
    );
    assert_eq!((seen.slots, seen.leases, &seen.building), (2, 1, &vec!["top".to_owned()]));
    assert!(seen.heard_ms_ago > 0);
    assert_eq!((status.leased, status.read_only.as_str()), (1, ""));
    let live = &status.live[0];
    assert_eq!((live.run.as_str(), live.targets, live.settled), (run.as_str(), 1, 0));
    let detail = client.show(v1::ShowRunRequest { run: run.clone() }).await.expect("known").into_inner();
    assert_eq!((detail.targets[0].stage.as_str(), detail.targets[0].drv.as_str()), ("building", step.drv()));
    let why = v1::WhyRequest { run: String::new(), selector: format!("/nix/store/{}", step.drv()) };
    let answers = client.why(why).await.expect("known").into_inner().answers;
    worker.say(Message::Heartbeat(v1::Heartbeat::default())).await;
    assert_eq!((answers[0].chain[0].stage.as_str(), answers[0].chain[0].worker.as_str()), ("leased", "w"));
    worker.report(&lease, OutcomeClass::Built, &step).await;
    worker.realise().await;
    Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    let runs = client.list(v1::ListRunsRequest::default()).await.expect("listed").into_inner().runs;
    assert_eq!(runs[0].finished.as_ref().map(v1::RunFinished::outcome), Some(v1::RunOutcome::Succeeded));
    assert!(runs[0].submitted_unix_ms > 0);
}

#[tokio::test]
async fn a_run_whose_last_worker_leaves_ends_and_says_so() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "lonely", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    worker.until_lease(&step).await;
    drop(worker);
    let events = Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    assert_eq!(finished(&events).outcome(), v1::RunOutcome::Partial);
    assert!(!failures(&events).is_empty());
    let said = events.iter().any(|event| match &event.event {
        Some(Event::Notice(notice)) => notice.text.contains("lonely"),
        _ => false,
    });
    assert!(said, "nobody says that the worker left: {events:#?}");
}

#[tokio::test]
async fn logs_are_found_by_host_and_derivation_and_attempt_with_all_their_bytes() {
    let served = serve_with(|config| {
        config.fleet.unplaceable_after_ms = 0;
        config.fleet.backoff.base_ms = 1;
    })
    .await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    let run = submit(&served.channel, request("k")).await.expect("taken");
    let step = Step::new("top", &[]);
    let first = worker.until_lease(&step).await;
    worker.log(&first, b"first\n").await;
    worker.report(&first, OutcomeClass::Infrastructure, &step).await;
    let second = worker.hear_lease().await;
    let bytes = b"\x1b]0;title\x07\xff\xfe\0 second\r\n";
    worker.log(&second, bytes).await;
    worker.report(&second, OutcomeClass::BuildFailed, &step).await;
    let events = Watcher::new(&served.channel, &run, 0, false).await.rest().await;
    assert!(failures(&events)[0].detail.contains("second"));

    for selector in ["a", step.drv(), &format!("/nix/store/{}", step.drv())] {
        let log = logs(&served.channel, "", selector, 0).await.expect(selector);
        assert_eq!((log.drv.as_str(), log.attempt, &log.data[..]), (step.drv(), 2, &bytes[..]));
        let log = logs(&served.channel, "", selector, 1).await.expect(selector);
        assert_eq!((log.attempt, &log.data[..]), (1, &b"first\n"[..]));
    }
    assert_eq!(logs(&served.channel, &run, "a", 0).await.expect("of this run").attempt, 2);
    std::fs::write(served.state.path().join("secret.drv"), "secret").expect("writes");
    let empty = logs(&served.channel, "", "", 0).await.expect_err("nothing is asked for");
    assert_eq!(empty.code(), Code::InvalidArgument);
    for nobody in ["b", "../secret.drv", "/etc/passwd", "..", "x.drv", "a\0b", "%2e%2e/secret.drv"] {
        let status = logs(&served.channel, "", nobody, 0).await.expect_err(nobody);
        assert_eq!(status.code(), Code::NotFound, "{nobody:?}");
    }
    assert_eq!(logs(&served.channel, "run-other", "a", 0).await.expect_err("other").code(), Code::NotFound);
    assert_eq!(logs(&served.channel, "", "a", 3).await.expect_err("no third").code(), Code::NotFound);
}

#[tokio::test]
async fn a_worker_cannot_say_where_the_outputs_of_others_derivations_are() {
    let served = serve().await;
    let mut worker = ScriptedWorker::join(&served.channel, "w", 1, 1).await;
    submit(&served.channel, request("k")).await.expect("taken");
    let input = Step::new("input", &[]);
    let mut top = Step::new("top", &[&input]);
    let evil = Step::new("evil", &[]).output;
    top.derivation.inputs = vec![v1::ResolvedInput {
        drv: input.drv().to_owned(),
        output_name: "out".to_owned(),
        output: evil.clone(),
    }];
    let job = worker.discover(&["a"]).await;
    worker.evaluated(&job, "a", &[&input, &top]).await;
    let lease = worker.hear_lease().await;
    let mut report = reported(&lease, OutcomeClass::Built, &input);
    report.outputs[0].path.clone_from(&evil);
    worker.say(Message::StepReported(report)).await;
    let lease = worker.hear_lease().await;
    assert_eq!(lease.steps[0].inputs, [input.output]);
}

#[tokio::test]
async fn chunks_are_checked_and_given_to_nobody_without_a_right() {
    let served = serve().await;
    let mut client = v1::chunks_client::ChunksClient::new(served.channel.clone());
    let bad = v1::FindMissingRequest { digests: vec![vec![1; 31].into()] };
    assert_eq!(client.find_missing(bad).await.expect_err("refused").code(), Code::InvalidArgument);
    let many = v1::FindMissingRequest { digests: vec![vec![1; 32].into(); 65_537] };
    assert_eq!(client.find_missing(many).await.expect_err("refused").code(), Code::InvalidArgument);
    let forged = v1::Chunk { digest: vec![1; 32].into(), frame: vec![0; 10].into() };
    let status = client.put(futures::stream::iter([forged])).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    let of_nothing = v1::GetRequest::default();
    assert_eq!(client.get(of_nothing).await.expect_err("no path").code(), Code::PermissionDenied);
}
