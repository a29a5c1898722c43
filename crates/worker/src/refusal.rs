//! Why a session did not come about or ended, what to tell people, and how soon another try makes sense.

use fleet_identity::tls::{TlsFailure, explain};
use fleet_identity::{Identity, unix_now};
use tonic::{Code, Status};

/// How soon to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It may work any moment: with a growing wait.
    Soon,
    /// A person has to do something first.
    Slowly,
}

/// An ended session as people should hear of it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) pace: Pace,
    text: String,
}

impl Refusal {
    pub(crate) fn of(status: &Status, own: Option<&Identity>) -> Self {
        let said = status.message();
        let trouble = tls_trouble(status, own);
        let (pace, text) = match (status.code(), trouble) {
            (_, Some(trouble)) => (Pace::Slowly, trouble),
            (Code::Unauthenticated, None) => (
                Pace::Slowly,
                format!("the coordinator does not accept this worker's certificate ({said}): {ENROL}"),
            ),
            (Code::PermissionDenied, None) => (
                Pace::Slowly,
                format!("the coordinator refuses this worker ({said}): an administrator has to let it in"),
            ),
            (Code::FailedPrecondition, None) => {
                (Pace::Slowly, format!("the coordinator does not take this worker now: {said}"))
            }
            (Code::InvalidArgument | Code::Unimplemented | Code::OutOfRange, None) => (
                Pace::Slowly,
                format!(
                    "the coordinator does not understand this worker ({said}): are their versions too far apart?"
                ),
            ),
            _ => (
                Pace::Soon,
                format!("no session with the coordinator: {}", fleet_telemetry::with_causes(status)),
            ),
        };
        Self { pace, text }
    }

    /// Logs it.
    pub(crate) fn tell(&self) {
        match self.pace {
            Pace::Soon => tracing::warn!("{}", self.text),
            Pace::Slowly => tracing::error!("{}; trying again now and then", self.text),
        }
    }
}

const ENROL: &str =
    "enrol it again: make a token with `fleetctl worker token`, then run `fleet-worker enroll`";

/// What is wrong with the handshake, unless it merely broke.
fn tls_trouble(status: &Status, own: Option<&Identity>) -> Option<String> {
    // The other end's alert may be lost in the connection's end: our own clock knows as well.
    let now = unix_now();
    let failure = explain(status, own, now).or_else(|| match own? {
        own if own.not_after < now => Some(TlsFailure::OwnExpired),
        own if now < own.not_before => Some(TlsFailure::OwnNotYetValid),
        _ => None,
    })?;
    match failure {
        TlsFailure::Handshake(_) => None,
        TlsFailure::OwnExpired | TlsFailure::OwnForeign | TlsFailure::OwnRefused(_) => {
            Some(format!("{failure}; {ENROL}"))
        }
        _ => Some(failure.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: rustls::Error) -> Refusal {
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        Refusal::of(&Status::from_error(Box::new(io)), None)
    }

    #[test]
    fn what_only_a_person_can_mend_is_tried_slowly_and_says_what_to_do() {
        use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};
        let expired = failed(Tls::AlertReceived(Alert::CertificateExpired));
        assert_eq!(expired.pace, Pace::Slowly);
        assert!(expired.text.contains("has expired") && expired.text.contains("fleet-worker enroll"));
        let early = failed(Tls::InvalidCertificate(Bad::NotValidYet));
        assert!(early.text.contains("not valid yet") && early.text.contains("clock"), "{}", early.text);
        let late = failed(Tls::InvalidCertificate(Bad::Expired));
        assert!(late.text.contains("coordinator's certificate has expired"), "{}", late.text);
        for status in [
            Status::permission_denied("worker w was revoked"),
            Status::failed_precondition("worker w is locked"),
            Status::unauthenticated("no certificate"),
            Status::invalid_argument("no systems"),
        ] {
            let refusal = Refusal::of(&status, None);
            assert_eq!(refusal.pace, Pace::Slowly);
            assert!(refusal.text.contains(status.message()), "{}", refusal.text);
        }
    }

    #[test]
    fn what_may_work_any_moment_is_tried_soon() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        for status in [
            Status::unavailable("connection refused"),
            Status::unknown("h2 protocol error"),
            Status::resource_exhausted("too many workers"),
            Status::aborted("replaced"),
            Status::from_error(Box::new(broken)),
        ] {
            assert_eq!(Refusal::of(&status, None).pace, Pace::Soon, "{status}");
        }
    }
}
