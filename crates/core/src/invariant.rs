//! What must hold after every event, recomputed from scratch.
//!
//! Owns no rule of its own: each check states a promise that the other files keep, in other words than
//! theirs. For tests and simulation; a check walks everything.

mod steps;
mod work;

use crate::fleet::Fleet;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{promise}: {detail}")]
pub struct Violation {
    /// Which.
    pub promise: &'static str,
    /// By what.
    pub detail: String,
}

/// Checks everything.
pub fn check(fleet: &Fleet) -> Result<(), Violation> {
    steps::check(fleet)?;
    work::check(fleet)
}

/// Fails with `promise` unless `kept`.
fn hold(kept: bool, promise: &'static str, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if kept { Ok(()) } else { Err(Violation { promise, detail: detail() }) }
}
