//! Secrets, what is kept of them, and digests of public keys.
//!
//! A secret is never printed by `Debug`, is wiped when dropped, and is compared by its hash in constant time.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// 32 random bytes that only their bearer knows.
#[derive(Clone)]
pub struct Secret([u8; 32]);

/// What is kept of a secret.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretHash([u8; 32]);

/// SHA-256 of a DER SubjectPublicKeyInfo: names a public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// The public number of a token; of a worker's join token, also of its enrolment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId([u8; 8]);

/// Why a text is no secret, hash, fingerprint or token number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not well-formed")]
pub struct Malformed;

impl Secret {
    /// A new one from the system's randomness.
    ///
    /// # Panics
    /// When the system has no randomness: nothing safe could follow.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// Chosen by the caller, who answers for its randomness.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What may be stored of it.
    pub fn hash(&self) -> SecretHash {
        let digest = Sha256::new().chain_update(b"fleet-secret-v1\0").chain_update(self.0).finalize();
        SecretHash(digest.into())
    }

    pub(crate) fn to_text(&self) -> String {
        to_base64(&self.0)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl FromStr for Secret {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        from_base64(text).map(Self)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretHash {
    /// Whether `secret` is the one; takes the same time whatever it is.
    pub fn is_of(&self, secret: &Secret) -> bool {
        self.0.ct_eq(&secret.hash().0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

impl Fingerprint {
    /// Of a public key's SubjectPublicKeyInfo.
    pub fn of_spki(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl TokenId {
    /// A new one from the system's randomness.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// Chosen by the caller.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl FromStr for TokenId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let canonical = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 16 || !text.bytes().all(canonical) {
            return Err(Malformed);
        }
        u64::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| Malformed)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        from_base64(text).map(Self)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_base64(&self.0))
    }
}

impl FromStr for SecretHash {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        from_base64(text).map(Self)
    }
}

macro_rules! stored_as_text {
    ($name:ident, $to_text:expr) => {
        impl TryFrom<String> for $name {
            type Error = Malformed;
            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> Self {
                $to_text(&value)
            }
        }
    };
}

stored_as_text!(SecretHash, |hash: &SecretHash| to_base64(&hash.0));
stored_as_text!(Fingerprint, Fingerprint::to_string);
stored_as_text!(TokenId, TokenId::to_string);

macro_rules! shown_as_text {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

shown_as_text!(Fingerprint);
shown_as_text!(TokenId);

/// Bytes from the system's source for keys.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system gives randomness");
    bytes
}

fn to_base64(bytes: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Only the one spelling that `to_base64` gives.
fn from_base64(text: &str) -> Result<[u8; 32], Malformed> {
    let mut bytes = [0; 32];
    match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
        Ok(32) => Ok(bytes),
        _ => Err(Malformed),
    }
}
