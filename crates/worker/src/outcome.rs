//! What the end of an attempt means, in the words of the wire: the step's own failure, or this machine's. The daemon's
//! verdict is weighed against what was seen of the machine.

use fleet_nix::daemon::{BuildVerdict, DaemonError};
use fleet_wire::v1;
use fleet_wire::v1::OutcomeClass;

use crate::attempt::Made;
use crate::infos::to_wire;
use crate::lease::StepError;
use crate::transfer::TransferError;
use crate::witness::Witness;

/// How an attempt ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) class: OutcomeClass,
    pub(crate) message: String,
    pub(crate) outputs: Vec<v1::BuiltOutput>,
    /// Inputs that nobody has any more.
    pub(crate) missing: Vec<String>,
}

/// What Nix and the system say of a full disk; the first only where it is not the builder that says it.
const NO_SPACE: &str = "No space left on device";
const LACK_OF_SPACE: &str = "lack of free disk space";
/// Nix's words for a builder that was killed, by a signal or below a shell.
const KILLED: [&str; 2] = ["due to signal 9", "exit code 137"];

impl Outcome {
    pub(crate) fn failed(class: OutcomeClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), outputs: Vec::new(), missing: Vec::new() }
    }

    /// The daemon answered.
    pub(crate) fn of_made(made: Made, witness: &Witness) -> Self {
        let class = weighed(made.verdict, &made.message, witness.saw_full_disk(), witness.saw_oom_kill());
        let outputs = made.outputs.iter().filter(|_| made.verdict.is_success());
        let outputs = outputs
            .map(|(name, path)| v1::BuiltOutput {
                name: name.to_string(),
                path: path.to_string(),
                info: made.infos.iter().find(|info| info.path == *path).map(|info| to_wire(info)),
            })
            .collect();
        let is_said = made.message.contains(NO_SPACE) || made.message.contains(LACK_OF_SPACE);
        let message = match class {
            OutcomeClass::DiskFull if !is_said => {
                format!("the disk was full while it was built: {}", made.message)
            }
            _ => made.message,
        };
        Self { class, message, outputs, missing: Vec::new() }
    }

    /// There is no answer.
    pub(crate) fn of_error(error: &StepError, witness: Option<&Witness>) -> Self {
        let message = fleet_telemetry::with_causes(error);
        let (full, oom) = witness.map_or((false, false), |seen| (seen.saw_full_disk(), seen.saw_oom_kill()));
        let class = match error {
            StepError::Transfer(error) => error.class(),
            StepError::NoDerivation(_) | StepError::Unaccounted { .. } => OutcomeClass::Placement,
            StepError::TimedOut(_) => OutcomeClass::TimedOut,
            StepError::LogLimit(_) => OutcomeClass::LogLimit,
            StepError::TooBig { .. } => OutcomeClass::OutputTooBig,
            StepError::Spoilt => OutcomeClass::DiskFull,
            StepError::Daemon(error) => match error {
                DaemonError::Remote(remote) => {
                    weighed(BuildVerdict::of_error(error), &remote.message, full, oom)
                }
                DaemonError::NotValid(_) => OutcomeClass::InputMissing,
                DaemonError::Request(_) | DaemonError::Source(_) | DaemonError::Sink(_) => {
                    OutcomeClass::Infrastructure
                }
                // Not reached, lost, or out of step with us.
                _ => OutcomeClass::DaemonGone,
            },
            _ => OutcomeClass::Infrastructure,
        };
        let missing = match error {
            StepError::Transfer(TransferError::Lost(paths)) => {
                paths.iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        };
        Self { missing, ..Self::failed(class, message) }
    }
}

fn weighed(verdict: BuildVerdict, message: &str, saw_full_disk: bool, saw_oom_kill: bool) -> OutcomeClass {
    let is_builders = verdict == BuildVerdict::BuildFailed;
    let says_full = message.contains(LACK_OF_SPACE) || !is_builders && message.contains(NO_SPACE);
    match verdict {
        // Whatever a full disk made of it, it may be well elsewhere.
        BuildVerdict::Built
        | BuildVerdict::BuildFailed
        | BuildVerdict::OutputRejected
        | BuildVerdict::Transient
        | BuildVerdict::Infrastructure
            if says_full || saw_full_disk =>
        {
            OutcomeClass::DiskFull
        }
        BuildVerdict::BuildFailed | BuildVerdict::Transient
            if saw_oom_kill && KILLED.iter().any(|killed| message.contains(killed)) =>
        {
            OutcomeClass::OutOfMemory
        }
        BuildVerdict::Built | BuildVerdict::Substituted => OutcomeClass::Built,
        BuildVerdict::AlreadyValid => OutcomeClass::AlreadyValid,
        BuildVerdict::BuildFailed => OutcomeClass::BuildFailed,
        BuildVerdict::TimedOut => OutcomeClass::TimedOut,
        BuildVerdict::LogLimit => OutcomeClass::LogLimit,
        BuildVerdict::OutputRejected => OutcomeClass::OutputRejected,
        BuildVerdict::Transient => OutcomeClass::Transient,
        BuildVerdict::Infrastructure | BuildVerdict::Cancelled => OutcomeClass::Infrastructure,
        BuildVerdict::Placement | BuildVerdict::NotTrusted => OutcomeClass::Placement,
        BuildVerdict::InputMissing => OutcomeClass::InputMissing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_lack_of_memory_are_the_machines() {
        use BuildVerdict as V;
        use OutcomeClass as C;
        let cases = [
            (V::Built, "", false, false, C::Built),
            (V::Built, "", true, false, C::DiskFull),
            (V::AlreadyValid, "", true, false, C::AlreadyValid),
            (V::BuildFailed, "exit code 1", false, false, C::BuildFailed),
            (V::BuildFailed, "exit code 1", true, false, C::DiskFull),
            (V::BuildFailed, "cp: No space left on device", false, false, C::BuildFailed),
            (V::BuildFailed, "may have been caused by lack of free disk space", false, false, C::DiskFull),
            (V::Transient, "writing to file: No space left on device", false, false, C::DiskFull),
            (
                V::Infrastructure,
                "database or disk is full: No space left on device",
                false,
                false,
                C::DiskFull,
            ),
            (V::BuildFailed, "failed due to signal 9 (Killed)", false, false, C::BuildFailed),
            (V::BuildFailed, "failed due to signal 9 (Killed)", false, true, C::OutOfMemory),
            (V::BuildFailed, "failed with exit code 137;", false, true, C::OutOfMemory),
            (V::BuildFailed, "failed with exit code 1;", false, true, C::BuildFailed),
            (V::TimedOut, "", true, true, C::TimedOut),
            (V::Placement, "", true, true, C::Placement),
            (V::NotTrusted, "", false, false, C::Placement),
        ];
        for (verdict, message, full, oom, class) in cases {
            assert_eq!(weighed(verdict, message, full, oom), class, "{verdict:?} {message} {full} {oom}");
        }
    }

    #[test]
    fn errors_without_an_answer_are_told_apart() {
        let class = |error: StepError| Outcome::of_error(&error, None).class;
        let lost = || DaemonError::Io(std::io::ErrorKind::UnexpectedEof.into());
        assert_eq!(class(lost().into()), OutcomeClass::DaemonGone);
        assert_eq!(class(DaemonError::Poisoned.into()), OutcomeClass::DaemonGone);
        assert_eq!(class(StepError::NotStarted(5)), OutcomeClass::Infrastructure);
        assert_eq!(class(StepError::TimedOut(String::new())), OutcomeClass::TimedOut);
        assert_eq!(class(StepError::TooBig { size: 2, limit: 1 }), OutcomeClass::OutputTooBig);
        assert_eq!(class(StepError::Spoilt), OutcomeClass::DiskFull);
    }
}
