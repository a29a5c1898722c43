//! What may be done about a failed attempt.
//!
//! Owns the counts of one step's failures; knows nothing of graphs, workers or clocks.

use crate::config::FleetConfig;
use crate::failure::FailureClass;

/// How often a step failed in ways that are not final. Forgotten when nobody wants the step any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tries {
    transient: u16,
    infrastructure: u16,
    /// Workers that were lost with it.
    losses: u16,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Final,
    /// Another attempt after a rest.
    Again { after_ms: u64 },
    /// Another attempt, on another worker.
    Elsewhere,
}

/// Whether trying again may help with a fault of this kind, whatever happened to other steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Fixed-output derivations fetch: what fails now may work later.
    FixedOutput,
    /// Everything else.
    Ordinary,
}

impl Tries {
    /// Counts a failure and says what follows.
    pub(crate) fn judge(&mut self, class: FailureClass, kind: Kind, config: &FleetConfig) -> Verdict {
        match class {
            FailureClass::BuildFailed if kind == Kind::FixedOutput => {
                count(&mut self.transient, config.transient_attempts, config)
            }
            FailureClass::BuildFailed
            | FailureClass::TimedOut
            | FailureClass::LogLimit
            | FailureClass::OutputRejected
            | FailureClass::OutputTooBig => Verdict::Final,
            FailureClass::Transient => count(&mut self.transient, config.transient_attempts, config),
            // A worker that stops on its own is no fault of the step, but must not stop for ever.
            FailureClass::Infrastructure
            | FailureClass::InputMissing
            | FailureClass::Cancelled
            | FailureClass::DiskFull
            | FailureClass::OutOfMemory
            | FailureClass::Transfer
            | FailureClass::DaemonGone => {
                count(&mut self.infrastructure, config.infrastructure_attempts, config)
            }
            FailureClass::Placement => Verdict::Elsewhere,
        }
    }

    /// Counts a worker that was lost with the step and says what follows: perhaps the step kills workers.
    pub(crate) fn judge_loss(&mut self, config: &FleetConfig) -> Verdict {
        match count(&mut self.losses, config.workers_per_crashing_step, config) {
            // Another worker is not to blame: it needs no rest.
            Verdict::Again { .. } => Verdict::Again { after_ms: 0 },
            verdict => verdict,
        }
    }

    pub(crate) fn losses(self) -> u16 {
        self.losses
    }

    pub(crate) fn within(self, config: &FleetConfig) -> bool {
        u32::from(self.transient) <= config.transient_attempts.max(1)
            && u32::from(self.infrastructure) <= config.infrastructure_attempts.max(1)
            && u32::from(self.losses) <= config.workers_per_crashing_step.max(1)
    }
}

fn count(failures: &mut u16, attempts: u32, config: &FleetConfig) -> Verdict {
    *failures = failures.saturating_add(1);
    if u32::from(*failures) >= attempts || *failures == u16::MAX {
        return Verdict::Final;
    }
    Verdict::Again { after_ms: config.backoff.delay_ms(u32::from(*failures)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(class: FailureClass, kind: Kind) -> Vec<Verdict> {
        let config =
            FleetConfig { transient_attempts: 2, infrastructure_attempts: 3, ..FleetConfig::default() };
        let mut tries = Tries::default();
        (0..4).map(|_| tries.judge(class, kind, &config)).collect()
    }

    #[test]
    fn a_step_that_failed_by_itself_is_not_tried_again() {
        for class in [
            FailureClass::BuildFailed,
            FailureClass::TimedOut,
            FailureClass::LogLimit,
            FailureClass::OutputRejected,
        ] {
            assert_eq!(verdicts(class, Kind::Ordinary), [Verdict::Final; 4]);
        }
    }

    #[test]
    fn retries_are_bounded_and_rest_longer_each_time() {
        let again = |after_ms| Verdict::Again { after_ms };
        for class in [FailureClass::Infrastructure, FailureClass::InputMissing, FailureClass::Cancelled] {
            let expected = [again(1_000), again(3_000), Verdict::Final, Verdict::Final];
            assert_eq!(verdicts(class, Kind::Ordinary), expected);
        }
        let expected = [again(1_000), Verdict::Final, Verdict::Final, Verdict::Final];
        assert_eq!(verdicts(FailureClass::Transient, Kind::Ordinary), expected);
    }

    #[test]
    fn a_failed_download_is_tried_again() {
        let first = verdicts(FailureClass::BuildFailed, Kind::FixedOutput)[0];
        assert_eq!(first, Verdict::Again { after_ms: 1_000 });
    }

    #[test]
    fn one_worker_s_refusal_counts_against_nobody() {
        assert_eq!(verdicts(FailureClass::Placement, Kind::Ordinary), [Verdict::Elsewhere; 4]);
    }
}
