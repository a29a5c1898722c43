//! The CA: made here or given as files; signs for workers, clients and the coordinator's own port.
//!
//! While one CA follows another there are two: certificates of both are trusted, the newest signs workers and
//! clients, and the port shows a certificate of the oldest, which everybody knows already. The newest is learnt
//! with each enrolment and renewal; a day later all have it, and the oldest may go.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::credentials::{Credentials, pem_block};
use crate::identity::{self, Identity, Kind};
use crate::keyfile::{self, FileError};
use crate::name::Name;
use crate::registry::{Grant, Issued};
use crate::request::{NewKey, PublicKey};
use crate::role::Role;
use crate::secret::{Fingerprint, random};

/// How long things live, seconds.
pub mod lifetime {
    /// A worker's certificate.
    pub const WORKER_S: u64 = 24 * 3600;
    /// A client's certificate, unless told.
    pub const CLIENT_S: u64 = 365 * 24 * 3600;
    /// The certificate of the coordinator's port, made again at every start and reload.
    pub const SERVER_S: u64 = 90 * 24 * 3600;
    /// A CA made here.
    pub const CA_S: u64 = 3652 * 24 * 3600;
    /// How far the clocks of two machines may differ: certificates count from this much earlier.
    pub const BACKDATED_S: u64 = 3600;
}

/// The CAs of one coordinator. Never changed: a reload makes another.
#[derive(Debug)]
pub struct Authority {
    /// Newest first; the newest has its key.
    cas: Vec<Ca>,
}

#[derive(Debug)]
struct Ca {
    certificate: CertificateDer<'static>,
    fingerprint: Fingerprint,
    issuer: Option<Issuer<'static, KeyPair>>,
}

/// A CA given as files; one PEM file may hold both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFiles {
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PKCS#8 PEM; may be absent for a CA that is trusted but signs no more.
    pub key: Option<PathBuf>,
}

/// Why there is no CA, or why it does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// One of its files.
    #[error(transparent)]
    File(#[from] FileError),
    /// No certificate, several, or one that cannot be read.
    #[error("{0}: does not hold exactly one certificate")]
    NoCertificate(PathBuf),
    /// A leaf where a CA is needed.
    #[error("{0}: is not the certificate of a CA")]
    NotACa(PathBuf),
    /// Its time is over, or has not come.
    #[error("{0}: the CA's certificate has expired or is not valid yet")]
    NotValidNow(PathBuf),
    /// No key, or none of a kind that we sign with.
    #[error("{0}: holds no private key that can sign (PKCS#8: ECDSA P-256 or P-384, Ed25519, RSA)")]
    NoKey(PathBuf),
    /// The key of another certificate.
    #[error("{0}: is not the key of the CA's certificate")]
    WrongKey(PathBuf),
    /// There must be one to sign with.
    #[error("no CA is given, or the newest, which is the first, lacks its key")]
    NoSigner,
    /// Nobody could check a certificate without names.
    #[error("the coordinator's port needs at least one DNS name or IP address")]
    NoServerName,
    /// Neither a DNS name nor an address.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    BadServerName(String),
    /// The signing library said no.
    #[error("the certificate cannot be made")]
    Signing(#[source] rcgen::Error),
}

const CURRENT: &str = "authority.pem";
const PREVIOUS: &str = "authority-previous.pem";

impl Authority {
    /// The CA kept in a directory of the coordinator's own; made there if there is none.
    pub fn open(directory: &Path, now: u64) -> Result<Self, AuthorityError> {
        let current = directory.join(CURRENT);
        let made = match keyfile::read_private(&current) {
            Err(FileError::Missing(_)) => Some(make_ca(now)?),
            _ => None,
        };
        if let Some(pem) = made {
            // Another process may have been faster: then its CA is the one.
            keyfile::create_private(&current, pem.as_bytes())?;
        }
        let own = |path: PathBuf| CaFiles { certificate: path.clone(), key: Some(path) };
        let previous = Some(directory.join(PREVIOUS)).filter(|path| path.exists());
        let previous = previous.map(|path| Ca::read(&own(path), now)).transpose();
        let previous = match previous {
            // Nobody holds a certificate of it any more.
            Err(AuthorityError::NotValidNow(_)) => None,
            other => other?,
        };
        let cas = std::iter::once(Ca::read(&own(current), now)?).chain(previous).collect();
        Ok(Self { cas })
    }

    /// Puts a new CA before the one of [`Authority::open`]; one older still is forgotten.
    pub fn rotate(directory: &Path, now: u64) -> Result<Self, AuthorityError> {
        let (current, previous) = (directory.join(CURRENT), directory.join(PREVIOUS));
        let old = keyfile::read_private(&current)?;
        let new = make_ca(now)?;
        // A crash in between leaves the same CA twice, which does no harm.
        keyfile::write_private(&previous, &old)?;
        keyfile::write_private(&current, new.as_bytes())?;
        Self::open(directory, now)
    }

    /// CAs given as files, newest first.
    pub fn load(files: &[CaFiles], now: u64) -> Result<Self, AuthorityError> {
        let cas = files.iter().map(|files| Ca::read(files, now)).collect::<Result<Vec<_>, _>>()?;
        if cas.first().is_none_or(|ca| ca.issuer.is_none()) {
            return Err(AuthorityError::NoSigner);
        }
        Ok(Self { cas })
    }

    /// All CAs to trust, newest first.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.cas.iter().map(|ca| ca.certificate.clone()).collect()
    }

    /// The CA behind the port's certificate, as join tokens name it.
    pub fn fingerprint(&self) -> Fingerprint {
        self.server_ca().fingerprint
    }

    /// A worker's certificate for its key.
    pub fn sign_worker(&self, now: u64, grant: &Grant, key: &PublicKey) -> Result<Issued, AuthorityError> {
        let kind = Kind::Worker { enrolment: grant.enrolment };
        self.sign_peer(now, lifetime::WORKER_S, kind, &grant.name, key)
    }

    /// A client's certificate for its key.
    pub fn sign_client(
        &self,
        now: u64,
        ttl_s: u64,
        name: &Name,
        role: Role,
        key: &PublicKey,
    ) -> Result<Issued, AuthorityError> {
        self.sign_peer(now, ttl_s, Kind::Client { role }, name, key)
    }

    /// A client's key and certificate at once, as the first administrator gets them.
    pub fn make_client(
        &self,
        now: u64,
        ttl_s: u64,
        name: &Name,
        role: Role,
    ) -> Result<Credentials, AuthorityError> {
        let new = NewKey::generate();
        let key = PublicKey::from_request(&new.request()).expect("a request made here can be read here");
        let issued = self.sign_client(now, ttl_s, name, role, &key)?;
        let chain = vec![issued.certificate.into()];
        Ok(Credentials { chain, key: new.private(), authorities: self.certificates() })
    }

    /// Key and certificate of the coordinator's port, for its DNS names and addresses.
    pub fn make_server(&self, now: u64, names: &[String]) -> Result<Credentials, AuthorityError> {
        if names.is_empty() {
            return Err(AuthorityError::NoServerName);
        }
        let key = KeyPair::generate().map_err(AuthorityError::Signing)?;
        let mut params = leaf(now, lifetime::SERVER_S, "fleet coordinator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = names.iter().map(|name| server_name(name)).collect::<Result<_, _>>()?;
        let ca = self.server_ca();
        let certificate = ca.sign(&params, &key)?;
        // The CA goes with it: whoever comes with a join token knows only its fingerprint.
        let chain = vec![certificate, ca.certificate.clone()];
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Ok(Credentials { chain, key, authorities: self.certificates() })
    }

    fn sign_peer(
        &self,
        now: u64,
        ttl_s: u64,
        kind: Kind,
        name: &Name,
        key: &PublicKey,
    ) -> Result<Issued, AuthorityError> {
        let mut params = leaf(now, ttl_s, name.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let uri = identity::uri(kind, name).try_into().map_err(AuthorityError::Signing)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let certificate = self.cas[0].sign(&params, &key.key)?.to_vec();
        let identity =
            Identity::from_certificate(&certificate).expect("a certificate made here can be read here");
        Ok(Issued { identity, key: key.fingerprint, certificate })
    }

    fn server_ca(&self) -> &Ca {
        self.cas.iter().rfind(|ca| ca.issuer.is_some()).expect("the newest CA has its key")
    }
}

impl Ca {
    fn read(files: &CaFiles, now: u64) -> Result<Self, AuthorityError> {
        let pem = match &files.key {
            // One file for both: it is as secret as the key.
            Some(key) if *key == files.certificate => keyfile::read_private(key)?,
            _ => Zeroizing::new(keyfile::read_public(&files.certificate)?),
        };
        let path = &files.certificate;
        let no_certificate = || AuthorityError::NoCertificate(path.clone());
        let mut found = CertificateDer::pem_slice_iter(&pem);
        let (Some(Ok(certificate)), None) = (found.next(), found.next()) else {
            return Err(no_certificate());
        };
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| no_certificate())?;
        if !parsed.is_ca() {
            return Err(AuthorityError::NotACa(path.clone()));
        }
        let validity = parsed.validity();
        let valid =
            |now: i64| validity.not_before.timestamp() <= now && now <= validity.not_after.timestamp();
        if !i64::try_from(now).is_ok_and(valid) {
            return Err(AuthorityError::NotValidNow(path.clone()));
        }
        let spki = parsed.public_key().raw;
        let fingerprint = Fingerprint::of_spki(spki);
        let issuer = files.key.as_ref().map(|key| read_issuer(key, &certificate, spki)).transpose()?;
        Ok(Self { certificate: certificate.clone(), fingerprint, issuer })
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let issuer = self.issuer.as_ref().ok_or(AuthorityError::NoSigner)?;
        let signed = params.signed_by(key, issuer).map_err(AuthorityError::Signing)?;
        Ok(signed.der().clone())
    }
}

fn read_issuer(
    path: &Path,
    certificate: &CertificateDer<'static>,
    spki: &[u8],
) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
    let no_key = || AuthorityError::NoKey(path.to_owned());
    let pem = keyfile::read_private(path)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| no_key())?;
    let key = KeyPair::try_from(&key).map_err(|_| no_key())?;
    if key.subject_public_key_info() != spki {
        return Err(AuthorityError::WrongKey(path.to_owned()));
    }
    Issuer::from_ca_cert_der(certificate, key).map_err(AuthorityError::Signing)
}

/// Key and certificate of a new CA, PEM.
fn make_ca(now: u64) -> Result<Zeroizing<String>, AuthorityError> {
    let key = KeyPair::generate().map_err(AuthorityError::Signing)?;
    let number = u32::from_be_bytes(random());
    let mut params = valid_for(now, lifetime::CA_S, &format!("fleet CA {number:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(AuthorityError::Signing)?;
    Ok(Zeroizing::new(key.serialize_pem() + &pem_block("CERTIFICATE", certificate.der())))
}

fn leaf(now: u64, ttl_s: u64, common_name: &str) -> CertificateParams {
    let mut params = valid_for(now, ttl_s, common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn valid_for(now: u64, ttl_s: u64, common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let mut serial = random::<16>();
    // A serial number is positive and does not begin with zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(serial.to_vec().into());
    params.not_before = date(now.saturating_sub(lifetime::BACKDATED_S));
    params.not_after = date(now.saturating_add(ttl_s));
    params
}

/// X.509 ends with the year 9999.
fn date(seconds: u64) -> OffsetDateTime {
    const LAST: i64 = 253_402_300_799;
    let seconds = i64::try_from(seconds).unwrap_or(LAST).min(LAST);
    OffsetDateTime::from_unix_timestamp(seconds).expect("the year has four digits")
}

fn server_name(name: &str) -> Result<SanType, AuthorityError> {
    let bad = || AuthorityError::BadServerName(name.to_owned());
    match ServerName::try_from(name).map_err(|_| bad())? {
        ServerName::IpAddress(_) => name.parse::<IpAddr>().map(SanType::IpAddress).map_err(|_| bad()),
        _ => name.try_into().map(SanType::DnsName).map_err(|_| bad()),
    }
}
