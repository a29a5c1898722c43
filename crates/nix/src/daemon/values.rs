//! Nix's values as the worker protocol writes them: paths, sets of paths, path infos, derivations.
//!
//! Store paths travel with their directory, so every function takes the store directory both ends mean.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use tokio::io::AsyncRead;

use super::codec::{self, Encoder, SHORT_TEXT};
use super::error::{Malformed, ReadError};
use crate::content_address::ContentAddress;
use crate::derived_path::DerivedPath;
use crate::path_info::PathInfo;
use crate::signature::Signature;
use crate::store_path::{StoreDir, StorePath};

/// Longest derived path: a store path and the names of outputs.
const DERIVED_PATH: u64 = 64 * 1024;
/// How many characters of a value that is refused are quoted.
const EXCERPT: usize = 300;
/// Most signatures of a path.
const SIGNATURES: u64 = 1024;

impl Encoder {
    /// A store path.
    pub fn path(&mut self, store: &StoreDir, path: &StorePath) -> &mut Self {
        self.bytes(store.print(path))
    }

    /// A store path, or none.
    pub fn optional_path(&mut self, store: &StoreDir, path: Option<&StorePath>) -> &mut Self {
        match path {
            Some(path) => self.path(store, path),
            None => self.bytes(""),
        }
    }

    /// A set of store paths.
    pub fn paths(&mut self, store: &StoreDir, paths: &BTreeSet<StorePath>) -> &mut Self {
        self.list(paths, |out, path| out.path(store, path))
    }

    /// A list of derived paths.
    pub fn derived_paths(&mut self, store: &StoreDir, paths: &[DerivedPath]) -> &mut Self {
        self.list(paths, |out, path| out.bytes(path.print(store)))
    }

    /// A path info behind its path.
    pub fn path_info(&mut self, store: &StoreDir, info: &PathInfo) -> &mut Self {
        self.path(store, &info.path).unkeyed_path_info(store, info)
    }

    /// A path info without its path.
    pub fn unkeyed_path_info(&mut self, store: &StoreDir, info: &PathInfo) -> &mut Self {
        self.optional_path(store, info.deriver.as_ref());
        self.bytes(info.nar_hash.to_hash().to_base16());
        self.paths(store, &info.references);
        self.word(info.registration_time).word(info.nar_size).flag(info.ultimate);
        self.list(&info.signatures, |out, signature| out.bytes(signature.to_string()));
        self.bytes(info.content_address.map(|address| address.to_string()).unwrap_or_default())
    }
}

/// A store path.
pub async fn read_path<R>(reader: &mut R, store: &StoreDir) -> Result<StorePath, ReadError>
where
    R: AsyncRead + Unpin,
{
    let text = codec::read_text(reader, "a store path", SHORT_TEXT).await?;
    parse_path(store, text)
}

/// A store path, or none.
pub async fn read_optional_path<R>(reader: &mut R, store: &StoreDir) -> Result<Option<StorePath>, ReadError>
where
    R: AsyncRead + Unpin,
{
    let text = codec::read_text(reader, "a store path", SHORT_TEXT).await?;
    if text.is_empty() { Ok(None) } else { parse_path(store, text).map(Some) }
}

/// A set of store paths.
pub async fn read_paths<R>(reader: &mut R, store: &StoreDir) -> Result<BTreeSet<StorePath>, ReadError>
where
    R: AsyncRead + Unpin,
{
    let mut paths = BTreeSet::new();
    for _ in 0..codec::read_count(reader, "a set of store paths").await? {
        paths.insert(read_path(reader, store).await?);
    }
    Ok(paths)
}

/// One derived path.
pub async fn read_derived_path<R>(reader: &mut R, store: &StoreDir) -> Result<DerivedPath, ReadError>
where
    R: AsyncRead + Unpin,
{
    let text = codec::read_text(reader, "a derived path", DERIVED_PATH).await?;
    DerivedPath::parse(store, &text).map_err(|error| refused("a derived path", &text, &error))
}

/// A list of derived paths.
pub async fn read_derived_paths<R>(reader: &mut R, store: &StoreDir) -> Result<Vec<DerivedPath>, ReadError>
where
    R: AsyncRead + Unpin,
{
    let mut paths = Vec::new();
    for _ in 0..codec::read_count(reader, "a list of derived paths").await? {
        paths.push(read_derived_path(reader, store).await?);
    }
    Ok(paths)
}

/// A path info behind its path.
pub async fn read_path_info<R>(reader: &mut R, store: &StoreDir) -> Result<PathInfo, ReadError>
where
    R: AsyncRead + Unpin,
{
    let path = read_path(reader, store).await?;
    read_unkeyed_path_info(reader, store, path).await
}

/// A path info without its path, which is `path`.
pub async fn read_unkeyed_path_info<R>(
    reader: &mut R,
    store: &StoreDir,
    path: StorePath,
) -> Result<PathInfo, ReadError>
where
    R: AsyncRead + Unpin,
{
    Ok(PathInfo {
        path,
        deriver: read_optional_path(reader, store).await?,
        nar_hash: read_parsed(reader, "a NAR hash").await?,
        references: read_paths(reader, store).await?,
        registration_time: codec::read_u64(reader).await?,
        nar_size: codec::read_u64(reader).await?,
        ultimate: codec::read_bool(reader).await?,
        signatures: read_signatures(reader).await?,
        content_address: read_content_address(reader).await?,
    })
}

/// Signatures. Old stores hold texts that are none; those prove nothing, and are passed over.
pub async fn read_signatures<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Vec<Signature>, ReadError> {
    let mut signatures = Vec::new();
    for _ in 0..codec::read_count_within(reader, "a list of signatures", SIGNATURES).await? {
        let text = codec::read_text(reader, "a signature", SHORT_TEXT).await?;
        signatures.extend(text.parse::<Signature>().ok());
    }
    Ok(signatures)
}

async fn read_content_address<R: AsyncRead + Unpin>(
    reader: &mut R,
) -> Result<Option<ContentAddress>, ReadError> {
    let text = codec::read_text(reader, "a content address", SHORT_TEXT).await?;
    if text.is_empty() { Ok(None) } else { parse("a content address", &text).map(Some) }
}

async fn read_parsed<R, T>(reader: &mut R, what: &'static str) -> Result<T, ReadError>
where
    R: AsyncRead + Unpin,
    T: FromStr<Err: Display>,
{
    parse(what, &codec::read_text(reader, what, SHORT_TEXT).await?)
}

pub(super) fn parse<T: FromStr<Err: Display>>(what: &'static str, text: &str) -> Result<T, ReadError> {
    text.parse().map_err(|error| refused(what, text, &error))
}

pub(super) fn parse_path(store: &StoreDir, text: String) -> Result<StorePath, ReadError> {
    store.parse(&text).map_err(|source| Malformed::StorePath { text, source }.into())
}

pub(super) fn refused(what: &'static str, text: &str, cause: &dyn Display) -> ReadError {
    let text = text.chars().take(EXCERPT).collect();
    Malformed::Value { what, text, cause: cause.to_string() }.into()
}
