//! Hashes in every notation Nix reads or writes: base 16, base 32, base 64, and SRI.

use std::fmt;
use std::io;
use std::str::FromStr;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use thiserror::Error;

use crate::{base16, base32, base64};

/// The algorithms that store objects are named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// 16 bytes; only in old fixed outputs.
    Md5,
    /// 20 bytes; git, and old fixed outputs.
    Sha1,
    /// 32 bytes; everything of Nix's own.
    Sha256,
    /// 64 bytes; some fixed outputs.
    Sha512,
}

impl HashAlgorithm {
    /// Size of a digest in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Nix's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgorithm {
    type Err = HashError;

    fn from_str(name: &str) -> Result<Self, HashError> {
        match name {
            "md5" => Ok(Self::Md5),
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            other => Err(HashError::UnknownAlgorithm(excerpt(other))),
        }
    }
}

/// Why a text is not a hash.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HashError {
    /// An algorithm we do not know (blake3 is experimental in Nix, and not known either).
    #[error("unknown hash algorithm '{0}'")]
    UnknownAlgorithm(String),
    /// Neither the text nor the context names the algorithm.
    #[error("hash does not say its algorithm")]
    MissingAlgorithm,
    /// The text names another algorithm than the context requires.
    #[error("hash is {found}, expected {expected}")]
    WrongAlgorithm {
        /// What the context requires.
        expected: HashAlgorithm,
        /// What the text says.
        found: HashAlgorithm,
    },
    /// No notation of this algorithm has this length.
    #[error("a {algorithm} hash is not written with {length} characters")]
    WrongLength {
        /// The algorithm.
        algorithm: HashAlgorithm,
        /// Characters found.
        length: usize,
    },
    /// The characters do not spell a value.
    #[error("bad base16 hash")]
    Base16(#[from] base16::Base16Error),
    /// The characters do not spell a value.
    #[error("bad base32 hash")]
    Base32(#[from] base32::Base32Error),
    /// The characters do not spell a value.
    #[error("bad base64 hash")]
    Base64(#[from] base64::Base64Error),
}

/// A digest and its algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash {
    algorithm: HashAlgorithm,
    // Zero beyond the algorithm's size, so that the derived comparisons are right.
    digest: [u8; 64],
}

impl Hash {
    /// A digest of exactly the algorithm's size; `None` for any other size.
    pub fn new(algorithm: HashAlgorithm, digest: &[u8]) -> Option<Self> {
        if digest.len() != algorithm.size() {
            return None;
        }
        let mut padded = [0; 64];
        padded[..digest.len()].copy_from_slice(digest);
        Some(Self { algorithm, digest: padded })
    }

    /// The hash of `bytes`.
    pub fn of(algorithm: HashAlgorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Its algorithm.
    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// Its bytes.
    pub fn digest(&self) -> &[u8] {
        &self.digest[..self.algorithm.size()]
    }

    /// Base 32 without the algorithm.
    pub fn to_nix32(&self) -> String {
        base32::encode(self.digest())
    }

    /// Base 16 without the algorithm.
    pub fn to_base16(&self) -> String {
        base16::encode(self.digest())
    }

    /// Base 64 without the algorithm.
    pub fn to_base64(&self) -> String {
        base64::encode(self.digest())
    }

    /// As in `sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=`.
    pub fn to_sri(&self) -> String {
        format!("{}-{}", self.algorithm, self.to_base64())
    }

    /// Any notation that names its algorithm: `sha256:…` in base 16, 32 or 64, or SRI.
    pub fn parse_prefixed(text: &str) -> Result<Self, HashError> {
        Self::parse(text, None)
    }

    /// Any notation; `expected` is the algorithm when the text does not say, and binding when it does.
    pub fn parse(text: &str, expected: Option<HashAlgorithm>) -> Result<Self, HashError> {
        let split = text.split_once(':').map(|(name, rest)| (name, rest, false));
        let split = split.or_else(|| text.split_once('-').map(|(name, rest)| (name, rest, true)));
        let Some((name, rest, is_sri)) = split else {
            return Self::parse_bare(text, expected.ok_or(HashError::MissingAlgorithm)?);
        };
        let found = name.parse()?;
        if let Some(expected) = expected
            && expected != found
        {
            return Err(HashError::WrongAlgorithm { expected, found });
        }
        if is_sri && rest.len() != base64::encoded_len(found.size()) {
            return Err(HashError::WrongLength { algorithm: found, length: rest.len() });
        }
        Self::parse_bare(rest, found)
    }

    /// Base 16, 32 or 64 without the algorithm; the length says which.
    pub fn parse_bare(text: &str, algorithm: HashAlgorithm) -> Result<Self, HashError> {
        let wrong_length = HashError::WrongLength { algorithm, length: text.len() };
        let size = algorithm.size();
        let digest = match text.len() {
            len if len == size * 2 => base16::decode(text)?,
            len if len == base32::encoded_len(size) => base32::decode(text)?,
            len if len == base64::encoded_len(size) => base64::decode(text)?,
            _ => return Err(wrong_length),
        };
        Self::new(algorithm, &digest).ok_or(wrong_length)
    }
}

impl fmt::Display for Hash {
    /// The algorithm, a colon, base 32: the form of narinfo files and the database.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.to_nix32())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        Self::parse_prefixed(text)
    }
}

/// SHA-256 of a NAR: what names a store object's contents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarHash(pub [u8; 32]);

impl NarHash {
    /// The hash of a whole NAR in memory.
    pub fn of(nar: &[u8]) -> Self {
        Self(Sha256::digest(nar).into())
    }

    /// As a general hash.
    pub fn to_hash(self) -> Hash {
        Hash::new(HashAlgorithm::Sha256, &self.0).expect("32 bytes are a SHA-256 digest")
    }

    /// As the flake attribute `narHash` has it.
    pub fn to_sri(self) -> String {
        self.to_hash().to_sri()
    }
}

impl TryFrom<Hash> for NarHash {
    type Error = HashError;

    fn try_from(hash: Hash) -> Result<Self, HashError> {
        let expected = HashAlgorithm::Sha256;
        let digest = hash.digest().try_into();
        match digest {
            Ok(digest) if hash.algorithm() == expected => Ok(Self(digest)),
            _ => Err(HashError::WrongAlgorithm { expected, found: hash.algorithm() }),
        }
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_hash().fmt(f)
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NarHash({self})")
    }
}

impl FromStr for NarHash {
    type Err = HashError;

    /// Any notation; base 16 without the algorithm too, as the daemon protocol writes it.
    fn from_str(text: &str) -> Result<Self, HashError> {
        Hash::parse(text, Some(HashAlgorithm::Sha256))?.try_into()
    }
}

/// A hash in the making.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hash of nothing yet.
    pub fn new(algorithm: HashAlgorithm) -> Self {
        Self(match algorithm {
            HashAlgorithm::Md5 => State::Md5(Md5::new()),
            HashAlgorithm::Sha1 => State::Sha1(Sha1::new()),
            HashAlgorithm::Sha256 => State::Sha256(Sha256::new()),
            HashAlgorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The hash of all that was added.
    pub fn finish(self) -> Hash {
        let hash = match self.0 {
            State::Md5(state) => Hash::new(HashAlgorithm::Md5, &state.finalize()),
            State::Sha1(state) => Hash::new(HashAlgorithm::Sha1, &state.finalize()),
            State::Sha256(state) => Hash::new(HashAlgorithm::Sha256, &state.finalize()),
            State::Sha512(state) => Hash::new(HashAlgorithm::Sha512, &state.finalize()),
        };
        hash.expect("an algorithm yields digests of its size")
    }
}

/// Hashes and counts a NAR as it is written through.
#[derive(Clone, Debug)]
pub struct NarHasher {
    state: Sha256,
    size: u64,
}

impl NarHasher {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self { state: Sha256::new(), size: 0 }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.size += bytes.len() as u64;
    }

    /// The hash, and the size in bytes, of all that was added.
    pub fn finish(self) -> (NarHash, u64) {
        (NarHash(self.state.finalize().into()), self.size)
    }
}

impl Default for NarHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl io::Write for NarHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// At most 32 characters of a text that is quoted in an error.
fn excerpt(text: &str) -> String {
    text.chars().take(32).collect()
}

#[cfg(test)]
mod tests;
