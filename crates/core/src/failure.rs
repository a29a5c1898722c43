//! Failures: why something ended without a result, and what that says about whom.
//!
//! Owns the classes and what follows from each alone; how often something is tried is the business of retries.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::DrvPath;

/// What may be done about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailureClass {
    /// The builder failed: final.
    BuildFailed,
    /// Wall or silence limit: final.
    TimedOut,
    /// Log limit: final.
    LogLimit,
    /// Outputs refused (references, size, hash): final.
    OutputRejected,
    /// Might work elsewhere or later; bounded retries, then final.
    Transient,
    /// Not the step's fault; bounded retries.
    Infrastructure,
    /// This worker cannot build it: another may.
    Placement,
    /// An input was not there: bounded retries.
    InputMissing,
    /// The worker's disk is full: not the step's fault, and elsewhere there is room.
    DiskFull,
    /// The kernel killed the builder for want of memory: another worker may have more.
    OutOfMemory,
    /// Inputs or outputs could not be moved.
    Transfer,
    /// The Nix daemon went away.
    DaemonGone,
    /// Outputs are larger than the limit: final.
    OutputTooBig,
    /// Stopped on request.
    Cancelled,
}

/// Why something ended without a result, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable code, lower snake case; proto/fleet/v1/common.proto lists them.
    pub code: FailureCode,
    /// One sentence.
    pub cause: Arc<str>,
    /// Trace or log tail.
    pub detail: Arc<str>,
    /// The derivation that failed, if one did.
    pub drv: Option<DrvPath>,
}

/// Stable names of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it; common.proto explains the codes")]
pub enum FailureCode {
    EvalFailed,
    EvalDied,
    BuildFailed,
    TimedOut,
    LogLimit,
    OutputRejected,
    DependencyFailed,
    NoWorker,
    Cancelled,
    Infrastructure,
    NoSource,
    NoHosts,
    WorkerLost,
    DiskFull,
    OutOfMemory,
    Transfer,
    DaemonGone,
    OutputTooBig,
}

impl FailureClass {
    /// Whether a failure of this kind speaks against the worker and not against the step.
    pub(crate) fn blames_worker(self) -> bool {
        matches!(
            self,
            Self::Infrastructure | Self::DiskFull | Self::OutOfMemory | Self::Transfer | Self::DaemonGone
        )
    }

    /// Whether it is the derivation's own, and would come again anywhere.
    pub(crate) fn is_the_step_s(self) -> bool {
        matches!(
            self,
            Self::BuildFailed | Self::TimedOut | Self::LogLimit | Self::OutputRejected | Self::OutputTooBig
        )
    }
}

impl FailureCode {
    /// Whether another try may help, as nothing that was asked for is to blame.
    pub(crate) fn is_infrastructure(self) -> bool {
        matches!(
            self,
            Self::Infrastructure
                | Self::WorkerLost
                | Self::DiskFull
                | Self::OutOfMemory
                | Self::Transfer
                | Self::DaemonGone
        )
    }
}
