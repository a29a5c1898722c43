//! What we show and whom we trust in a TLS handshake, from the files that say so.

use std::path::Path;
use std::sync::Arc;

use fleet_identity::tls::client_config;
use fleet_identity::{Credentials as Own, Identity};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::credentials::{CertificateFiles, CredentialError, Credentials, read, read_private};

/// One side of a handshake.
pub(super) struct Handshake {
    pub(super) config: Arc<ClientConfig>,
    /// Whom our certificate names, if we show one.
    pub(super) own: Option<Identity>,
}

/// Reads the files; they may be others than the last time.
pub(super) fn handshake(credentials: &Credentials) -> Result<Handshake, CredentialError> {
    let own = credentials.certificate.as_ref().map(own).transpose()?;
    let brought = own.as_ref().map(|own| own.authorities.clone()).unwrap_or_default();
    let authorities = match &credentials.ca {
        Some(path) => certificates(path, &read(path)?)?,
        None if brought.is_empty() => of_system()?,
        None => brought,
    };
    let config = client_config(&authorities, own.as_ref())
        .map_err(|error| CredentialError::Unusable(Arc::new(error)))?;
    let identity = match (&own, &credentials.certificate) {
        (Some(own), Some(files)) => {
            let nameless = |error| CredentialError::Nameless(files.certificate.clone(), error);
            Some(own.identity().map_err(nameless)?)
        }
        _ => None,
    };
    Ok(Handshake { config, own: identity })
}

fn own(files: &CertificateFiles) -> Result<Own, CredentialError> {
    let CertificateFiles { certificate, key } = files;
    let Some(key_file) = key else {
        return Own::read(certificate).map_err(|error| CredentialError::Own(Arc::new(error)));
    };
    let chain = certificates(certificate, &read(certificate)?)?;
    let key = PrivateKeyDer::from_pem_slice(&read_private(key_file)?)
        .map_err(|_| CredentialError::Lacks { path: key_file.clone(), what: "private key" })?;
    Ok(Own { chain, key, authorities: Vec::new() })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.ok().filter(|certificates| !certificates.is_empty());
    certificates.ok_or_else(|| CredentialError::Lacks { path: path.to_owned(), what: "certificate" })
}

/// Lists of systems hold certificates that nothing can be verified with: those are passed over.
fn of_system() -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    if certificates.is_empty() { Err(CredentialError::NoAuthorities) } else { Ok(certificates) }
}
