use std::time::Duration;

use fleet_core::FleetConfig;

use super::*;

/// A journal that goes wrong in one way.
enum Broken {
    Fails,
    Panics,
}

impl Journal for Broken {
    fn append(&mut self, _: &[Fact]) -> Result<(), JournalError> {
        match self {
            Self::Fails => Err(JournalError::new("write", "/state/journal".as_ref(), full())),
            Self::Panics => panic!("a planted bug"),
        }
    }
}

fn full() -> std::io::Error {
    std::io::Error::from(std::io::ErrorKind::StorageFull)
}

fn submit_request() -> Box<v1::SubmitRequest> {
    let source = v1::Source {
        nar_hash: vec![1; 32].into(),
        manifest: Some(v1::Manifest::default()),
        ..Default::default()
    };
    Box::new(v1::SubmitRequest { idempotency_key: "k".into(), after: Some(source), ..Default::default() })
}

/// Submits a run; gives the answer, the end of the run's feed, and the shell.
async fn submit_to(journal: Broken) -> (Option<Result<String, Status>>, v1::Failure, mpsc::Sender<Input>) {
    let logs = tempfile::tempdir().expect("temporary directory");
    let logs = LogWriter::open(logs.path().to_owned()).expect("opens");
    let fleet = Fleet::new(FleetConfig::default());
    let (shell, feeds) = Shell::new(fleet, 10, Box::new(journal), logs, StepLimits::default()).spawn();
    let (reply, answer) = oneshot::channel();
    assert!(shell.send(Input::Submit(submit_request(), reply)).await.is_ok());
    let answer = answer.await.ok();
    let feed = feeds.iter().next().expect("a feed").clone();
    let mut length = feed.watch();
    let ended = length.wait_for(|length| *length > 0);
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("in time").expect("an event");
    let events = feed.after(0).expect("events");
    match events.last().and_then(|event| event.event.clone()) {
        Some(v1::run_event::Event::RunFinished(finished)) => {
            (answer, finished.failure.expect("a failure"), shell)
        }
        other => panic!("not the end: {other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_answered_and_ends_runs_and_shell_with_its_error() {
    let (answer, failure, shell) = submit_to(Broken::Fails).await;
    let refused = answer.expect("an answer").expect_err("nothing visible precedes its record");
    assert!(refused.message().starts_with("cannot write the journal /state/journal: "), "{refused}");
    assert_eq!(failure.cause, refused.message());
    tokio::time::timeout(Duration::from_secs(20), shell.closed()).await.expect("it ends");
}

#[tokio::test]
async fn a_bug_of_ours_ends_runs_instead_of_leaving_them_waiting() {
    let (answer, failure, _) = submit_to(Broken::Panics).await;
    assert!(answer.is_none());
    assert_eq!(failure.code, "infrastructure");
}
