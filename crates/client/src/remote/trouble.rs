//! What a failed request means: whether trying again can help, and who is to blame. Pure.

use std::error::Error;
use std::io;

use fleet_identity::tls::{TlsFailure, explain};
use tokio_rustls::rustls;
use tonic::{Code, Status};

use super::connection::ReachError;
use super::credentials::CredentialError;

/// Kinds of failure that a user meets differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The coordinator cannot be reached, or cannot answer now.
    Unreachable,
    /// Its host is not known: a slip of the pen before the first contact, an outage after it.
    UnknownHost,
    /// Who we are does not suffice, or is not believed.
    Refused,
    /// The coordinator is not who it should be.
    Impostor,
    /// We cannot say who we are.
    Credentials,
    /// It was understood and answered: again would be the same.
    Answered,
}

impl Trouble {
    /// Of a failed request.
    pub fn of(status: &Status) -> Self {
        if let Some(of_stream) = causes(status).find_map(of_cause) {
            return of_stream;
        }
        match status.code() {
            Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::DataLoss => Self::Unreachable,
            Code::Unauthenticated | Code::PermissionDenied => Self::Refused,
            _ => Self::Answered,
        }
    }

    /// Whether it may be gone the next time.
    pub fn passes(self) -> bool {
        matches!(self, Self::Unreachable | Self::UnknownHost)
    }
}

/// In a few words what went wrong on the way, for a person.
pub fn reason(status: &Status) -> String {
    match causes(status).find_map(|cause| cause.downcast_ref::<ReachError>()) {
        Some(error) => crate::error::chain(error),
        None if status.message().is_empty() => "the connection broke".to_owned(),
        None if causes(status).next().is_some() => "the connection broke".to_owned(),
        None => status.message().to_owned(),
    }
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |error| inner(*error))
}

/// An `io::Error` hides the error it was made of one level deeper than `source` looks.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.map(|error| error as &(dyn Error + 'static)).or_else(|| error.source())
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Trouble> {
    if cause.is::<CredentialError>() {
        return Some(Trouble::Credentials);
    }
    if cause.is::<rustls::Error>() {
        // An alert that came after our half of the handshake: the coordinator has looked at our certificate.
        return explain(cause, None, 0).map(|failure| of_tls(&failure));
    }
    match cause.downcast_ref::<ReachError>()? {
        ReachError::Resolve { .. } => Some(Trouble::UnknownHost),
        ReachError::Connect { .. } | ReachError::Silent(_) => Some(Trouble::Unreachable),
        ReachError::Credentials(_) => Some(Trouble::Credentials),
        ReachError::Tls { source, .. } => Some(of_tls(source)),
    }
}

fn of_tls(failure: &TlsFailure) -> Trouble {
    match failure {
        TlsFailure::OwnExpired
        | TlsFailure::OwnNotYetValid
        | TlsFailure::ClocksDiffer
        | TlsFailure::OwnForeign
        | TlsFailure::OwnRefused(_) => Trouble::Refused,
        TlsFailure::CoordinatorExpired
        | TlsFailure::CoordinatorNotYetValid
        | TlsFailure::CoordinatorForeign
        | TlsFailure::CoordinatorOtherName
        | TlsFailure::CoordinatorUnusable(_)
        | TlsFailure::NotTls
        | TlsFailure::Handshake(_) => Trouble::Impostor,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn caused_by(error: impl Error + Send + Sync + 'static) -> Status {
        let mut status = Status::unavailable("transport error");
        status.set_source(Arc::new(error));
        status
    }

    fn tls(source: TlsFailure) -> ReachError {
        ReachError::Tls { endpoint: "https://c:7143".to_owned(), source }
    }

    #[test]
    fn what_can_pass_is_told_from_what_cannot() {
        let refused = Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused));
        let connect = ReachError::Connect { endpoint: "https://c:7143".to_owned(), source: refused };
        assert_eq!(Trouble::of(&caused_by(connect.clone())), Trouble::Unreachable);
        assert_eq!(reason(&caused_by(connect)), "cannot connect to https://c:7143: connection refused");
        assert_eq!(Trouble::of(&caused_by(tls(TlsFailure::CoordinatorForeign))), Trouble::Impostor);
        assert_eq!(Trouble::of(&caused_by(tls(TlsFailure::OwnExpired))), Trouble::Refused);
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired);
        assert_eq!(
            Trouble::of(&caused_by(io::Error::new(io::ErrorKind::InvalidData, alert))),
            Trouble::Refused
        );
        assert_eq!(Trouble::of(&caused_by(CredentialError::NoAuthorities)), Trouble::Credentials);
        for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::DeadlineExceeded] {
            assert!(Trouble::of(&Status::new(code, "")).passes(), "{code}");
        }
        for code in [Code::NotFound, Code::InvalidArgument, Code::AlreadyExists, Code::Unimplemented] {
            assert_eq!(Trouble::of(&Status::new(code, "")), Trouble::Answered, "{code}");
        }
        assert_eq!(Trouble::of(&Status::permission_denied("")), Trouble::Refused);
    }
}
