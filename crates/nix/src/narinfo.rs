//! Narinfo files: what a binary cache says of a path.
//!
//! Read strictly. Nix is lenient here; a cache of ours is not, since what it serves was written by machines.

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::str::FromStr;

use thiserror::Error;

use crate::content_address::{ContentAddress, ContentAddressError};
use crate::hash::{Hash, HashError, NarHash};
use crate::path_info::PathInfo;
use crate::signature::{Signature, SignatureError};
use crate::store_path::{StoreDir, StorePath, StorePathError};

/// Bytes of the largest narinfo that is read.
pub const MAX_NARINFO_LEN: usize = 512 << 10;

/// Why a narinfo is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NarInfoError {
    /// More bytes than we read.
    #[error("narinfo of {0} bytes is too large")]
    TooLarge(usize),
    /// A line without `: `, with a control character, not UTF-8, or without its end.
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
    /// A bad content address.
    #[error("bad content address in narinfo")]
    ContentAddress(#[from] ContentAddressError),
    /// A content address that does not give the path.
    #[error("{0} does not follow from the content address in its narinfo")]
    FalseContentAddress(StorePath),
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

/// What Nix can unpack, and nothing it would guess at.
const COMPRESSIONS: [&str; 13] = [
    "none", "br", "bzip2", "compress", "grzip", "gzip", "lrzip", "lz4", "lzip", "lzma", "lzop", "xz", "zstd",
];

impl NarInfo {
    /// Reads a narinfo.
    pub fn parse(store: &StoreDir, bytes: &[u8]) -> Result<Self, NarInfoError> {
        if bytes.len() > MAX_NARINFO_LEN {
            return Err(NarInfoError::TooLarge(bytes.len()));
        }
        let info = Fields::parse(store, bytes)?.into_narinfo()?;
        if info.path_info.content_address.is_some() && !info.path_info.is_content_addressed(store) {
            return Err(NarInfoError::FalseContentAddress(info.path_info.path));
        }
        Ok(info)
    }

    /// Reads a narinfo that must be of the path with this hash part, as its file name promised.
    pub fn parse_for(store: &StoreDir, hash_part: &str, bytes: &[u8]) -> Result<Self, NarInfoError> {
        let info = Self::parse(store, bytes)?;
        if info.path_info.path.hash_part() != hash_part {
            let expected = hash_part.chars().take(64).collect();
            return Err(NarInfoError::OtherPath { expected, found: info.path_info.path });
        }
        Ok(info)
    }

    /// The file's text, fields in Nix's order.
    pub fn print(&self, store: &StoreDir) -> String {
        let path_info = &self.path_info;
        let mut text = String::new();
        let mut field = |name: &str, value: &dyn Display| {
            writeln!(text, "{name}: {value}").expect("writing to a string does not fail");
        };
        field("StorePath", &store.print(&path_info.path));
        field("URL", &self.url);
        field("Compression", &self.compression);
        if let Some(hash) = &self.file_hash {
            field("FileHash", hash);
        }
        if let Some(size) = &self.file_size {
            field("FileSize", size);
        }
        field("NarHash", &path_info.nar_hash);
        field("NarSize", &path_info.nar_size);
        let references: Vec<&str> = path_info.references.iter().map(StorePath::as_str).collect();
        field("References", &references.join(" "));
        if let Some(deriver) = &path_info.deriver {
            field("Deriver", deriver);
        }
        for signature in &path_info.signatures {
            field("Sig", signature);
        }
        if let Some(address) = &path_info.content_address {
            field("CA", address);
        }
        text
    }
}

/// What lines said so far.
#[derive(Default)]
struct Fields {
    path: Option<StorePath>,
    url: Option<String>,
    compression: Option<String>,
    file_hash: Option<Hash>,
    file_size: Option<u64>,
    nar_hash: Option<NarHash>,
    nar_size: Option<u64>,
    references: Option<BTreeSet<StorePath>>,
    deriver: Option<StorePath>,
    signatures: Vec<Signature>,
    content_address: Option<ContentAddress>,
}

impl Fields {
    fn parse(store: &StoreDir, bytes: &[u8]) -> Result<Self, NarInfoError> {
        let mut fields = Self::default();
        let mut rest = bytes;
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let bad_line = || NarInfoError::BadLine(number);
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(bad_line)?;
            let line = std::str::from_utf8(&rest[..end]).map_err(|_| bad_line())?;
            rest = &rest[end + 1..];
            let (name, value) = line.split_once(": ").ok_or_else(bad_line)?;
            if line.contains(char::is_control) {
                return Err(bad_line());
            }
            fields.set(store, name, value)?;
        }
        Ok(fields)
    }

    fn set(&mut self, store: &StoreDir, name: &str, value: &str) -> Result<(), NarInfoError> {
        match name {
            "StorePath" => put(&mut self.path, "StorePath", path("StorePath", store.parse(value))?),
            "URL" => put(&mut self.url, "URL", url(value)?),
            "Compression" => put(&mut self.compression, "Compression", compression(value)?),
            "FileHash" => put(&mut self.file_hash, "FileHash", hash("FileHash", value)?),
            "FileSize" => put(&mut self.file_size, "FileSize", number("FileSize", value)?),
            "NarHash" => put(&mut self.nar_hash, "NarHash", nar_hash(value)?),
            "NarSize" => put(&mut self.nar_size, "NarSize", number("NarSize", value)?),
            "References" => put(&mut self.references, "References", references(value)?),
            "Deriver" if value == "unknown-deriver" => Ok(()),
            "Deriver" => put(&mut self.deriver, "Deriver", path("Deriver", value.parse())?),
            "CA" => put(&mut self.content_address, "CA", value.parse()?),
            "Sig" => {
                self.signatures.push(value.parse()?);
                Ok(())
            }
            other => Err(NarInfoError::UnknownField(other.chars().take(32).collect())),
        }
    }

    fn into_narinfo(self) -> Result<NarInfo, NarInfoError> {
        let missing = NarInfoError::MissingField;
        let path_info = PathInfo {
            path: self.path.ok_or(missing("StorePath"))?,
            deriver: self.deriver,
            nar_hash: self.nar_hash.ok_or(missing("NarHash"))?,
            references: self.references.ok_or(missing("References"))?,
            registration_time: 0,
            nar_size: self.nar_size.ok_or(missing("NarSize"))?,
            ultimate: false,
            signatures: self.signatures,
            content_address: self.content_address,
        };
        Ok(NarInfo {
            path_info,
            url: self.url.ok_or(missing("URL"))?,
            compression: self.compression.ok_or(missing("Compression"))?,
            file_hash: self.file_hash,
            file_size: self.file_size,
        })
    }
}

fn put<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), NarInfoError> {
    if slot.replace(value).is_some() {
        return Err(NarInfoError::DuplicateField(field));
    }
    Ok(())
}

fn path(field: &'static str, path: Result<StorePath, StorePathError>) -> Result<StorePath, NarInfoError> {
    path.map_err(|source| NarInfoError::Path { field, source })
}

fn hash(field: &'static str, value: &str) -> Result<Hash, NarInfoError> {
    Hash::parse_prefixed(value).map_err(|source| NarInfoError::Hash { field, source })
}

fn nar_hash(value: &str) -> Result<NarHash, NarInfoError> {
    hash("NarHash", value)?.try_into().map_err(|source| NarInfoError::Hash { field: "NarHash", source })
}

fn number(field: &'static str, value: &str) -> Result<u64, NarInfoError> {
    let number = u64::from_str(value).ok().filter(|number| *number > 0 && number.to_string() == value);
    number.ok_or(NarInfoError::BadNumber(field))
}

fn references(value: &str) -> Result<BTreeSet<StorePath>, NarInfoError> {
    let mut references = BTreeSet::new();
    for reference in value.split(' ').filter(|_| !value.is_empty()) {
        let reference = path("References", reference.parse())?;
        if references.last().is_some_and(|last| *last >= reference) {
            return Err(NarInfoError::UnsortedReferences);
        }
        references.insert(reference);
    }
    Ok(references)
}

fn compression(value: &str) -> Result<String, NarInfoError> {
    if COMPRESSIONS.contains(&value) {
        Ok(value.to_owned())
    } else {
        Err(NarInfoError::BadCompression(value.chars().take(32).collect()))
    }
}

fn url(value: &str) -> Result<String, NarInfoError> {
    let is_plain = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'+' | b'-' | b'.' | b'_' | b'?' | b'=' | b'&' | b'/' | b'~')
    };
    let is_below = value.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if value.bytes().all(is_plain) && is_below { Ok(value.to_owned()) } else { Err(NarInfoError::BadUrl) }
}

#[cfg(test)]
mod tests;
