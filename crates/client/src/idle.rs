//! When nothing moves, the coordinator is asked why.
//!
//! Owns the question under way and its last answer; decides nothing about the run.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use fleet_wire::v1;
use tokio::task::JoinHandle;

use crate::interruption::Manner;
use crate::progress::{Progress, TargetState, visible};
use crate::remote::Connection;
use crate::watch::Watch;

/// So long nothing may move before it is worth a question.
const QUIET: Duration = Duration::from_secs(10);
/// Until the answer is taken to be old.
const AGAIN: Duration = Duration::from_secs(15);
/// Workers that are named with what is wrong with them.
const MAX_REJECTIONS: usize = 3;

/// Watches whether anything moves.
#[derive(Debug)]
pub struct Idleness {
    connection: Option<Connection>,
    run: String,
    moved: Instant,
    asked: Option<Instant>,
    question: Option<JoinHandle<Option<String>>>,
    answer: Option<String>,
}

impl Idleness {
    /// Everything moves. What is built in this process waits for nobody.
    pub fn new(watch: &Watch) -> Self {
        let connection = (watch.manner != Manner::InProcess).then(|| watch.connection.clone());
        Self {
            connection,
            run: watch.run.clone(),
            moved: Instant::now(),
            asked: None,
            question: None,
            answer: None,
        }
    }

    /// Something moved.
    pub fn moved(&mut self) {
        self.moved = Instant::now();
        self.answer = None;
        self.asked = None;
    }

    /// What the run waits for, if nothing has moved for a while; never waits itself.
    pub fn look(&mut self, progress: &Progress) -> Option<&str> {
        let connection = self.connection.as_ref()?;
        if self.moved.elapsed() < QUIET || !progress.running().is_empty() || progress.is_finished() {
            return None;
        }
        if self.question.as_ref().is_some_and(JoinHandle::is_finished) {
            let question = self.question.take()?;
            self.answer = futures::FutureExt::now_or_never(question)?.ok()?;
        }
        let is_old = self.asked.is_none_or(|asked| asked.elapsed() > AGAIN);
        if is_old && self.question.is_none() {
            self.asked = Some(Instant::now());
            let open = [TargetState::Building, TargetState::Evaluating, TargetState::Waiting];
            let (connection, run) = (connection.clone(), self.run.clone());
            self.question = Some(match progress.first(&open) {
                Some(host) => tokio::spawn(ask_why(connection, run, host.to_owned())),
                None => tokio::spawn(ask_for_evaluators(connection)),
            });
        }
        self.answer.as_deref()
    }
}

/// Before any host is found there is nothing to ask after but whoever could find them.
async fn ask_for_evaluators(connection: Connection) -> Option<String> {
    let mut request = tonic::Request::new(v1::StatusRequest {});
    request.set_timeout(AGAIN);
    let status = connection.runs().status(request).await.ok()?.into_inner();
    without_evaluator(&status)
}

fn without_evaluator(status: &v1::StatusReply) -> Option<String> {
    if status.evals_waiting == 0 {
        return None;
    }
    let evaluates = |worker: &&v1::WorkerStatus| worker.eval_slots > 0;
    let takes_work = |worker: &&v1::WorkerStatus| worker.state == "connected" && worker.reason.is_empty();
    let kept: Vec<String> =
        status.workers.iter().filter(evaluates).filter(|worker| !takes_work(worker)).map(standing).collect();
    let what = if status.workers.iter().filter(evaluates).any(|worker| takes_work(&worker)) {
        "all are at work".to_owned()
    } else if kept.is_empty() {
        let connected = status.workers.iter().any(|worker| worker.state == "connected");
        if connected { "none of those connected does" } else { "none is connected" }.to_owned()
    } else {
        listed(kept)
    };
    Some(format!("waiting for a worker to evaluate: {what}"))
}

fn standing(worker: &v1::WorkerStatus) -> String {
    let (name, state) = (visible(&worker.name), visible(&worker.state));
    if worker.reason.is_empty() {
        format!("{name} is {state}")
    } else {
        format!("{name} is {state}: {}", visible(&worker.reason))
    }
}

/// The first few, and how many there are beside them.
fn listed(mut all: Vec<String>) -> String {
    let more = all.len().saturating_sub(MAX_REJECTIONS);
    all.truncate(MAX_REJECTIONS);
    if more > 0 {
        all.push(format!("and {more} more"));
    }
    all.join(", ")
}

async fn ask_why(connection: Connection, run: String, selector: String) -> Option<String> {
    let mut request = tonic::Request::new(v1::WhyRequest { run, selector });
    request.set_timeout(AGAIN);
    let reply = connection.runs().why(request).await.ok()?.into_inner();
    reply.answers.iter().find_map(sentence)
}

/// What blocks, in one sentence, and what speaks against the workers that there are.
fn sentence(why: &v1::Why) -> Option<String> {
    if why.state.is_empty() {
        return None;
    }
    let mut sentence = format!("{}: {}", visible(&why.subject), visible(&why.state));
    let reasons: Vec<String> = why
        .rejections
        .iter()
        .map(|said| format!("{} {}", visible(&said.worker), visible(&said.reason)))
        .collect();
    if !reasons.is_empty() {
        let _ = write!(sentence, " ({})", listed(reasons));
    }
    Some(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(rejections: &[(&str, &str)]) -> v1::Why {
        let rejections = rejections.iter().map(|(worker, reason)| v1::WorkerRejection {
            worker: (*worker).to_owned(),
            reason: (*reason).to_owned(),
        });
        v1::Why {
            subject: "mac (after)".to_owned(),
            state: "it waits for bash: it waits for a worker for aarch64-darwin".to_owned(),
            chain: Vec::new(),
            rejections: rejections.collect(),
        }
    }

    #[test]
    fn a_run_without_an_evaluator_says_so() {
        let worker = |state: &str, eval_slots| v1::WorkerStatus {
            state: state.to_owned(),
            eval_slots,
            ..v1::WorkerStatus::default()
        };
        let told = |workers: &[v1::WorkerStatus]| {
            let (workers, evals_waiting) = (workers.to_vec(), 1);
            without_evaluator(&v1::StatusReply { workers, evals_waiting, ..v1::StatusReply::default() })
                .expect("it waits")
        };
        assert!(told(&[]).ends_with("to evaluate: none is connected"));
        let builder = worker("connected", 0);
        assert!(told(std::slice::from_ref(&builder)).ends_with("none of those connected does"));
        assert!(told(&[builder, worker("connected", 2), worker("away", 2)]).ends_with("all are at work"));
        let drained =
            v1::WorkerStatus { name: "b1".into(), reason: "new\x1b[2J disk".into(), ..worker("drained", 2) };
        insta::assert_snapshot!(told(&[drained]), @r"waiting for a worker to evaluate: b1 is drained: new\u{1b}[2J disk");
        assert_eq!(without_evaluator(&v1::StatusReply::default()), None);
    }

    #[test]
    fn who_waits_for_a_worker_learns_which_and_why_not() {
        insta::assert_snapshot!(sentence(&why(&[])).expect("a sentence"), @"mac (after): it waits for bash: it waits for a worker for aarch64-darwin");
        insta::assert_snapshot!(sentence(&why(&[("b1", "builds for x86_64-linux only"), ("mac1", "is drained: new\u{1b}[2J disk")])).expect("a sentence"), @r"mac (after): it waits for bash: it waits for a worker for aarch64-darwin (b1 builds for x86_64-linux only, mac1 is drained: new\u{1b}[2J disk)");
        let many = [("b1", "is away"); 5];
        insta::assert_snapshot!(sentence(&why(&many)).expect("a sentence"), @"mac (after): it waits for bash: it waits for a worker for aarch64-darwin (b1 is away, b1 is away, b1 is away, and 2 more)");
        assert_eq!(sentence(&v1::Why::default()), None);
    }
}
