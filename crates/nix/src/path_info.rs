//! What a store records of a valid path, and the text that signatures cover.

use std::collections::BTreeSet;

use crate::addressing::{self, References};
use crate::content_address::ContentAddress;
use crate::content_address::ContentAddressMethod;
use crate::hash::{HashAlgorithm, NarHash};
use crate::signature::{PublicKey, SecretKey, Signature};
use crate::store_path::{StoreDir, StorePath};

/// What a store knows of one valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// The derivation it was built by, if it was built and that is known.
    pub deriver: Option<StorePath>,
    /// SHA-256 of its NAR.
    pub nar_hash: NarHash,
    /// All store paths it refers to, itself included if it does.
    pub references: BTreeSet<StorePath>,
    /// Seconds since 1970; 0 if unknown.
    pub registration_time: u64,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// Whether this very store built it.
    pub ultimate: bool,
    /// Signatures of [`fingerprint`].
    pub signatures: Vec<Signature>,
    /// How its contents name it, if they do.
    pub content_address: Option<ContentAddress>,
}

impl PathInfo {
    /// Adds a signature of the path's fingerprint, unless it is there.
    pub fn sign(&mut self, store: &StoreDir, key: &SecretKey) {
        let signature = key.sign(fingerprint(store, self).as_bytes());
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }

    /// Whether one of `keys` signed this path, hash, size and references.
    pub fn is_signed_by(&self, store: &StoreDir, keys: &[PublicKey]) -> bool {
        let fingerprint = fingerprint(store, self);
        let verifies = |key: &PublicKey, signature| key.verifies(fingerprint.as_bytes(), signature);
        self.signatures.iter().any(|signature| keys.iter().any(|key| verifies(key, signature)))
    }

    /// Whether the path follows from the content address it claims, and the NAR hash is this address where that is what
    /// was hashed. (That the contents have this hash is another question.)
    pub fn is_content_addressed(&self, store: &StoreDir) -> bool {
        let Some(address) = &self.content_address else {
            return false;
        };
        let mut others = self.references.clone();
        let to_self = others.remove(&self.path);
        if address.method == ContentAddressMethod::Text && to_self {
            return false;
        }
        let is_nar_hash = address.method == ContentAddressMethod::NixArchive
            && address.hash.algorithm() == HashAlgorithm::Sha256
            && !to_self;
        if is_nar_hash && address.hash != self.nar_hash.to_hash() {
            return false;
        }
        let references = References { others, to_self };
        addressing::fixed_path(store, self.path.name(), address, &references).as_ref() == Ok(&self.path)
    }
}

/// The text Nix signs: path, NAR hash, NAR size and references.
pub fn fingerprint(store: &StoreDir, info: &PathInfo) -> String {
    let references: Vec<String> = info.references.iter().map(|path| store.print(path)).collect();
    format!("1;{};{};{};{}", store.print(&info.path), info.nar_hash, info.nar_size, references.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Hash;

    fn info() -> PathInfo {
        let path: StorePath = "00000000000000000000000000000000-a".parse().expect("valid");
        PathInfo {
            path: path.clone(),
            deriver: None,
            nar_hash: NarHash::of(b""),
            references: BTreeSet::from([path]),
            registration_time: 0,
            nar_size: 7,
            ultimate: false,
            signatures: Vec::new(),
            content_address: None,
        }
    }

    #[test]
    fn signatures_cover_path_hash_size_and_references() {
        let store = StoreDir::default();
        let key = SecretKey::from_seed("k", &[1; 32]).expect("valid name");
        let keys = [key.public_key()];
        let mut signed = info();
        signed.sign(&store, &key);
        signed.sign(&store, &key);
        assert_eq!(signed.signatures.len(), 1);
        assert!(signed.is_signed_by(&store, &keys));
        assert!(!signed.is_signed_by(&store, &[]));
        let mut changed = [signed.clone(), signed.clone(), signed.clone(), signed.clone()];
        changed[0].nar_size += 1;
        changed[1].nar_hash = NarHash::of(b"other");
        changed[2].references.clear();
        changed[3].path = "00000000000000000000000000000000-b".parse().expect("valid");
        for info in &changed {
            assert!(!info.is_signed_by(&store, &keys));
        }
    }

    #[test]
    fn a_claimed_content_address_must_give_the_path() {
        let store = StoreDir::default();
        let address = |method| ContentAddress { method, hash: Hash::of(HashAlgorithm::Sha256, b"x") };
        let mut info = info();
        assert!(!info.is_content_addressed(&store));
        info.content_address = Some(address(ContentAddressMethod::NixArchive));
        assert!(!info.is_content_addressed(&store));
        let references = References { others: BTreeSet::new(), to_self: true };
        let address = address(ContentAddressMethod::NixArchive);
        info.path = addressing::fixed_path(&store, "a", &address, &references).expect("valid");
        info.references = BTreeSet::from([info.path.clone()]);
        assert!(info.is_content_addressed(&store));
        info.content_address = Some(ContentAddress { method: ContentAddressMethod::Text, ..address });
        assert!(!info.is_content_addressed(&store));
        info.content_address = Some(address);
        info.references.clear();
        info.nar_hash = NarHash::of(b"x");
        info.path = addressing::fixed_path(&store, "a", &address, &References::default()).expect("valid");
        assert!(info.is_content_addressed(&store));
        info.nar_hash = NarHash::of(b"other");
        assert!(!info.is_content_addressed(&store), "the archive is said to be another");
    }
}
