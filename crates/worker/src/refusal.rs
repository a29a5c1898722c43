//! Why a session did not come about or ended, what to tell people, and how soon another try makes sense.

use std::error::Error;

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
    pub(crate) fn of(status: &Status) -> Self {
        let said = status.message();
        let certificate = certificate_trouble(status);
        let (pace, text) = match (status.code(), certificate) {
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

/// What is wrong with a certificate, where the handshake failed for that.
fn certificate_trouble(status: &Status) -> Option<String> {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if let Some(error) = tls_error(error) {
            return of_tls(error);
        }
        cause = error.source();
    }
    None
}

/// IO errors hide what they wrap from `source`.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(error);
    }
    let io = error.downcast_ref::<std::io::Error>()?;
    io.get_ref()?.downcast_ref::<rustls::Error>()
}

fn of_tls(error: &rustls::Error) -> Option<String> {
    use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};
    let text = match error {
        Tls::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "the coordinator's certificate has expired: renew it, or set this machine's clock".to_owned()
        }
        Tls::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => {
            "the coordinator's certificate is not valid yet: is this machine's clock slow?".to_owned()
        }
        Tls::InvalidCertificate(bad) => format!(
            "the coordinator's certificate is not one that this worker trusts ({bad}): is it another coordinator, or \
             has its CA been replaced? If so, {ENROL}"
        ),
        Tls::AlertReceived(Alert::CertificateExpired) => {
            format!("this worker's certificate has expired: {ENROL}")
        }
        Tls::AlertReceived(Alert::CertificateRevoked) => {
            format!("this worker's certificate has been revoked: {ENROL}")
        }
        Tls::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied),
        ) => format!("the coordinator refuses this worker's certificate ({alert:?}): {ENROL}"),
        _ => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(error: rustls::Error) -> Refusal {
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        Refusal::of(&Status::from_error(Box::new(io)))
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
            let refusal = Refusal::of(&status);
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
            assert_eq!(Refusal::of(&status).pace, Pace::Soon, "{status}");
        }
    }
}
