//! Drives Nix evaluators, one host at a time.
//!
//! A flake's source is a store path, locked by its NAR hash; evaluation is pure, writes no lock file, reads no
//! user's configuration, and reaches the store only through the URI it is given. One host's error never
//! touches another. Nothing here builds: what evaluation wants built goes through the store it was given.

mod bounded_lines;
mod cause;
mod child;
mod config;
mod contract;
mod error;
mod expression;
mod host;
mod one_shot;
mod process;
mod repl;
mod said;
mod source;
mod transcript;

pub use config::EvaluatorConfig;
pub use contract::{Evaluator, start_evaluator};
pub use error::EvalError;
pub use host::{ConfigurationKind, HostAttr, Toplevel};
pub use one_shot::ProcessEvaluator;
pub use repl::ReplEvaluator;
pub use source::FlakeSource;

#[cfg(test)]
pub(crate) mod tests;
