//! What fleetctl's exit codes mean. They are a promise to scripts; docs/cli.md tells users.

use std::process::{ExitCode, Termination};

/// How fleetctl ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for was done. With a base: the report is printed, whether or not it has changes.
    Success,
    /// Nothing useful was done: a wrong option, no hosts, no flake, no daemon.
    Error,
    /// The result is complete and printed, but at least one host failed.
    HostsFailed,
    /// Interrupted by the user.
    Cancelled,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Error => 1,
            Self::HostsFailed => 4,
            Self::Cancelled => 130,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}
