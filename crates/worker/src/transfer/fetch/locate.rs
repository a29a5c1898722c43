//! Who knows where paths are: the coordinator, or whoever stands in for it.

use std::collections::{BTreeSet, HashSet};

use fleet_nix::signature::PublicKey;
use fleet_nix::store_path::StorePath;
use fleet_nix::{NarHash, PathInfo, StoreDir};
use fleet_store::{Digest, MAX_CHUNK};
use fleet_wire::v1;
use fleet_wire::v1::chunks_client::ChunksClient;
use fleet_wire::v1::located::Located as Part;
use fleet_wire::v1::paths_client::PathsClient;
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::Status;
use tonic::transport::Channel;

use super::FetchError;
use crate::transfer::manifest_cache::{Piece, Pieces};

/// Paths of one answer.
const MAX_PATHS: usize = 1 << 18;
const MAX_HOLDERS: usize = 1 << 12;

/// Says where paths are, and gives what it has itself.
pub trait Locate: Send + Sync + 'static {
    /// As `Paths.Locate`.
    fn locate(&self, request: v1::LocateRequest) -> impl Future<Output = Result<Located, Status>> + Send;

    /// As `Chunks.Get`.
    fn chunks(
        &self,
        request: v1::GetRequest,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<v1::Chunk, Status>>, Status>> + Send;
}

/// Where some paths are.
#[derive(Clone, Debug, Default)]
pub struct Located {
    /// Workers that have some.
    pub holders: Vec<v1::Holder>,
    /// Each after its references.
    pub paths: Vec<LocatedPath>,
    /// What nobody has.
    pub lost: BTreeSet<StorePath>,
}

/// Where one path is. Without any of the three, somebody has it who cannot be reached from here.
#[derive(Clone, Debug)]
pub struct LocatedPath {
    /// Signed.
    pub info: PathInfo,
    /// Positions among the holders.
    pub holders: Vec<usize>,
    /// An upstream cache serves it, and all it refers to, which is not listed.
    pub upstream: bool,
    /// Where the coordinator has it.
    pub(crate) manifest: Option<Pieces>,
}

impl LocatedPath {
    /// A path that only workers have.
    pub fn held(info: PathInfo, holders: Vec<usize>) -> Self {
        Self { info, holders, upstream: false, manifest: None }
    }
}

impl Located {
    /// Adds a part of an answer.
    pub fn add(&mut self, part: v1::Located) -> Result<(), String> {
        match part.located {
            Some(Part::Holder(holder)) => self.holders.push(holder),
            Some(Part::Path(path)) => self.paths.push(read(path)?),
            Some(Part::Lost(lost)) => {
                for path in lost.paths {
                    self.lost.insert(store_path(&path)?);
                }
            }
            None => {}
        }
        let is_too_much =
            self.paths.len() > MAX_PATHS || self.holders.len() > MAX_HOLDERS || self.lost.len() > MAX_PATHS;
        if is_too_much { Err("an answer is too long".to_owned()) } else { Ok(()) }
    }

    /// Whether what it says of each path is signed, and in order.
    pub(super) fn check(&self, store: &StoreDir, keys: &[PublicKey]) -> Result<(), FetchError> {
        let names: HashSet<&StorePath> = self.paths.iter().map(|path| &path.info.path).collect();
        let mut seen = HashSet::new();
        for path in &self.paths {
            let info = &path.info;
            let wrong = |what| Err(FetchError::Described(format!("{} {what}", info.path)));
            if !info.is_signed_by(store, keys) {
                return wrong("is not signed with a key of its");
            }
            if path.holders.iter().any(|number| *number >= self.holders.len()) {
                return wrong("has a holder that is not named");
            }
            seen.insert(&info.path);
            if info.references.iter().any(|other| names.contains(other) && !seen.contains(other)) {
                return wrong("stands before what it refers to");
            }
            let size = |pieces: &Pieces| pieces.iter().map(|piece| u64::from(piece.size)).sum::<u64>();
            if path.manifest.as_ref().is_some_and(|pieces| size(pieces) != info.nar_size) {
                return wrong("has a manifest of another size");
            }
        }
        if seen.len() == self.paths.len() {
            Ok(())
        } else {
            Err(FetchError::Described("a path is named twice".to_owned()))
        }
    }
}

/// The chunks of a manifest as the wire has it.
pub(super) fn read_manifest(manifest: &v1::Manifest) -> Option<Pieces> {
    let piece = |chunk: &v1::ChunkRef| {
        let digest = Digest::try_from(&*chunk.digest).ok()?;
        let fits = chunk.size > 0 && chunk.size as usize <= MAX_CHUNK;
        fits.then_some(Piece { digest, size: chunk.size })
    };
    manifest.chunks.iter().map(piece).collect()
}

fn read(located: v1::LocatedPath) -> Result<LocatedPath, String> {
    let info = located.info.unwrap_or_default();
    let path = store_path(&info.path)?;
    let wrong = |what: &str| format!("{path} has a bad {what}");
    let optional = |text: &str| Some(text).filter(|text| !text.is_empty()).map(store_path).transpose();
    let content_address = Some(&info.content_address).filter(|text| !text.is_empty());
    let manifest = located.manifest.as_ref().map(|manifest| read_manifest(manifest).ok_or(()));
    Ok(LocatedPath {
        info: PathInfo {
            deriver: optional(&info.deriver)?,
            nar_hash: NarHash(info.nar_hash.as_ref().try_into().map_err(|_| wrong("NAR hash"))?),
            references: info.references.iter().map(|path| store_path(path)).collect::<Result<_, _>>()?,
            registration_time: 0,
            nar_size: info.nar_size,
            ultimate: false,
            signatures: info.signatures.iter().filter_map(|text| text.parse().ok()).collect(),
            content_address: content_address
                .map(|text| text.parse().map_err(|_| wrong("content address")))
                .transpose()?,
            path: path.clone(),
        },
        holders: located.holders.iter().map(|number| *number as usize).collect(),
        upstream: located.upstream,
        manifest: manifest.transpose().map_err(|()| wrong("manifest"))?,
    })
}

fn store_path(text: &str) -> Result<StorePath, String> {
    text.parse().map_err(|_| format!("{:?} is not a store path", text.chars().take(300).collect::<String>()))
}

/// The coordinator itself, at a channel that connects again by itself.
#[derive(Clone, Debug)]
pub(crate) struct Coordinator(pub(crate) Channel);

impl Locate for Coordinator {
    async fn locate(&self, request: v1::LocateRequest) -> Result<Located, Status> {
        let client = PathsClient::new(self.0.clone());
        let mut client = client.max_decoding_message_size(fleet_wire::MAX_MESSAGE);
        let mut parts = client.locate(request).await?.into_inner();
        let mut located = Located::default();
        while let Some(part) = parts.message().await? {
            located.add(part).map_err(Status::out_of_range)?;
        }
        Ok(located)
    }

    async fn chunks(
        &self,
        request: v1::GetRequest,
    ) -> Result<BoxStream<'static, Result<v1::Chunk, Status>>, Status> {
        let client = ChunksClient::new(self.0.clone());
        let mut client = client.max_decoding_message_size(fleet_wire::MAX_MESSAGE);
        Ok(client.get(request).await?.into_inner().boxed())
    }
}
