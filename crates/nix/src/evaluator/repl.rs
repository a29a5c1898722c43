//! The co-process: one `nix repl` that is fed one host at a time and shares what they have in common.
//!
//! Nix's read loop prints an error and goes on with the next line; that is all this relies on. Everything it
//! is fed is one line, everything it answers is a trace message with a nonce.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use super::cause::short_cause;
use super::expression::{self, SEPARATOR, announcement, is_misread};
use super::process::{Heard, Process, arguments, fresh_nonce};
use super::said::ToplevelSaid;
use super::transcript::Transcript;
use super::{
    ConfigurationKind, EvalError, Evaluator, EvaluatorConfig, FlakeSource, HostAttr, ProcessEvaluator,
    Toplevel,
};

/// How long a read loop may take to start on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(2);

/// An evaluator of one flake in one process, which is started again when it was lost.
#[derive(Debug)]
pub struct ReplEvaluator {
    config: EvaluatorConfig,
    reference: String,
    process: Option<Process>,
    questions: u64,
}

/// What came of one question.
struct Answer {
    value: Option<String>,
    transcript: Transcript,
}

impl Answer {
    /// Whether the question was taken for an unfinished line, and its error lost.
    fn is_misread(&self) -> bool {
        self.value.is_none() && self.transcript.error().is_some_and(is_misread)
    }
}

impl ReplEvaluator {
    /// Starts the process and sees that it answers; evaluates nothing of the flake yet.
    pub async fn start(config: &EvaluatorConfig, source: &FlakeSource) -> Result<Self, EvalError> {
        let mut evaluator = ReplEvaluator {
            config: config.clone(),
            reference: source.reference(&config.store_dir),
            process: None,
            questions: 0,
        };
        let process = evaluator.launch().await?;
        evaluator.process = Some(process);
        let limit = config.host_wall_limit.min(START_LIMIT);
        match evaluator.ask_within("true", limit).await {
            Ok(Answer { value: Some(value), .. }) if value == "true" => Ok(evaluator),
            Ok(Answer { transcript, .. }) => {
                Err(EvalError::Unsuitable { cause: short_cause(&transcript.finish()) })
            }
            Err(EvalError::Died { cause, .. }) => Err(EvalError::Unsuitable { cause }),
            Err(EvalError::TimedOut { .. }) => {
                Err(EvalError::Unsuitable { cause: "it does not answer".to_owned() })
            }
            Err(error) => Err(error),
        }
    }

    /// The co-process, while there is one.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::id)
    }

    /// Changes how long one question may take from now on.
    pub fn set_wall_limit(&mut self, limit: Duration) {
        self.config.host_wall_limit = limit;
    }

    /// Tells the error that the read loop swallowed.
    fn one_shot(&self) -> ProcessEvaluator {
        ProcessEvaluator::of(&self.config, self.reference.clone())
    }

    async fn launch(&self) -> Result<Process, EvalError> {
        let mut process =
            Process::start(&self.config, fresh_nonce()?, &arguments(&self.config, "repl", &[])).await?;
        process.say(&format!("flake = {}\n", expression::flake(&self.reference))).await;
        Ok(process)
    }

    async fn ask(&mut self, question: &str) -> Result<Answer, EvalError> {
        self.ask_within(question, self.config.host_wall_limit).await
    }

    /// Asks one question. A process that does not come to its end is not used again.
    async fn ask_within(&mut self, question: &str, limit: Duration) -> Result<Answer, EvalError> {
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.launch().await?,
        };
        self.questions += 1;
        let number = self.questions;
        let [question, end] = [("value", question), ("end", "null")]
            .map(|(word, value)| announcement(process.nonce(), word, number, value));
        let lines = format!("{question}\n{SEPARATOR}\n{end}\n");
        let mut heard = Heard::default();
        let conversation = async {
            process.say(&lines).await;
            process.hear(number, &mut heard).await;
        };
        if timeout(limit, conversation).await.is_err() {
            return Err(EvalError::TimedOut { limit, trace: heard.transcript.finish() });
        }
        if heard.ended {
            let ending = process.ending().await;
            let last_words = heard.transcript.error().map(|error| format!(": {}", short_cause(error)));
            let cause = format!("{ending}{}", last_words.unwrap_or_default());
            return Err(EvalError::Died { cause, trace: heard.transcript.finish() });
        }
        self.process = Some(process);
        Ok(Answer { value: heard.value, transcript: heard.transcript })
    }
}

#[async_trait]
impl Evaluator for ReplEvaluator {
    async fn discover(&mut self, kinds: &[ConfigurationKind]) -> Result<Vec<HostAttr>, EvalError> {
        let mut hosts = Vec::new();
        for &kind in kinds {
            let answer = self.ask(&expression::names(kind)).await?;
            if answer.is_misread() {
                return self.one_shot().discover(kinds).await;
            }
            hosts.extend(read_names(kind, answer.value, answer.transcript)?);
        }
        Ok(hosts)
    }

    async fn evaluate(&mut self, host: &HostAttr) -> Result<Toplevel, EvalError> {
        let answer = self.ask(&expression::toplevel(host)).await?;
        if answer.is_misread() {
            return self.one_shot().evaluate(host).await;
        }
        read_toplevel(&self.config, answer.value, answer.transcript)
    }
}

/// Understands the answer to a discovery.
pub(super) fn read_names(
    kind: ConfigurationKind,
    value: Option<String>,
    transcript: Transcript,
) -> Result<Vec<HostAttr>, EvalError> {
    let names = value.and_then(|json| serde_json::from_str::<Vec<String>>(&json).ok());
    if let Some(names) = names {
        return Ok(names.into_iter().map(|name| HostAttr { kind, name }).collect());
    }
    let cause = transcript.error().map_or_else(|| "it has no list of names".to_owned(), short_cause);
    Err(EvalError::Flake { cause, trace: transcript.finish() })
}

/// Understands the answer to a host.
pub(super) fn read_toplevel(
    config: &EvaluatorConfig,
    value: Option<String>,
    transcript: Transcript,
) -> Result<Toplevel, EvalError> {
    let store = &config.store_dir;
    let Some(json) = value else {
        let cause = transcript
            .error()
            .map_or_else(|| "nix gave neither a result nor an error".to_owned(), short_cause);
        return Err(EvalError::Host { cause, trace: transcript.finish() });
    };
    let toplevel = serde_json::from_str::<ToplevelSaid>(&json).ok().and_then(|said| {
        let drv = store.parse(&said.drv).ok().filter(crate::StorePath::is_derivation)?;
        // A path that is known only after the build is shown as a placeholder outside the store.
        Some(Toplevel { drv, output_name: said.name, output: store.parse(&said.out).ok() })
    });
    toplevel.ok_or_else(|| EvalError::Host {
        cause: "the toplevel is not a derivation".to_owned(),
        trace: transcript.finish(),
    })
}
