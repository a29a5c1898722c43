//! Ed25519 keys and signatures in Nix's form, `name:base64`.
//!
//! A [`SecretKey`] never shows its bytes except through [`SecretKey::to_secret_string`].

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use thiserror::Error;

use crate::base64;

/// Bound on a key's name in bytes; Nix has none, but a name is a host name or two.
pub const MAX_KEY_NAME_LEN: usize = 255;

/// Why a text is not a key or a signature.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// No `name:` before the base64.
    #[error("key or signature has no name")]
    MissingName,
    /// Names hold no white space, control characters or colons, and are not endless.
    #[error("bad key name")]
    BadName,
    /// What follows the name is not base64.
    #[error("key or signature is not base64")]
    Base64(#[from] base64::Base64Error),
    /// Base64 of another number of bytes.
    #[error("key or signature has {found} bytes, expected {expected}")]
    WrongLength {
        /// Bytes of such a key or signature.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The bytes are no key: not on the curve, or the two halves of a secret key do not fit.
    #[error("bytes are not an ed25519 key")]
    BadKey,
}

/// A signature and the name of the key that made it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    key_name: String,
    bytes: [u8; 64],
}

impl Signature {
    /// The name of the key.
    pub fn key_name(&self) -> &str {
        &self.key_name
    }

    /// The signature proper.
    pub const fn bytes(&self) -> &[u8; 64] {
        &self.bytes
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let (key_name, bytes) = split_key(text)?;
        Ok(Self { key_name, bytes })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key_name, base64::encode(&self.bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

/// A key that checks signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// Its name: only signatures of this name are its own.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `signature` is this key's, and is one of `message`.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        signature.key_name == self.name && self.key.verify_strict(message, &bytes).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let (name, bytes) = split_key(text)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| SignatureError::BadKey)?;
        Ok(Self { name, key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, base64::encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A key that signs.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl SecretKey {
    /// A key of 32 random bytes, which the caller draws from a source fit for keys.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, SignatureError> {
        check_key_name(name)?;
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(seed) })
    }

    /// Its name, which signatures carry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that checks what this one signs.
    pub fn public_key(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature { key_name: self.name.clone(), bytes: self.key.sign(message).to_bytes() }
    }

    /// The text a key file holds. Secret.
    pub fn to_secret_string(&self) -> String {
        format!("{}:{}", self.name, base64::encode(&self.key.to_keypair_bytes()))
    }
}

impl FromStr for SecretKey {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let (name, bytes) = split_key(text)?;
        let key = SigningKey::from_keypair_bytes(&bytes).map_err(|_| SignatureError::BadKey)?;
        Ok(Self { name, key })
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}:…)", self.name)
    }
}

fn split_key<const N: usize>(text: &str) -> Result<(String, [u8; N]), SignatureError> {
    let (name, data) = text.split_once(':').ok_or(SignatureError::MissingName)?;
    check_key_name(name)?;
    let wrong_length = |found| SignatureError::WrongLength { expected: N, found };
    if data.len() > base64::encoded_len(N) {
        return Err(wrong_length(data.len() / 4 * 3));
    }
    let bytes = base64::decode(data)?;
    let found = bytes.len();
    Ok((name.to_owned(), bytes.try_into().map_err(|_| wrong_length(found))?))
}

fn check_key_name(name: &str) -> Result<(), SignatureError> {
    let is_bad = |character: char| character.is_whitespace() || character.is_control() || character == ':';
    if name.is_empty() {
        return Err(SignatureError::MissingName);
    }
    if name.len() > MAX_KEY_NAME_LEN || name.chars().any(is_bad) {
        return Err(SignatureError::BadName);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
