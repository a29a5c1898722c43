//! Content addresses: how an object's bytes were hashed, and the hash.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::hash::{Hash, HashAlgorithm, HashError};

/// What is hashed to address an object by its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentAddressMethod {
    /// The bytes of a single file.
    Flat,
    /// The object's NAR.
    NixArchive,
    /// The object as git hashes it.
    Git,
    /// The bytes of a single file that may have references: derivations and `builtins.toFile`.
    Text,
}

impl ContentAddressMethod {
    /// What stands before the algorithm in a derivation's output.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Flat => "",
            Self::NixArchive => "r:",
            Self::Git => "git:",
            Self::Text => "text:",
        }
    }

    /// Splits a method and an algorithm as a derivation's output writes them: `r:sha256`.
    pub fn parse_with_algorithm(text: &str) -> Result<(Self, HashAlgorithm), HashError> {
        for method in [Self::NixArchive, Self::Git, Self::Text] {
            if let Some(algorithm) = text.strip_prefix(method.prefix()) {
                return Ok((method, algorithm.parse()?));
            }
        }
        Ok((Self::Flat, text.parse()?))
    }
}

/// Why a text is not a content address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ContentAddressError {
    /// It begins with neither `text:` nor `fixed:`.
    #[error("content address begins with neither 'text:' nor 'fixed:'")]
    UnknownPrefix,
    /// The algorithm or the digest is wrong.
    #[error("bad hash in content address")]
    Hash(#[from] HashError),
}

/// A method and a hash: `fixed:r:sha256:…`, `text:sha256:…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentAddress {
    /// What was hashed.
    pub method: ContentAddressMethod,
    /// Its hash.
    pub hash: Hash,
}

impl ContentAddress {
    /// As a derivation's output writes it: `r:sha256`.
    pub fn method_and_algorithm(&self) -> String {
        format!("{}{}", self.method.prefix(), self.hash.algorithm())
    }
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fixed = if self.method == ContentAddressMethod::Text { "" } else { "fixed:" };
        write!(f, "{fixed}{}{}", self.method.prefix(), self.hash)
    }
}

impl FromStr for ContentAddress {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, ContentAddressError> {
        let (method, rest) = if let Some(rest) = text.strip_prefix("text:") {
            (ContentAddressMethod::Text, rest)
        } else if let Some(rest) = text.strip_prefix("fixed:r:") {
            (ContentAddressMethod::NixArchive, rest)
        } else if let Some(rest) = text.strip_prefix("fixed:git:") {
            (ContentAddressMethod::Git, rest)
        } else if let Some(rest) = text.strip_prefix("fixed:") {
            (ContentAddressMethod::Flat, rest)
        } else {
            return Err(ContentAddressError::UnknownPrefix);
        };
        let (algorithm, digest) = rest.split_once(':').ok_or(HashError::MissingAlgorithm)?;
        Ok(Self { method, hash: Hash::parse_bare(digest, algorithm.parse()?)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_method_reads_back() {
        use ContentAddressMethod::{Flat, Git, NixArchive, Text};
        for (method, start) in [
            (Flat, "fixed:sha256:"),
            (NixArchive, "fixed:r:sha256:"),
            (Git, "fixed:git:sha256:"),
            (Text, "text:sha256:"),
        ] {
            let address = ContentAddress { method, hash: Hash::of(HashAlgorithm::Sha256, b"x") };
            assert!(address.to_string().starts_with(start));
            assert_eq!(address.to_string().parse(), Ok(address));
            let split = ContentAddressMethod::parse_with_algorithm(&address.method_and_algorithm());
            assert_eq!(split, Ok((method, HashAlgorithm::Sha256)));
        }
    }

    #[test]
    fn faults_are_named() {
        assert_eq!("".parse::<ContentAddress>(), Err(ContentAddressError::UnknownPrefix));
        assert_eq!("r:sha256:".parse::<ContentAddress>(), Err(ContentAddressError::UnknownPrefix));
        for text in ["fixed:", "fixed:r:sha256", "text:sha256:abc", "fixed:x:sha256:abc"] {
            assert!(matches!(text.parse::<ContentAddress>(), Err(ContentAddressError::Hash(_))), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = text.parse::<ContentAddress>();
            let _ = ContentAddressMethod::parse_with_algorithm(&text);
        }
    }
}
