//! Nix in layers.
//!
//! The pure layer (everything but the IO modules, which stand last) turns bytes into values and back: store paths,
//! hashes, derivations, archives, narinfo files, signatures. It opens no file or socket, reads no clock
//! and no environment, and never panics on bad input: every length is bounded, every fault a typed error.
//! The IO layer speaks to the daemon, drives the evaluator, and stands between the two.

pub mod addressing;
pub mod base16;
pub mod base32;
pub mod base64;
pub mod content_address;
pub mod derivation;
pub mod derived_path;
pub mod hash;
pub mod nar;
pub mod narinfo;
pub mod path_info;
mod plain_text;
pub mod references;
pub mod signature;
pub mod store_path;

pub mod daemon;
pub mod evaluator;
pub mod nar_dump;
pub mod proxy;

pub use addressing::{References, fixed_path, output_path, source_path, text_path};
pub use content_address::{ContentAddress, ContentAddressMethod};
pub use derivation::{BasicDerivation, Derivation, DerivationError, DerivationOutput};
pub use derived_path::{DerivedPath, OutputSet};
pub use hash::{Hash, HashAlgorithm, NarHash};
pub use narinfo::NarInfo;
pub use path_info::{PathInfo, fingerprint};
pub use references::{ModuloHasher, ReferenceScanner};
pub use signature::{PublicKey, SecretKey, Signature};
pub use store_path::{OutputName, StoreDir, StorePath, StorePathError};
