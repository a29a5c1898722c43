//! The keys and certificates of the coordinator: its CA, or those given as files, and what its port shows. Made
//! again at every reload.

use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use fleet_identity::{
    Authority, AuthorityError, CaFiles, Credentials, FileError, Fingerprint, keyfile, unix_now,
};
use thiserror::Error;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::Config;

/// Where the coordinator's own CA lives, below the state directory.
const OWN_CA: &str = "ca";

/// Everything that signs or is shown.
#[derive(Debug)]
pub(crate) struct Material {
    /// Signs, and is trusted.
    pub(crate) authority: Authority,
    /// What the port shows; its `authorities` are those of callers.
    pub(super) server: Credentials,
    /// The CA behind it, as join tokens name it.
    pub(crate) fingerprint: Fingerprint,
    /// The CAs that workers are to trust, DER.
    pub(crate) trusted: Vec<CertificateDer<'static>>,
}

/// Why there are no keys or certificates.
#[derive(Debug, Error)]
pub enum MaterialError {
    /// The CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A file of the server's own certificate.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds something else.
    #[error("{path} holds no {what}")]
    Lacks {
        /// Which.
        path: String,
        /// What is expected.
        what: &'static str,
    },
    /// The key of another certificate, or of none we can use.
    #[error("{key} is not the key of the server's certificate")]
    NotOne {
        /// Which.
        key: String,
        /// Why.
        source: tokio_rustls::rustls::Error,
    },
    /// Workers know the coordinator by its CA's key: the certificate of that must be shown, too.
    #[error("{0} must hold the CA's certificate after the server's")]
    NoRoot(String),
}

impl Material {
    /// Reads what is configured, and makes what is not there.
    pub(crate) fn load(config: &Config) -> Result<Self, MaterialError> {
        let now = unix_now();
        let authority = match given_authority(config)? {
            Some(authority) => authority,
            None => own_authority(config, now)?,
        };
        let mut trusted = authority.certificates();
        let Some((chain, key)) = given_server(config)? else {
            let server = authority.make_server(now, &names(config))?;
            let fingerprint = authority.fingerprint();
            return Ok(Self { authority, server, fingerprint, trusted });
        };
        let given = config.server.tls.certificate.as_deref().unwrap_or(Path::new("tls.certificate"));
        let root = chain.iter().find_map(|der| fingerprint_of_ca(der).map(|name| (der, name)));
        let (root, fingerprint) = root.ok_or_else(|| MaterialError::NoRoot(shown(given)))?;
        if !trusted.contains(root) {
            trusted.push(root.clone());
        }
        let server = Credentials { chain, key, authorities: authority.certificates() };
        Ok(Self { authority, server, fingerprint, trusted })
    }

    /// Puts a new CA before the coordinator's own.
    pub(crate) fn rotate(config: &Config) -> Result<(), MaterialError> {
        Authority::rotate(&config.state_dir.join(OWN_CA), unix_now())?;
        Ok(())
    }
}

fn own_authority(config: &Config, now: u64) -> Result<Authority, MaterialError> {
    let directory = config.state_dir.join(OWN_CA);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    made.map_err(|source| FileError::Io { path: directory.clone(), source })?;
    Ok(Authority::open(&directory, now)?)
}

/// The CAs that are given as files, if there are any.
pub(crate) fn given_authority(config: &Config) -> Result<Option<Authority>, MaterialError> {
    let tls = &config.server.tls;
    if tls.authorities.is_empty() {
        return Ok(None);
    }
    let keys = tls.authority_keys.iter().cloned().map(Some).chain(std::iter::repeat(None));
    let files = tls.authorities.iter().cloned().zip(keys);
    let files: Vec<_> = files.map(|(certificate, key)| CaFiles { certificate, key }).collect();
    Ok(Some(Authority::load(&files, unix_now())?))
}

/// Chain and key of the server, if they are given as files.
pub(crate) fn given_server(
    config: &Config,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, MaterialError> {
    let (Some(certificate), Some(key)) = (&config.server.tls.certificate, &config.server.tls.key) else {
        return Ok(None);
    };
    let chain = read_chain(certificate)?;
    if fingerprint_of_ca(&chain[0]).is_some() {
        return Err(MaterialError::Lacks {
            path: shown(certificate),
            what: "server's certificate: it begins with a CA's",
        });
    }
    if !chain.iter().any(|der| fingerprint_of_ca(der).is_some()) {
        return Err(MaterialError::NoRoot(shown(certificate)));
    }
    let key_der = read_key(key)?;
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let usable = CertifiedKey::from_der(chain.clone(), key_der.clone_key(), &provider);
    usable.map_err(|source| MaterialError::NotOne { key: shown(key), source })?;
    Ok(Some((chain, key_der)))
}

fn fingerprint_of_ca(der: &[u8]) -> Option<Fingerprint> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate.is_ca().then(|| Fingerprint::of_spki(certificate.public_key().raw))
}

/// What the server's certificate is for: this machine under its usual names, and the names that are configured.
fn names(config: &Config) -> Vec<String> {
    let mut names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    names.extend([host].into_iter().chain(config.server.names.iter().cloned()));
    if let Some(address) = config.server.listen.map(|listen| listen.ip())
        && !address.is_unspecified()
    {
        names.push(address.to_string());
    }
    names.sort();
    names.dedup();
    // A machine's own name may be anything.
    names.retain(|name| tokio_rustls::rustls::pki_types::ServerName::try_from(name.as_str()).is_ok());
    names
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let pem = keyfile::read_public(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(MaterialError::Lacks { path: shown(path), what: "certificate" }),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, MaterialError> {
    let pem = keyfile::read_private(path)?;
    let lacks = |_| MaterialError::Lacks { path: shown(path), what: "private key" };
    PrivateKeyDer::from_pem_slice(&pem).map_err(lacks)
}
