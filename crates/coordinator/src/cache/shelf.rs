//! What is published, read from where it is kept. Owns nothing, decides nothing; takes a path that turns out to be
//! damaged from the shelf.

use fleet_nix::{PathInfo, StorePath};
use fleet_store::{ChunkStore, Manifest, Manifests, Objects, Published, StoreError};
use fleet_telemetry::with_causes;
use fleet_wire::v1;
use prost::Message as _;

use super::Unreadable;

/// Published paths and their frames.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    published: Published,
    manifests: Manifests,
    chunks: ChunkStore,
}

impl Shelf {
    pub(crate) fn new(objects: &Objects) -> Self {
        let (published, manifests, chunks) = (objects.published(), objects.manifests(), objects.chunks());
        Self { published, manifests, chunks }
    }

    /// The frames that paths are made of.
    pub(super) fn chunks(&self) -> &ChunkStore {
        &self.chunks
    }

    /// The published path with this hash part.
    pub(super) async fn published(
        &self,
        hash_part: &str,
    ) -> Result<Option<(PathInfo, Manifest)>, Unreadable> {
        self.find(hash_part).await.map_err(|error| {
            tracing::error!(hash_part, "cannot look for a published path: {}", with_causes(&error));
            Unreadable
        })
    }

    async fn find(&self, hash_part: &str) -> Result<Option<(PathInfo, Manifest)>, StoreError> {
        let Some(name) = self.published.get(hash_part).await? else { return Ok(None) };
        let manifest = match self.manifests.read(&name).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) | Err(StoreError::DamagedManifest(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let info = v1::StoredPath::decode(&*manifest.note).ok().and_then(|note| info(&note));
        Ok(info.map(|info| (info, manifest)))
    }

    /// Reading a frame of this path failed. If what is kept is not what it should be, nobody is offered it again.
    pub(super) async fn failed(&self, path: &StorePath, error: &StoreError) {
        let why = with_causes(error);
        let is_damage =
            matches!(error, StoreError::Damaged(_) | StoreError::Absent(_) | StoreError::OtherSize { .. });
        if !is_damage {
            tracing::error!(%path, "cannot read a published path: {why}");
            return;
        }
        tracing::error!(%path, "a published path is damaged and no longer served: {why}");
        if let Err(error) = self.published.clear(&[path.hash_part().to_owned()]).await {
            tracing::error!(%path, "a damaged path cannot be withdrawn: {}", with_causes(&error));
        }
    }
}

fn info(note: &v1::StoredPath) -> Option<PathInfo> {
    let info = note.info.as_ref()?;
    let address = Some(&note.content_address).filter(|address| !address.is_empty());
    let deriver = Some(&info.deriver).filter(|deriver| !deriver.is_empty());
    Some(PathInfo {
        path: info.path.parse().ok()?,
        deriver: deriver.map(|deriver| deriver.parse()).transpose().ok()?,
        nar_hash: fleet_nix::NarHash(info.nar_hash.as_ref().try_into().ok()?),
        references: info.references.iter().map(|path| path.parse()).collect::<Result<_, _>>().ok()?,
        registration_time: 0,
        nar_size: info.nar_size,
        ultimate: false,
        signatures: note.signatures.iter().map(|text| text.parse()).collect::<Result<_, _>>().ok()?,
        content_address: address.map(|address| address.parse()).transpose().ok()?,
    })
}
