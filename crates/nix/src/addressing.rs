//! How store paths are computed: from contents, from text, from a derivation's hash.
//!
//! The rules are those of Nix's manual, "Complete Store Path Calculation".

use std::collections::BTreeSet;
use std::fmt::Write as _;

use thiserror::Error;

use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::hash::{Hash, HashAlgorithm, NarHash};
use crate::store_path::{HASH_BYTES, OutputName, StoreDir, StorePath, StorePathError};

/// Why a path cannot be computed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressingError {
    /// The name cannot be part of a store path.
    #[error(transparent)]
    Name(#[from] StorePathError),
    /// Only text and recursive SHA-256 objects may have references.
    #[error("an object addressed by {0} cannot have references")]
    References(String),
    /// Text is hashed with SHA-256, git objects with SHA-1 or SHA-256.
    #[error("{0} is not a content address of Nix")]
    Algorithm(String),
}

/// What an object refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Other store objects.
    pub others: BTreeSet<StorePath>,
    /// Whether the object refers to itself.
    pub to_self: bool,
}

impl References {
    /// No references at all.
    pub fn none() -> Self {
        Self::default()
    }

    fn is_empty(&self) -> bool {
        self.others.is_empty() && !self.to_self
    }
}

/// Path of a tree added by its NAR: `builtins.path`, flake sources, `nix store add`.
pub fn source_path(
    store: &StoreDir,
    name: &str,
    nar_hash: NarHash,
    references: &References,
) -> Result<StorePath, StorePathError> {
    make_path(store, &with_references(store, "source", references), &nar_hash.to_hash(), name)
}

/// Path of a text file with this SHA-256: derivations, `builtins.toFile`.
pub fn text_path(
    store: &StoreDir,
    name: &str,
    sha256: [u8; 32],
    references: &BTreeSet<StorePath>,
) -> Result<StorePath, StorePathError> {
    let references = References { others: references.clone(), to_self: false };
    make_path(store, &with_references(store, "text", &references), &NarHash(sha256).to_hash(), name)
}

/// Path of an object with this content address.
pub fn fixed_path(
    store: &StoreDir,
    name: &str,
    address: &ContentAddress,
    references: &References,
) -> Result<StorePath, AddressingError> {
    let algorithm = address.hash.algorithm();
    let unknown = || AddressingError::Algorithm(address.method_and_algorithm());
    match (address.method, algorithm) {
        (ContentAddressMethod::Text, HashAlgorithm::Sha256) => {
            if references.to_self {
                return Err(AddressingError::References(address.method_and_algorithm()));
            }
            Ok(make_path(store, &with_references(store, "text", references), &address.hash, name)?)
        }
        (ContentAddressMethod::NixArchive, HashAlgorithm::Sha256) => {
            Ok(make_path(store, &with_references(store, "source", references), &address.hash, name)?)
        }
        (ContentAddressMethod::Text, _)
        | (ContentAddressMethod::Git, HashAlgorithm::Md5 | HashAlgorithm::Sha512) => Err(unknown()),
        _ if !references.is_empty() => Err(AddressingError::References(address.method_and_algorithm())),
        _ => {
            let hex = address.hash.to_base16();
            let inner = format!("fixed:out:{}:{hex}:", address.method_and_algorithm());
            let hash = Hash::of(HashAlgorithm::Sha256, inner.as_bytes());
            Ok(make_path(store, "output:out", &hash, name)?)
        }
    }
}

/// Path of an output of an input-addressed derivation, from the derivation's hash.
pub fn output_path(
    store: &StoreDir,
    derivation_name: &str,
    output: &OutputName,
    derivation_hash: [u8; 32],
) -> Result<StorePath, StorePathError> {
    let hash = NarHash(derivation_hash).to_hash();
    make_path(store, &format!("output:{output}"), &hash, &output.path_name(derivation_name))
}

fn make_path(store: &StoreDir, kind: &str, hash: &Hash, name: &str) -> Result<StorePath, StorePathError> {
    let fingerprint = format!("{kind}:{}:{}:{store}:{name}", hash.algorithm(), hash.to_base16());
    let digest = Hash::of(HashAlgorithm::Sha256, fingerprint.as_bytes());
    let mut folded = [0; HASH_BYTES];
    for (index, byte) in digest.digest().iter().enumerate() {
        folded[index % HASH_BYTES] ^= byte;
    }
    StorePath::from_hash(&folded, name)
}

fn with_references(store: &StoreDir, kind: &str, references: &References) -> String {
    let mut text = kind.to_owned();
    for reference in &references.others {
        write!(text, ":{store}/{reference}").expect("writing to a string does not fail");
    }
    if references.to_self {
        text.push_str(":self");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContentAddressMethod::{Flat, Git, NixArchive, Text};

    fn address(method: ContentAddressMethod, algorithm: HashAlgorithm) -> ContentAddress {
        ContentAddress { method, hash: Hash::of(algorithm, b"x") }
    }

    #[test]
    fn references_are_refused_where_nix_knows_none() {
        let store = StoreDir::default();
        let to_self = References { to_self: true, ..References::none() };
        for address in [
            address(Flat, HashAlgorithm::Sha256),
            address(NixArchive, HashAlgorithm::Sha1),
            address(Text, HashAlgorithm::Sha256),
        ] {
            let path = fixed_path(&store, "a", &address, &to_self);
            assert_eq!(path, Err(AddressingError::References(address.method_and_algorithm())));
        }
        assert!(fixed_path(&store, "a", &address(NixArchive, HashAlgorithm::Sha256), &to_self).is_ok());
    }

    #[test]
    fn algorithms_are_refused_where_nix_knows_none() {
        let store = StoreDir::default();
        for address in [address(Text, HashAlgorithm::Sha1), address(Git, HashAlgorithm::Md5)] {
            let path = fixed_path(&store, "a", &address, &References::none());
            assert_eq!(path, Err(AddressingError::Algorithm(address.method_and_algorithm())));
        }
    }

    #[test]
    fn the_store_directory_is_part_of_the_path() {
        let hash = NarHash::of(b"x");
        let other = StoreDir::new("/gnu/store").expect("absolute");
        let here = source_path(&StoreDir::default(), "a", hash, &References::none());
        assert_ne!(here, source_path(&other, "a", hash, &References::none()));
    }

    #[test]
    fn a_bad_name_is_refused() {
        let store = StoreDir::default();
        assert!(source_path(&store, "a b", NarHash::of(b""), &References::none()).is_err());
        let long: OutputName = "d".repeat(200).parse().expect("valid");
        let path = output_path(&store, "some-derivation", &long, [0; 32]);
        assert!(matches!(path, Err(StorePathError::NameTooLong(_))));
    }
}
