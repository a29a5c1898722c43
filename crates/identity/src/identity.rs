//! Who a certificate says its bearer is.
//!
//! The name stands in one URI of the subject alternative names: `fleet://worker/NAME?enrolment=ID` or
//! `fleet://client/NAME?role=ROLE`. Whether the certificate is genuine is for the TLS handshake to say, whether it
//! still counts for [`crate::registry::Registry::admit`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::name::Name;
use crate::role::Role;
use crate::secret::TokenId;

/// The bearer of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Worker or client, with what the certificate grants.
    pub kind: Kind,
    /// Unique among its kind.
    pub name: Name,
    /// The certificate's serial number, hexadecimal.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: u64,
    /// Seconds since 1970; valid up to and with this second.
    pub not_after: u64,
}

/// What the bearer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Builds and evaluates.
    Worker {
        /// The join token it came with: a later enrolment under the same name ends this one.
        enrolment: TokenId,
    },
    /// Submits, reads or administers.
    Client {
        /// What it may do.
        role: Role,
    },
}

/// Why a certificate names nobody we know how to treat.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not X.509, or with something after it.
    #[error("the certificate cannot be read")]
    Malformed,
    /// No `fleet:` URI, more than one, or one of another shape.
    #[error("the certificate does not name a worker or client of a fleet")]
    Nobody,
}

impl Identity {
    /// Reads a certificate; `der` should have passed the handshake.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::Malformed)?;
        if !rest.is_empty() {
            return Err(IdentityError::Malformed);
        }
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::Malformed)?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        let [GeneralName::URI(uri)] = names else { return Err(IdentityError::Nobody) };
        let (kind, name) = parse_uri(uri).ok_or(IdentityError::Nobody)?;
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        Ok(Self {
            kind,
            name,
            serial: hex(certificate.raw_serial()),
            not_before: seconds(certificate.validity().not_before),
            not_after: seconds(certificate.validity().not_after),
        })
    }

    /// The second at which two thirds of the certificate's life are over.
    pub fn renew_at(&self) -> u64 {
        self.not_after - self.not_after.saturating_sub(self.not_before) / 3
    }

    /// A client's role; workers have none.
    pub fn role(&self) -> Option<Role> {
        match self.kind {
            Kind::Client { role } => Some(role),
            Kind::Worker { .. } => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Worker { .. } => write!(f, "worker {}", self.name),
            Kind::Client { .. } => write!(f, "client {}", self.name),
        }
    }
}

/// What stands in the certificate.
pub(crate) fn uri(kind: Kind, name: &Name) -> String {
    match kind {
        Kind::Worker { enrolment } => format!("fleet://worker/{name}?enrolment={enrolment}"),
        Kind::Client { role } => format!("fleet://client/{name}?role={role}"),
    }
}

fn parse_uri(uri: &str) -> Option<(Kind, Name)> {
    let (kind, rest) = uri.strip_prefix("fleet://")?.split_once('/')?;
    let (name, query) = rest.split_once('?')?;
    let kind = match kind {
        "worker" => Kind::Worker { enrolment: parse_after(query, "enrolment=")? },
        "client" => Kind::Client { role: parse_after(query, "role=")? },
        _ => return None,
    };
    Some((kind, name.parse().ok()?))
}

fn parse_after<T: FromStr>(text: &str, prefix: &str) -> Option<T> {
    text.strip_prefix(prefix)?.parse().ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
