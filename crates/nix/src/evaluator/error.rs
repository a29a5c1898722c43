//! How an evaluation fails. The cause is one sentence for a person; the trace is all that Nix said, bounded.

use std::time::Duration;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// No process could be started: nothing is known about the flake.
    #[error("cannot start the evaluator: {cause}")]
    Start {
        /// What the system said.
        cause: String,
    },
    /// `nix repl` starts but does not answer as it must; a process for each host may still work.
    #[error("nix repl cannot be driven: {cause}")]
    Unsuitable {
        /// What it did instead.
        cause: String,
    },
    /// The flake as a whole does not evaluate: no host of it can.
    #[error("the flake does not evaluate: {cause}")]
    Flake {
        /// One sentence.
        cause: String,
        /// All that Nix said.
        trace: String,
    },
    /// This host does not evaluate; others may.
    #[error("{cause}")]
    Host {
        /// One sentence.
        cause: String,
        /// All that Nix said.
        trace: String,
    },
    /// The process ended while it was on this question: out of memory, a crash, a kill.
    #[error("the evaluator died: {cause}")]
    Died {
        /// How it ended.
        cause: String,
        /// All that Nix said before.
        trace: String,
    },
    /// The question took longer than it may.
    #[error("no result after {} seconds", limit.as_secs())]
    TimedOut {
        /// The limit that was reached.
        limit: Duration,
        /// All that Nix said before.
        trace: String,
    },
}

impl EvalError {
    /// All that Nix said, where it said something.
    pub fn trace(&self) -> Option<&str> {
        let trace = match self {
            EvalError::Start { .. } | EvalError::Unsuitable { .. } => return None,
            EvalError::Flake { trace, .. }
            | EvalError::Host { trace, .. }
            | EvalError::Died { trace, .. }
            | EvalError::TimedOut { trace, .. } => trace,
        };
        (!trace.is_empty()).then_some(trace)
    }

    /// Whether the process is gone with the question; the hosts after it are not to blame.
    pub fn lost_process(&self) -> bool {
        matches!(self, EvalError::Died { .. } | EvalError::TimedOut { .. })
    }
}
