//! The fallback: a `nix eval` for each question. Slower, because hosts share nothing, and needs nothing of Nix
//! but its evaluator.

use async_trait::async_trait;
use tokio::time::timeout;

use super::expression::{self, announcement};
use super::process::{Heard, Process, arguments, fresh_nonce};
use super::repl::{read_names, read_toplevel};
use super::{ConfigurationKind, EvalError, Evaluator, EvaluatorConfig, FlakeSource, HostAttr, Toplevel};

/// The number of the only question a process gets.
const QUESTION: u64 = 1;

/// An evaluator of one flake that starts a process for each question.
#[derive(Debug)]
pub struct ProcessEvaluator {
    config: EvaluatorConfig,
    reference: String,
}

impl ProcessEvaluator {
    /// Starts nothing yet.
    pub fn new(config: &EvaluatorConfig, source: &FlakeSource) -> Self {
        ProcessEvaluator::of(config, source.reference(&config.store_dir))
    }

    pub(super) fn of(config: &EvaluatorConfig, reference: String) -> Self {
        ProcessEvaluator { config: config.clone(), reference }
    }

    /// One process that evaluates one question and ends.
    async fn ask(&mut self, question: &str) -> Result<Heard, EvalError> {
        let nonce = fresh_nonce()?;
        let flake = expression::flake(&self.reference);
        let expression =
            format!("let flake = {flake}; in {}", announcement(&nonce, "value", QUESTION, question));
        let arguments = arguments(&self.config, "eval", &["--json", "--expr", &expression]);
        let mut process = Process::start(&self.config, nonce, &arguments).await?;
        process.hang_up();
        let mut heard = Heard::default();
        let limit = self.config.host_wall_limit;
        if timeout(limit, process.hear(QUESTION, &mut heard)).await.is_err() {
            return Err(EvalError::TimedOut { limit, trace: heard.transcript.finish() });
        }
        // An error ends this process too; only one without a word of Nix's is a death.
        if heard.value.is_none() && heard.transcript.error().is_none() {
            let cause = process.ending().await;
            return Err(EvalError::Died { cause, trace: heard.transcript.finish() });
        }
        Ok(heard)
    }
}

#[async_trait]
impl Evaluator for ProcessEvaluator {
    async fn discover(&mut self, kinds: &[ConfigurationKind]) -> Result<Vec<HostAttr>, EvalError> {
        let mut hosts = Vec::new();
        for &kind in kinds {
            let heard = self.ask(&expression::names(kind)).await?;
            hosts.extend(read_names(kind, heard.value, heard.transcript)?);
        }
        Ok(hosts)
    }

    async fn evaluate(&mut self, host: &HostAttr) -> Result<Toplevel, EvalError> {
        let heard = self.ask(&expression::toplevel(host)).await?;
        read_toplevel(&self.config, heard.value, heard.transcript)
    }
}
