//! An issuer's public keys (JWKS), and the check of a signature with them. Pure.
//!
//! A key fits one algorithm by its kind; the token does not get to choose. Secrets shared with the issuer are not
//! supported at all, so that a public key can never be taken for one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

use super::bound;

/// The keys of one issuer that can be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// What is wrong with a key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// More than [`bound::KEYS_LEN`].
    #[error("the key set has more than {} bytes", bound::KEYS_LEN)]
    TooLarge,
    /// Not a JSON Web Key Set.
    #[error("not a JSON Web Key Set")]
    Malformed,
    /// More than [`bound::KEYS`].
    #[error("the key set has more than {} keys", bound::KEYS)]
    TooMany,
    /// Keys of other kinds may stand in it, but none that signs.
    #[error("the key set has no key for RS256 or ES256")]
    NoKey,
}

/// How a token may be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Es256,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    public: Public,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed point.
    P256(Vec<u8>),
}

#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<WrittenKey>,
}

#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a JWKS; keys of other kinds and uses are passed over.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        if json.len() > bound::KEYS_LEN {
            return Err(KeySetError::TooLarge);
        }
        let written: WrittenSet = serde_json::from_slice(json).map_err(|_| KeySetError::Malformed)?;
        if written.keys.len() > bound::KEYS {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = written.keys.into_iter().filter_map(WrittenKey::usable).collect();
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(Self { keys }) }
    }

    /// Keys that may have signed: of the algorithm's kind and with the token's key id; without an id, the only key
    /// of that kind.
    pub(super) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<KeyRef<'_>> {
        let kind = self.keys.iter().filter(|key| key.public.algorithm() == algorithm);
        let fitting: Vec<KeyRef<'_>> = kind
            .filter(|key| id.is_none() || key.id.as_deref() == id)
            .map(|key| KeyRef(&key.public))
            .collect();
        if id.is_none() && fitting.len() != 1 { vec![] } else { fitting }
    }
}

/// One key of a set.
pub(super) struct KeyRef<'a>(&'a Public);

impl KeyRef<'_> {
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self.0 {
            Public::Rsa { n, e } => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Public::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
        }
    }
}

impl Algorithm {
    /// Only what we support; `none` and shared secrets are not.
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }
}

impl Public {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
        }
    }
}

impl WrittenKey {
    fn usable(self) -> Option<Key> {
        if self.used_for.is_some_and(|used_for| used_for != "sig") {
            return None;
        }
        let public = match self.kty.as_str() {
            "RSA" => Public::Rsa { n: unsigned(&self.n?)?, e: unsigned(&self.e?)? },
            "EC" if self.crv.as_deref() == Some("P-256") => Public::P256(point(&self.x?, &self.y?)?),
            _ => return None,
        };
        let other_algorithm =
            self.alg.is_some_and(|name| Algorithm::from_name(&name) != Some(public.algorithm()));
        (!other_algorithm).then_some(Key { id: self.kid, public })
    }
}

/// Big-endian without leading zeros, as the verifier wants it; some issuers write them.
fn unsigned(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let first = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[first..].to_vec())
}

fn point(x: &str, y: &str) -> Option<Vec<u8>> {
    let coordinate = |text: &str| URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 32);
    Some([vec![4], coordinate(x)?, coordinate(y)?].concat())
}
