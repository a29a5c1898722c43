//! What fleetctl's exit codes mean. They are a promise to scripts; docs/cli.md tells users.

use std::process::{ExitCode, Termination};

/// How fleetctl ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for was done. With a base: the report is printed, whether or not it has changes.
    Success,
    /// Nothing useful was done: a wrong option, no hosts, no flake, no daemon.
    Error,
    /// The result is complete and printed, but at least one host failed, or something kept is damaged.
    HostsFailed,
    /// The coordinator cannot be reached, or was lost for too long: the run may go on there.
    Unreachable,
    /// The coordinator does not let us, or is not who it should be.
    Refused,
    /// The user left a run that goes on.
    Detached,
    /// Interrupted by the user.
    Cancelled,
}

impl Exit {
    /// The number. 2 and 3 belong to updates.
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Error => 1,
            Self::HostsFailed => 4,
            Self::Unreachable => 5,
            Self::Refused => 6,
            Self::Detached => 7,
            Self::Cancelled => 130,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}
