//! What one end of a connection shows and trusts: private key, certificate chain, CA certificates.
//!
//! On disk all three are one PEM file of mode 0600, replaced whole, so that a key never stands beside a
//! certificate of another key.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::identity::{Identity, IdentityError};
use crate::keyfile::{self, FileError};

/// Key, certificate and trust of one worker, client or server.
#[derive(Debug)]
pub struct Credentials {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Of the leaf.
    pub key: PrivateKeyDer<'static>,
    /// The CAs whose certificates the other end may show.
    pub authorities: Vec<CertificateDer<'static>>,
}

/// Why a file holds no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not PEM, or cut off.
    #[error("{0}: is not a PEM file")]
    NotPem(PathBuf),
    /// A part is missing, or there is one too many.
    #[error("{path}: holds no {what}")]
    Lacks {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
    },
    /// The certificate names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Credentials {
    /// Reads what [`Credentials::write`] wrote.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let pem = keyfile::read_private(path)?;
        let lacks = |what| CredentialsError::Lacks { path: path.to_owned(), what };
        let (mut chain, mut authorities, mut key) = (vec![], vec![], None);
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(&pem) {
            match section.map_err(|_| CredentialsError::NotPem(path.to_owned()))? {
                (SectionKind::PrivateKey, der) => key = Some(PrivatePkcs8KeyDer::from(der).into()),
                (SectionKind::Certificate, der) if is_authority(&der) => authorities.push(der.into()),
                (SectionKind::Certificate, der) => chain.push(der.into()),
                _ => {}
            }
        }
        let key = key.ok_or_else(|| lacks("private key (PKCS#8)"))?;
        if chain.is_empty() {
            return Err(lacks("certificate of its own"));
        }
        if authorities.is_empty() {
            return Err(lacks("certificate of a CA to trust"));
        }
        Ok(Self { chain, key, authorities })
    }

    /// Puts them in place of those that are there.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        keyfile::write_private(path, self.to_pem().as_bytes())
    }

    /// The text of the file; holds the private key.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let key = pem_block("PRIVATE KEY", self.key.secret_der());
        let certificates = self.chain.iter().chain(&self.authorities);
        let certificates = certificates.map(|der| pem_block("CERTIFICATE", der)).collect::<String>();
        Zeroizing::new(key + &certificates)
    }

    /// Whom the leaf names.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::from_certificate(self.chain.first().ok_or(IdentityError::Malformed)?)
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        let Self { chain, key, authorities } = self;
        Self { chain: chain.clone(), key: key.clone_key(), authorities: authorities.clone() }
    }
}

pub(crate) fn is_authority(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.is_ca())
}

/// Certificates as a PEM file has them.
pub fn certificates_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| pem_block("CERTIFICATE", certificate)).collect()
}

pub(crate) fn pem_block(label: &str, der: &[u8]) -> String {
    const LINE: usize = 64;
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(LINE).map(|at| &text[at..text.len().min(at + LINE)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
