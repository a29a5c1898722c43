//! What a failed handshake means to whoever dialled: which certificate is wrong, how, and what to do.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::identity::Identity;

/// Why two ends do not come together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsFailure {
    /// Of the coordinator, by our clock.
    #[error(
        "the coordinator's certificate has expired by this machine's clock: compare the clocks, or restart the coordinator"
    )]
    CoordinatorExpired,
    /// Of the coordinator, by our clock.
    #[error("the coordinator's certificate is not valid yet by this machine's clock: compare the clocks")]
    CoordinatorNotYetValid,
    /// Not of a CA that we trust.
    #[error(
        "the coordinator's certificate is of a CA that is not trusted here: is this the right coordinator? has its CA been replaced?"
    )]
    CoordinatorForeign,
    /// Another name than the one dialled.
    #[error(
        "the coordinator's certificate is not for the name that was dialled: use one of its names, or add this one to its configuration"
    )]
    CoordinatorOtherName,
    /// Signed in a way, or made for a purpose, that does not count.
    #[error("the coordinator's certificate cannot be used: {0}")]
    CoordinatorUnusable(String),
    /// Ours, by both clocks.
    #[error("your certificate has expired: enrol or have it made again")]
    OwnExpired,
    /// Ours, by both clocks.
    #[error("your certificate is not valid yet: compare this machine's clock with the coordinator's")]
    OwnNotYetValid,
    /// Ours is valid by our clock, and the coordinator says it is not.
    #[error(
        "the coordinator finds your certificate expired or not valid yet, by this machine's clock it is valid: the coordinator's clock and this one differ"
    )]
    ClocksDiffer,
    /// Ours is not of a CA that the coordinator trusts.
    #[error(
        "the coordinator does not know the CA of your certificate: it belongs to another coordinator, or the CA has been replaced"
    )]
    OwnForeign,
    /// Ours is refused for another reason.
    #[error("the coordinator refused your certificate: {0}")]
    OwnRefused(String),
    /// The port speaks something else.
    #[error("the other end does not speak TLS: is the port right?")]
    NotTls,
    /// The other end speaks TLS, but not to us.
    #[error("the handshake failed: {0}")]
    Handshake(String),
}

/// Finds the TLS failure among an error and its causes; `own` is the certificate that was shown, `now` seconds
/// since 1970. None if the error is of another kind, a lost connection for example.
pub fn explain(error: &(dyn Error + 'static), own: Option<&Identity>, now: u64) -> Option<TlsFailure> {
    match causes(error).find_map(|error| error.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(error)) => Some(coordinators(error)),
        Some(rustls::Error::AlertReceived(alert)) => Some(ours(*alert, own, now)),
        Some(rustls::Error::InvalidMessage(_)) => Some(TlsFailure::NotTls),
        Some(other) => Some(TlsFailure::Handshake(other.to_string())),
        None => {
            causes(error).find_map(|error| alert_in(&error.to_string())).map(|alert| ours(alert, own, now))
        }
    }
}

/// HTTP/2 keeps of an error only its text, and hears of a refused certificate where it first reads.
fn alert_in(text: &str) -> Option<AlertDescription> {
    const ALERTS: [AlertDescription; 9] = [
        AlertDescription::AccessDenied,
        AlertDescription::BadCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::DecryptError,
        AlertDescription::UnknownCA,
        AlertDescription::UnsupportedCertificate,
    ];
    ALERTS.into_iter().find(|alert| text.ends_with(&rustls::Error::AlertReceived(*alert).to_string()))
}

fn coordinators(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::CoordinatorExpired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsFailure::CoordinatorNotYetValid
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsFailure::CoordinatorForeign,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsFailure::CoordinatorOtherName
        }
        other => TlsFailure::CoordinatorUnusable(other.to_string()),
    }
}

/// The other end says only that the certificate is not of this time: our own copy tells which way.
fn ours(alert: AlertDescription, own: Option<&Identity>, now: u64) -> TlsFailure {
    match (alert, own) {
        (AlertDescription::CertificateExpired, Some(own)) if own.not_after < now => TlsFailure::OwnExpired,
        (AlertDescription::CertificateExpired, Some(own)) if now < own.not_before => {
            TlsFailure::OwnNotYetValid
        }
        (AlertDescription::CertificateExpired, Some(_)) => TlsFailure::ClocksDiffer,
        (AlertDescription::CertificateExpired, None) => TlsFailure::OwnExpired,
        // A CA of the same name with another key gives a bad signature instead.
        (AlertDescription::UnknownCA | AlertDescription::DecryptError, Some(_)) => TlsFailure::OwnForeign,
        (
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied,
            _,
        ) => TlsFailure::OwnRefused(format!("{alert:?}")),
        _ => TlsFailure::Handshake(format!("{alert:?}")),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    // Errors are made by libraries: their chains end, but nothing promises it.
    const MAX_CAUSES: usize = 32;
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error: &'a (dyn Error + 'static) = *error;
        // `source` of an IO error skips the very error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
    })
    .take(MAX_CAUSES)
}
