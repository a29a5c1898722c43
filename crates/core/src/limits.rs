//! Limits: what one attempt of a step may take.
//!
//! Owns the rule for steps that several runs want: nobody is bound by another's impatience.

use serde::{Deserialize, Serialize};

use crate::failure::FailureClass;
use crate::fleet::Fleet;
use crate::graph::StepId;
use crate::id::RunId;
use crate::lease::Leased;
use crate::sabotage::Sabotage;

/// What one attempt of a step may take. None means the coordinator's own limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLimits {
    /// Wall time in seconds.
    pub timeout_s: Option<u32>,
    /// Seconds without output.
    pub max_silent_s: Option<u32>,
    /// Bytes of log.
    pub max_log_bytes: Option<u64>,
    /// NAR sizes of all outputs together, bytes.
    pub max_output_bytes: Option<u64>,
}

impl StepLimits {
    /// These limits, with others where they say nothing.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            timeout_s: self.timeout_s.or(other.timeout_s),
            max_silent_s: self.max_silent_s.or(other.max_silent_s),
            max_log_bytes: self.max_log_bytes.or(other.max_log_bytes),
            max_output_bytes: self.max_output_bytes.or(other.max_output_bytes),
        }
    }

    /// In each point the more generous of both; none is no limit at all.
    pub(crate) fn most(self, other: Self) -> Self {
        Self {
            timeout_s: self.timeout_s.zip(other.timeout_s).map(|(a, b)| a.max(b)),
            max_silent_s: self.max_silent_s.zip(other.max_silent_s).map(|(a, b)| a.max(b)),
            max_log_bytes: self.max_log_bytes.zip(other.max_log_bytes).map(|(a, b)| a.max(b)),
            max_output_bytes: self.max_output_bytes.zip(other.max_output_bytes).map(|(a, b)| a.max(b)),
        }
    }

    /// Whether these allow more of what an attempt of this class ran out of.
    pub(crate) fn allow_more(self, other: Self, class: FailureClass) -> bool {
        let most = self.most(other);
        match class {
            FailureClass::TimedOut => {
                most.timeout_s != other.timeout_s || most.max_silent_s != other.max_silent_s
            }
            FailureClass::LogLimit => most.max_log_bytes != other.max_log_bytes,
            FailureClass::OutputTooBig => most.max_output_bytes != other.max_output_bytes,
            _ => false,
        }
    }
}

impl Fleet {
    /// What an attempt of a step may take: the most generous of the runs that want it decides.
    pub(crate) fn limits_of(&self, id: StepId) -> StepLimits {
        let wanted = self.graph.interested(id).filter_map(|run| self.limits_of_run(run));
        let limits = if self.sabotaged(Sabotage::LimitByAny) {
            wanted.last()
        } else {
            wanted.reduce(StepLimits::most)
        };
        limits.unwrap_or(self.config.limits)
    }

    fn limits_of_run(&self, run: RunId) -> Option<StepLimits> {
        Some(self.runs.get(&run)?.request.limits.or(self.config.limits))
    }

    /// Whether an attempt ran into a limit that the runs of now do not set.
    pub(crate) fn is_cut_short(&self, leased: &Leased, class: FailureClass) -> bool {
        self.limits_of(leased.step).allow_more(leased.limits, class)
    }
}
