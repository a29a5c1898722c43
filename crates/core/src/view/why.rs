//! Why a host or a step is not done: what it waits for, and which workers do not take it.

use std::sync::Arc;

use super::StepView;
use crate::fleet::Fleet;
use crate::id::RunId;

/// Why one target or step is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WhyView {
    /// A host and side, or a derivation.
    pub subject: String,
    /// One sentence.
    pub state: String,
    /// From the subject down to what blocks it, each waiting for the next.
    pub chain: Vec<StepView>,
    /// For the last of the chain, when it waits for a worker.
    pub rejections: Vec<Rejection>,
}

/// Why a worker does not take a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its name.
    pub worker: Arc<str>,
    /// In words.
    pub reason: String,
}

impl Fleet {
    /// Why the targets of a host, or a step, are not done: of one run, or of every live one. The selector is a
    /// host's name, a derivation's path or its base name. At most `limit` answers.
    pub fn why(&self, run: Option<RunId>, selector: &str, limit: usize) -> Vec<WhyView> {
        let _ = (run, selector, limit);
        Vec::new()
    }
}
