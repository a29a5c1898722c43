//! Store paths, the directory they live in, and the names of outputs.
//!
//! A [`StorePath`] holds no directory: the same path names the same object whatever the store directory is
//! called on the machine at hand. Only a [`StoreDir`] prints or reads full paths.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::base32;

/// Characters of the hash part.
pub const HASH_PART_LEN: usize = 32;
/// Bytes of the hash part.
pub const HASH_BYTES: usize = 20;
/// Nix allows no longer name.
pub const MAX_NAME_LEN: usize = 211;
/// What a derivation's name in the store ends with.
pub const DERIVATION_SUFFIX: &str = ".drv";

/// Why a text is not a store path, a store directory or a name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StorePathError {
    /// A path outside of the store.
    #[error("'{path}' is not in the store '{store_dir}'")]
    NotInStore {
        /// The path.
        path: String,
        /// The store directory.
        store_dir: String,
    },
    /// A store directory must be absolute, without `.`, `..`, double or final slashes.
    #[error("'{0}' cannot be a store directory")]
    BadStoreDir(String),
    /// Shorter than a hash part, a dash and one character.
    #[error("'{0}' is too short for a store path")]
    TooShort(String),
    /// The hash part is 32 characters of Nix's base 32, then comes a dash.
    #[error("'{0}' does not begin with a hash part")]
    BadHashPart(String),
    /// Names are not empty.
    #[error("empty name")]
    EmptyName,
    /// Names have at most [`MAX_NAME_LEN`] characters.
    #[error("name of {0} characters is longer than Nix allows")]
    NameTooLong(usize),
    /// The first component (up to a dash) must not be `.` or `..`.
    #[error("name '{0}' begins with a dot component")]
    DotName(String),
    /// Letters, digits and `+-._?=` make a name.
    #[error("name '{name}' contains the illegal character {character:?}")]
    IllegalCharacter {
        /// The name.
        name: String,
        /// The character.
        character: char,
    },
}

/// Hash part and name: `…32 characters…-name`. Cheap to clone; compares as its text does.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath(Arc<str>);

impl StorePath {
    /// A path of a computed hash part.
    pub fn from_hash(hash: &[u8; HASH_BYTES], name: &str) -> Result<Self, StorePathError> {
        check_name(name)?;
        Ok(Self(format!("{}-{name}", base32::encode(hash)).into()))
    }

    /// Without a directory: `…32 characters…-name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 32 characters.
    pub fn hash_part(&self) -> &str {
        &self.0[..HASH_PART_LEN]
    }

    /// What follows the dash.
    pub fn name(&self) -> &str {
        &self.0[HASH_PART_LEN + 1..]
    }

    /// Whether the name ends in `.drv`.
    pub fn is_derivation(&self) -> bool {
        self.name().ends_with(DERIVATION_SUFFIX)
    }

    /// The name without `.drv`; `None` unless this is a derivation.
    pub fn derivation_name(&self) -> Option<&str> {
        self.name().strip_suffix(DERIVATION_SUFFIX)
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, StorePathError> {
        let bytes = text.as_bytes();
        if bytes.len() < HASH_PART_LEN + 2 {
            return Err(StorePathError::TooShort(excerpt(text)));
        }
        let (hash_part, rest) = bytes.split_at(HASH_PART_LEN);
        if rest[0] != b'-' || !hash_part.iter().copied().all(base32::is_character) {
            return Err(StorePathError::BadHashPart(excerpt(text)));
        }
        // The hash part is ASCII, so the name begins at a character boundary.
        check_name(&text[HASH_PART_LEN + 1..])?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePath({})", self.0)
    }
}

impl Borrow<str> for StorePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for StorePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for StorePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for StorePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The directory all store paths of a store are in, normally `/nix/store`. It is part of every hash part.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoreDir(Arc<str>);

impl StoreDir {
    /// An absolute, normal path.
    pub fn new(path: &str) -> Result<Self, StorePathError> {
        let is_normal = path.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
        });
        if is_normal { Ok(Self(path.into())) } else { Err(StorePathError::BadStoreDir(excerpt(path))) }
    }

    /// The directory's own path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a full path of a store object (not of something inside one).
    pub fn parse(&self, path: &str) -> Result<StorePath, StorePathError> {
        self.base_name(path)?.parse()
    }

    /// Reads a full path of a store object or of something inside one; also returns what follows the object's
    /// path (empty, or beginning with a slash).
    pub fn parse_within<'a>(&self, path: &'a str) -> Result<(StorePath, &'a str), StorePathError> {
        let rest = self.base_name(path)?;
        let end = rest.find('/').unwrap_or(rest.len());
        Ok((rest[..end].parse()?, &rest[end..]))
    }

    /// The full path.
    pub fn print(&self, path: &StorePath) -> String {
        format!("{}/{path}", self.0)
    }

    /// The full path as a path of the file system.
    pub fn join(&self, path: &StorePath) -> std::path::PathBuf {
        std::path::Path::new(&*self.0).join(path.as_str())
    }

    fn base_name<'a>(&self, path: &'a str) -> Result<&'a str, StorePathError> {
        let rest = path.strip_prefix(&*self.0).and_then(|rest| rest.strip_prefix('/'));
        rest.ok_or_else(|| StorePathError::NotInStore { path: excerpt(path), store_dir: self.0.to_string() })
    }
}

impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".into())
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StoreDir {
    type Err = StorePathError;

    fn from_str(path: &str) -> Result<Self, StorePathError> {
        Self::new(path)
    }
}

/// The name of a derivation's output: `out`, `dev`, `man`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputName(Arc<str>);

impl OutputName {
    /// The usual one.
    pub fn out() -> Self {
        Self("out".into())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name part of this output's store path, for a derivation called `derivation`.
    pub fn path_name(&self, derivation: &str) -> String {
        if &*self.0 == "out" { derivation.to_owned() } else { format!("{derivation}-{}", self.0) }
    }
}

impl FromStr for OutputName {
    type Err = StorePathError;

    fn from_str(name: &str) -> Result<Self, StorePathError> {
        check_name(name)?;
        Ok(Self(name.into()))
    }
}

impl fmt::Display for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutputName({})", self.0)
    }
}

impl Borrow<str> for OutputName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for OutputName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Nix's rules for the name of a store path.
pub fn check_name(name: &str) -> Result<(), StorePathError> {
    if name.is_empty() {
        return Err(StorePathError::EmptyName);
    }
    if name.len() > MAX_NAME_LEN {
        return Err(StorePathError::NameTooLong(name.len()));
    }
    if let Some(character) = name.chars().find(|character| !is_name_character(*character)) {
        return Err(StorePathError::IllegalCharacter { name: name.to_owned(), character });
    }
    let first = name.split_once('-').map_or(name, |(first, _)| first);
    if matches!(first, "." | "..") {
        return Err(StorePathError::DotName(name.to_owned()));
    }
    Ok(())
}

fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '+' | '-' | '.' | '_' | '?' | '=')
}

/// At most 300 characters of a text that is quoted in an error: a whole path, but not a whole file.
fn excerpt(text: &str) -> String {
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests;
