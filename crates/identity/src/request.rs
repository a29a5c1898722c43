//! Certificate requests: a key made here, and the public key in a request made elsewhere.
//!
//! Of a request only the public key counts, and that its bearer has the private one. What a certificate says
//! about its bearer is decided by whoever signs it.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData as _, SubjectPublicKeyInfo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509CertificationRequest};
use zeroize::Zeroizing;

use crate::keyfile::{self, FileError};
use crate::secret::Fingerprint;

/// The most bytes a request may have.
pub const MAX_REQUEST_LEN: usize = 8 * 1024;

/// A private key (ECDSA P-256) that waits for its certificate.
pub struct NewKey {
    pair: KeyPair,
}

/// The public key of a request whose signature was good.
#[derive(Clone, Debug)]
pub struct PublicKey {
    pub(crate) key: SubjectPublicKeyInfo,
    /// Its name.
    pub fingerprint: Fingerprint,
}

/// Why a request is refused, or a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// More than [`MAX_REQUEST_LEN`].
    #[error("the certificate request is larger than {MAX_REQUEST_LEN} bytes")]
    TooLarge,
    /// Not PKCS#10, or with something after it.
    #[error("the certificate request cannot be read")]
    Malformed,
    /// Its sender does not have the private key.
    #[error("the certificate request is not signed with its own key")]
    BadSignature,
    /// Another kind of key than we sign.
    #[error("the key must be ECDSA P-256, ECDSA P-384 or Ed25519")]
    KeyKind,
    /// The file of a waiting key.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file of a waiting key holds something else.
    #[error("{0} holds no private key that can be used: remove it, or restore it")]
    NotAKey(std::path::PathBuf),
}

impl NewKey {
    /// A new one from the system's randomness.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn generate() -> Self {
        Self { pair: KeyPair::generate().expect("the system gives randomness") }
    }

    /// The key that waits in this file, made now where none does: whoever asks again after a crash asks with the
    /// same key, and the join token counts again.
    pub fn open(path: &Path) -> Result<Self, RequestError> {
        match keyfile::read_private(path) {
            Ok(pem) => Self::from_pem(&pem).ok_or_else(|| RequestError::NotAKey(path.to_owned())),
            Err(FileError::Missing(_)) => {
                let key = Self::generate();
                let pem = Zeroizing::new(key.pair.serialize_pem());
                if keyfile::create_private(path, pem.as_bytes())? { Ok(key) } else { Self::open(path) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// PKCS#10, DER.
    ///
    /// # Panics
    /// Never: the request holds nothing but the key.
    pub fn request(&self) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair).expect("a request without names can be written");
        request.der().to_vec()
    }

    /// Its name.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.pair.subject_public_key_info())
    }

    /// The private key, for [`crate::Credentials`].
    pub fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }

    fn from_pem(pem: &[u8]) -> Option<Self> {
        let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
        KeyPair::try_from(&key).ok().map(|pair| Self { pair })
    }
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewKey({})", self.fingerprint())
    }
}

impl PublicKey {
    /// Reads a request (PKCS#10, DER) and checks that it is signed with its own key.
    pub fn from_request(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > MAX_REQUEST_LEN {
            return Err(RequestError::TooLarge);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let spki = request.certification_request_info.subject_pki.raw;
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| RequestError::KeyKind)?;
        let signed = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !signed.contains(&key.algorithm()) {
            return Err(RequestError::KeyKind);
        }
        request.verify_signature().map_err(|_| RequestError::BadSignature)?;
        Ok(Self { key, fingerprint: Fingerprint::of_spki(spki) })
    }
}
