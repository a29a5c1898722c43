//! What every evaluator promises, and the choice between the two there are.

use async_trait::async_trait;

use super::{
    ConfigurationKind, EvalError, EvaluatorConfig, FlakeSource, HostAttr, ProcessEvaluator, ReplEvaluator,
    Toplevel,
};

/// Evaluates one flake, one question at a time.
///
/// After an error the evaluator stays usable: one whose process is gone starts another with the next
/// question. A future that is dropped half-way costs the process, never the evaluator.
#[async_trait]
pub trait Evaluator: Send {
    /// The names of all configurations of these kinds. A flake without such an attribute has none.
    async fn discover(&mut self, kinds: &[ConfigurationKind]) -> Result<Vec<HostAttr>, EvalError>;

    /// Instantiates one host's toplevel; its derivations are in the store afterwards.
    async fn evaluate(&mut self, host: &HostAttr) -> Result<Toplevel, EvalError>;
}

/// The co-process where this Nix can be driven that way, else a process for each question.
pub async fn start_evaluator(
    config: &EvaluatorConfig,
    source: &FlakeSource,
) -> Result<Box<dyn Evaluator>, EvalError> {
    match ReplEvaluator::start(config, source).await {
        Ok(evaluator) => Ok(Box::new(evaluator)),
        Err(EvalError::Unsuitable { cause }) => {
            tracing::warn!(%cause, "nix repl cannot be driven here: each host gets a process of its own");
            Ok(Box::new(ProcessEvaluator::new(config, source)))
        }
        Err(error) => Err(error),
    }
}
