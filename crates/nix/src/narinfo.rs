//! Narinfo files: what a binary cache says of a path.
//!
//! Read strictly. Nix is lenient here; a cache of ours is not, since what it serves was written by machines.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use thiserror::Error;

use crate::content_address::{ContentAddress, ContentAddressError};
use crate::hash::{Hash, HashError, NarHash};
use crate::path_info::PathInfo;
use crate::signature::{Signature, SignatureError};
use crate::store_path::{StoreDir, StorePath, StorePathError};

/// Bytes of the largest narinfo that is read.
pub const MAX_NARINFO_LEN: usize = 1 << 20;

/// Why a narinfo is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NarInfoError {
    /// More bytes than we read.
    #[error("narinfo of {0} bytes is too large")]
    TooLarge(usize),
    /// A line without `: `, or the last line without its end.
    #[error("line {0} of narinfo is not 'Name: value'")]
    BadLine(usize),
    /// A field that no Nix writes.
    #[error("unknown field '{0}' in narinfo")]
    UnknownField(String),
    /// A field that may be there once.
    #[error("field '{0}' is there twice in narinfo")]
    DuplicateField(&'static str),
    /// A field that must be there.
    #[error("field '{0}' is missing in narinfo")]
    MissingField(&'static str),
    /// Not a positive number in its shortest form.
    #[error("field '{0}' of narinfo is not a positive number")]
    BadNumber(&'static str),
    /// Not a relative path that stays below the cache's address.
    #[error("bad URL in narinfo")]
    BadUrl,
    /// Not a compression Nix knows.
    #[error("unknown compression '{0}' in narinfo")]
    BadCompression(String),
    /// The narinfo is of another path than was asked for.
    #[error("narinfo is of {found}, not of {expected}")]
    OtherPath {
        /// The hash part that was asked for.
        expected: String,
        /// The path it describes.
        found: StorePath,
    },
    /// A bad store path.
    #[error("bad {field} in narinfo")]
    Path {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: StorePathError,
    },
    /// References are sorted, each once.
    #[error("references of narinfo are out of order, or there twice")]
    UnsortedReferences,
    /// A bad hash.
    #[error("bad {field} in narinfo")]
    Hash {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: HashError,
    },
    /// A bad signature.
    #[error("bad signature in narinfo")]
    Signature(#[from] SignatureError),
    /// A bad content address, or one that does not give the path.
    #[error("bad content address in narinfo")]
    ContentAddress(#[from] ContentAddressError),
}

/// What a binary cache says of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarInfo {
    /// The path itself. Times and `ultimate` are not part of a narinfo: 0 and false.
    pub path_info: PathInfo,
    /// Where the archive is, relative to the cache.
    pub url: String,
    /// How the archive is compressed there: `none`, `xz`, `zstd`.
    pub compression: String,
    /// Hash of the compressed archive.
    pub file_hash: Option<Hash>,
    /// Bytes of the compressed archive.
    pub file_size: Option<u64>,
}

const COMPRESSIONS: [&str; 11] = [
    "none", "br", "bzip2", "compress", "grzip", "gzip", "lrzip", "lz4", "lzip", "lzma", "xz",
];
