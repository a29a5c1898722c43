//! What an ended build means for whoever decides what happens next.
//!
//! Nix's status words mix causes: a refusal, a missing input and a broken sandbox can share one. Where they
//! do, the daemon's message decides. The phrases are those of Nix 2.18 to 2.35.

use super::build_result::{BuildResult, BuildStatus};
use super::error::DaemonError;

/// What became of an attempt to build or substitute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BuildVerdict {
    /// The builder ran and succeeded.
    Built,
    /// Outputs came from a substituter.
    Substituted,
    /// Outputs were valid before.
    AlreadyValid,
    /// The builder failed: final.
    BuildFailed,
    /// Too long, or too long silent: final.
    TimedOut,
    /// Too much log: final.
    LogLimit,
    /// What the builder made breaks a rule (references, size, hash, repeatability): final.
    OutputRejected,
    /// May succeed elsewhere or later: a fixed-output or unsandboxed builder failed, or the disk is full.
    Transient,
    /// The machine or the daemon failed, not the step.
    Infrastructure,
    /// This daemon does not build such steps: wrong system, a missing feature, no jobs, no sandbox to leave.
    Placement,
    /// An input was not there, and could not be had.
    InputMissing,
    /// The daemon does not trust us with this derivation: build from the derivation in the store instead.
    NotTrusted,
    /// Stopped on our request.
    Cancelled,
}

impl BuildVerdict {
    /// Of a result, or of the error that came instead of one.
    pub fn of(outcome: &Result<BuildResult, DaemonError>) -> Self {
        match outcome {
            Ok(result) => Self::of_result(result.status, &result.error_message),
            Err(error) => Self::of_error(error),
        }
    }

    /// Of a status and the message that came with it.
    pub fn of_result(status: BuildStatus, message: &str) -> Self {
        match status {
            BuildStatus::Built => Self::Built,
            BuildStatus::Substituted => Self::Substituted,
            BuildStatus::AlreadyValid | BuildStatus::ResolvesToAlreadyValid => Self::AlreadyValid,
            BuildStatus::PermanentFailure | BuildStatus::CachedFailure => Self::BuildFailed,
            BuildStatus::InputRejected => Self::Placement,
            BuildStatus::OutputRejected | BuildStatus::NotDeterministic => Self::OutputRejected,
            BuildStatus::TransientFailure => Self::Transient,
            BuildStatus::TimedOut => Self::TimedOut,
            BuildStatus::DependencyFailed | BuildStatus::NoSubstituters => Self::InputMissing,
            BuildStatus::LogLimitExceeded => Self::LogLimit,
            BuildStatus::MiscFailure | BuildStatus::Other(_) => Self::of_message(message),
        }
    }

    /// Of an error that ended the operation.
    pub fn of_error(error: &DaemonError) -> Self {
        match error {
            DaemonError::Aborted => Self::Cancelled,
            DaemonError::NotValid(_) => Self::InputMissing,
            DaemonError::Remote(error) => Self::of_message(&error.message),
            _ => Self::Infrastructure,
        }
    }

    /// Whether the outputs are there.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Built | Self::Substituted | Self::AlreadyValid)
    }

    fn of_message(message: &str) -> Self {
        let phrases = [
            ("not privileged to build input-addressed derivations", Self::NotTrusted),
            ("'__noChroot' set", Self::Placement),
            ("is required to build", Self::Placement),
            ("Unable to start any build", Self::Placement),
            ("substitution is disabled", Self::InputMissing),
            ("' are missing", Self::InputMissing),
            ("' is not valid", Self::InputMissing),
            ("no substituter that can build it", Self::InputMissing),
            ("don't know how to build these paths", Self::InputMissing),
            ("cannot build missing derivation", Self::InputMissing),
            ("No space left on device", Self::Transient),
        ];
        let found = phrases.into_iter().find(|(phrase, _)| message.contains(phrase));
        found.map_or(Self::Infrastructure, |(_, verdict)| verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::RemoteError;

    #[test]
    fn every_status_has_a_verdict() {
        use BuildVerdict as V;
        let verdicts = [
            (0, V::Built),
            (1, V::Substituted),
            (2, V::AlreadyValid),
            (3, V::BuildFailed),
            (4, V::Placement),
            (5, V::OutputRejected),
            (6, V::Transient),
            (7, V::BuildFailed),
            (8, V::TimedOut),
            (9, V::Infrastructure),
            (10, V::InputMissing),
            (11, V::LogLimit),
            (12, V::OutputRejected),
            (13, V::AlreadyValid),
            (14, V::InputMissing),
            (15, V::Infrastructure),
            (u64::MAX, V::Infrastructure),
        ];
        for (word, verdict) in verdicts {
            let status = BuildStatus::from_word(word);
            assert_eq!(status.word(), word);
            assert_eq!(BuildVerdict::of_result(status, ""), verdict, "{status:?}");
            assert_eq!(verdict.is_success(), status.is_success());
        }
    }

    #[test]
    fn messages_tell_refusals_and_missing_inputs_from_broken_machines() {
        let of = |message: &str| BuildVerdict::of_result(BuildStatus::MiscFailure, message);
        let refused = "derivation '/nix/store/x.drv' has '__noChroot' set, but that's not allowed when 'sandbox' is 'true'";
        assert_eq!(of(refused), BuildVerdict::Placement);
        let foreign = "a 'riscv64-linux' with features {} is required to build '/nix/store/x.drv', but I am a 'x86_64-linux'";
        assert_eq!(of(foreign), BuildVerdict::Placement);
        assert_eq!(of("Unable to start any build;\neither increase '--max-jobs'"), BuildVerdict::Placement);
        let gone = "some dependencies of '/nix/store/x.drv' are missing";
        assert_eq!(of(gone), BuildVerdict::InputMissing);
        let missing =
            "dependency '/nix/store/a' of '/nix/store/b.drv' does not exist, and substitution is disabled";
        assert_eq!(of(missing), BuildVerdict::InputMissing);
        assert_eq!(
            of("setting up a private mount namespace: Operation not permitted"),
            BuildVerdict::Infrastructure
        );
        // The builder's own failure stays one, whatever it printed.
        let printed = BuildVerdict::of_result(BuildStatus::PermanentFailure, "No space left on device");
        assert_eq!(printed, BuildVerdict::BuildFailed);
    }

    #[test]
    fn thrown_errors_are_told_apart() {
        let of = |message: &str| {
            let message = message.to_owned();
            BuildVerdict::of(&Err(DaemonError::from(Box::new(RemoteError {
                message,
                ..RemoteError::default()
            }))))
        };
        let untrusted = "you are not privileged to build input-addressed derivations";
        assert_eq!(of(untrusted), BuildVerdict::NotTrusted);
        assert_eq!(of("path '/nix/store/x' is not valid"), BuildVerdict::InputMissing);
        assert_eq!(of("interrupted by the user"), BuildVerdict::Infrastructure);
        assert_eq!(BuildVerdict::of_error(&DaemonError::Aborted), BuildVerdict::Cancelled);
        assert_eq!(BuildVerdict::of_error(&DaemonError::Poisoned), BuildVerdict::Infrastructure);
    }
}
