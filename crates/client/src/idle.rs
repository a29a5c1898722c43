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
            let selector =
                progress.first(&[TargetState::Building, TargetState::Evaluating, TargetState::Waiting])?;
            let request = v1::WhyRequest { run: self.run.clone(), selector: selector.to_owned() };
            self.question = Some(tokio::spawn(ask(connection.clone(), request)));
        }
        self.answer.as_deref()
    }
}

async fn ask(connection: Connection, request: v1::WhyRequest) -> Option<String> {
    let mut request = tonic::Request::new(request);
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
    let reasons = why.rejections.iter().take(MAX_REJECTIONS);
    let mut reasons: Vec<String> =
        reasons.map(|said| format!("{} {}", visible(&said.worker), visible(&said.reason))).collect();
    if why.rejections.len() > MAX_REJECTIONS {
        reasons.push(format!("and {} more", why.rejections.len() - MAX_REJECTIONS));
    }
    if !reasons.is_empty() {
        let _ = write!(sentence, " ({})", reasons.join(", "));
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
    fn who_waits_for_a_worker_learns_which_and_why_not() {
        insta::assert_snapshot!(sentence(&why(&[])).expect("a sentence"), @"mac (after): it waits for bash: it waits for a worker for aarch64-darwin");
        insta::assert_snapshot!(sentence(&why(&[("b1", "builds for x86_64-linux only"), ("mac1", "is drained: new\u{1b}[2J disk")])).expect("a sentence"), @r"mac (after): it waits for bash: it waits for a worker for aarch64-darwin (b1 builds for x86_64-linux only, mac1 is drained: new\u{1b}[2J disk)");
        let many = [("b1", "is away"); 5];
        insta::assert_snapshot!(sentence(&why(&many)).expect("a sentence"), @"mac (after): it waits for bash: it waits for a worker for aarch64-darwin (b1 is away, b1 is away, b1 is away, and 2 more)");
        assert_eq!(sentence(&v1::Why::default()), None);
    }
}
