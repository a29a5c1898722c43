use fleet_core::StepLimits;

use super::*;

const WORKER: WorkerId = WorkerId(1);

fn logged(epoch: u64, data: &[u8]) -> v1::StepLogged {
    v1::StepLogged { lease: 1, epoch, drv: "a.drv".into(), data: data.to_vec().into(), offset: 0 }
}

fn step(attempt: u32, max_log_bytes: Option<u64>) -> LeasedStep {
    let limits = StepLimits { max_log_bytes, ..StepLimits::default() };
    LeasedStep { drv: DrvPath::from("a.drv"), attempt, limits }
}

struct Stage {
    attempts: Attempts,
    writer: LogWriter,
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let writer = LogWriter::open(directory.path().to_owned()).expect("opens");
        Self { attempts: Attempts::new(writer.clone()), writer, directory }
    }

    fn begin(&mut self, step: &LeasedStep) {
        self.attempts.begin(WORKER, LeaseId(1), Epoch(1), step);
    }

    fn say(&mut self, offset: u64, data: &[u8]) -> Option<Bytes> {
        self.attempts.append(WORKER, &logged(1, data), Some(offset)).map(|news| news.data)
    }

    async fn kept(&self) -> Vec<u8> {
        self.writer.flush().await;
        let logs = crate::logs::kept(self.directory.path(), "a.drv");
        logs.iter().flat_map(|log| std::fs::read(&log.path).expect("reads")).collect()
    }
}

#[tokio::test]
async fn only_the_holder_of_an_attempt_is_heard_and_the_tail_is_bounded() {
    let mut stage = Stage::new();
    let drv = DrvPath::from("a.drv");
    assert_eq!(stage.attempts.append(WORKER, &logged(1, b"before its lease\n"), None), None);
    stage.begin(&step(2, None));
    for _ in 0..64 {
        let news = stage.attempts.append(WORKER, &logged(1, &[b'x'; 1024]), None);
        assert_eq!(news.map(|news| news.attempt), Some(2));
    }
    assert_eq!(stage.attempts.append(WORKER, &logged(2, b"of another epoch\n"), None), None);
    assert_eq!(stage.attempts.append(WorkerId(2), &logged(1, b"of another worker\n"), None), None);
    assert_eq!(stage.attempts.tail(&drv), "x".repeat(TAIL));
    stage.attempts.end(&drv, 1);
    let holds = stage.attempts.holds(WORKER, LeaseId(1), Epoch(1), &drv);
    assert!(holds, "the end of an older attempt is not its own");
    stage.attempts.end(&drv, 2);
    assert_eq!(stage.attempts.append(WORKER, &logged(1, b"after its end\n"), None), None);
    assert!(stage.attempts.running.is_empty());
}

#[tokio::test]
async fn what_is_sent_again_is_kept_once_and_what_is_missing_is_marked() {
    let mut stage = Stage::new();
    stage.begin(&step(1, None));
    assert_eq!(stage.say(0, b"one\ntwo\n").as_deref(), Some(&b"one\ntwo\n"[..]));
    assert_eq!(stage.say(0, b"one\ntwo\n"), None);
    assert_eq!(stage.say(4, b"two\nthree\n").as_deref(), Some(&b"three\n"[..]));
    assert_eq!(
        stage.say(24, b"four\n").as_deref(),
        Some(&b"[fleet: 10 bytes of log were lost here]\nfour\n"[..])
    );
    assert_eq!(stage.say(u64::MAX, b"nowhere"), None, "no end lies there");
    let text = String::from_utf8(stage.kept().await).expect("text");
    assert_eq!(text, "one\ntwo\nthree\n[fleet: 10 bytes of log were lost here]\nfour\n");
}

#[tokio::test]
async fn a_log_goes_on_after_a_restart_where_it_was() {
    let mut stage = Stage::new();
    stage.begin(&step(1, None));
    stage.say(0, b"one\n");
    stage.writer.flush().await;
    stage.attempts = Attempts::new(stage.writer.clone());
    stage.attempts.resume(WORKER, LeaseId(1), Epoch(1), &step(1, None));
    stage.say(0, b"one\ntwo\n");
    assert_eq!(stage.kept().await, b"one\ntwo\n");
}

#[tokio::test]
async fn a_worker_cannot_send_more_than_the_limit_and_some_slack() {
    let mut stage = Stage::new();
    stage.begin(&step(1, Some(1000)));
    let line = vec![b'x'; 256 << 10];
    for at in 0..100 {
        stage.say(at * (256 << 10), &line);
    }
    assert_eq!(stage.kept().await.len() as u64, 1000 + LOG_SLACK);
}

#[tokio::test]
async fn phases_are_bounded() {
    let mut stage = Stage::new();
    stage.begin(&step(1, None));
    let phased = v1::StepPhased { lease: 1, drv: "a.drv".into(), phase: "buildPhase".into() };
    let shown = (0..1000).filter(|_| stage.attempts.phase(WORKER, &phased)).count();
    assert_eq!(shown, MAX_PHASES as usize);
}
