//! Keeping a path once its bytes have been looked at, and forgetting one whose bytes are not what they should be.

use std::sync::Arc;

use fleet_nix::StorePath;
use fleet_store::{Kept, Manifest, StoreError};
use fleet_wire::v1;

use super::checked::CheckedPath;
use super::index::Summary;
use super::{Expected, PathTable, PathsError, VerifiedPath, verify};

impl PathTable {
    /// Looks whether a path is what it is said to be: its chunks are here, they survive a loss of power, they make this
    /// archive, and name what it refers to. Without knowing what to expect, its references are taken as they are said.
    pub(crate) async fn verify(
        &self,
        path: v1::StoredPath,
        expected: Option<Expected>,
    ) -> Result<VerifiedPath, PathsError> {
        let mut path = CheckedPath::new(&self.store_dir, path)?;
        let digests = path.manifest.pieces.iter().map(|piece| &piece.digest);
        let hold = self.usage.hold(digests);
        if !self.is_kept_alike(&path).await? {
            let _permit = self.verifiers.acquire().await.map_err(|_| PathsError::Interrupted)?;
            verify::archive(&self.chunks, &mut path, expected.as_ref()).await?;
            let digests = path.manifest.pieces.iter().map(|piece| piece.digest).collect();
            self.chunks.make_durable(digests).await.map_err(|error| path.chunk_error(error))?;
        }
        Ok(VerifiedPath { path, upstream: expected.map(|expected| expected.upstream), _hold: hold })
    }

    /// Whether this very path is kept already, with all its chunks.
    async fn is_kept_alike(&self, path: &CheckedPath) -> Result<bool, PathsError> {
        let name = &path.info.path;
        let earlier = match self.manifests.read(name.as_str()).await {
            Ok(Some(earlier)) => earlier,
            // Set aside by now: this one takes its place.
            Ok(None) | Err(StoreError::DamagedManifest(_)) => return Ok(false),
            Err(other) => return Err(other.into()),
        };
        path.agrees_with(&earlier)?;
        let _hold = self.usage.hold(earlier.pieces.iter().map(|piece| &piece.digest));
        let whole = self.is_whole(&earlier).await?;
        if !whole {
            self.forget(name, "it lost a chunk").await?;
        }
        Ok(whole)
    }

    /// Whether all chunks are here, in the frames that the manifest counts on.
    async fn is_whole(&self, manifest: &Manifest) -> Result<bool, StoreError> {
        let digests = manifest.pieces.iter().map(|piece| piece.digest).collect();
        let frames = self.chunks.frame_sizes(digests).await?;
        Ok(manifest.pieces.iter().zip(frames).all(|(piece, frame)| frame == Some(u64::from(piece.frame))))
    }

    /// Keeps a path; durable when this returns. Keeping it twice is nothing, and of two contents the first stays. What
    /// it refers to must be kept, or come from upstream.
    pub(crate) async fn keep(&self, verified: VerifiedPath) -> Result<(), PathsError> {
        let VerifiedPath { path, upstream, _hold } = verified;
        let _entered = self.usage.enter().await;
        let name = &path.info.path;
        self.usage.use_paths(path.info.references.iter().chain([name]));
        if let Some(upstream) = upstream {
            let is_there =
                |other: &&StorePath| *other == name || upstream.contains(*other) || self.index.has(other);
            if let Some(lacking) = path.info.references.iter().find(|other| !is_there(other)) {
                return Err(PathsError::NoReference {
                    path: name.to_string(),
                    reference: lacking.to_string(),
                });
            }
        }
        if !self.index.has_room() && !self.index.has(name) {
            return Err(PathsError::Full);
        }
        let kept = match self.manifests.keep(name.as_str(), &path.manifest).await? {
            Kept::Now => path.manifest,
            Kept::Before(earlier) => {
                path.agrees_with(&earlier)?;
                earlier
            }
        };
        let references = path.info.references.iter().cloned().collect();
        self.index.keep(name, Arc::new(Summary::new(references, path.info.nar_size, &kept)));
        Ok(())
    }

    /// Reading a path failed with this. If its bytes are not what they should be, it is kept no more: whoever has it may
    /// bring it again. Answers whether that is so.
    pub(crate) async fn failed(&self, path: &StorePath, error: &StoreError) -> Result<bool, PathsError> {
        let is_damage =
            matches!(error, StoreError::Damaged(_) | StoreError::Absent(_) | StoreError::OtherSize { .. });
        if is_damage {
            self.forget(path, &error.to_string()).await?;
        }
        Ok(is_damage)
    }

    /// Reads a kept path back: bytes of its archive, or what is wrong with it, after which it is kept no more. None for
    /// one that is not here.
    pub(crate) async fn check(
        &self,
        path: &StorePath,
    ) -> Result<Option<Result<u64, PathsError>>, PathsError> {
        if !self.index.has(path) {
            return Ok(None);
        }
        let Some((info, manifest)) = self.read(path).await? else {
            let name = path.to_string();
            return Ok(Some(Err(StoreError::DamagedManifest(name).into())));
        };
        let _hold = self.usage.hold(manifest.pieces.iter().map(|piece| &piece.digest));
        let mut found = CheckedPath { info, manifest: manifest.clone() };
        match verify::archive(&self.chunks, &mut found, None).await {
            Ok(()) => {}
            Err(error @ (PathsError::Store(_) | PathsError::Interrupted)) => return Err(error),
            // A collection takes chunks only after their path.
            Err(_) if !self.index.has(path) => return Ok(None),
            Err(error) => {
                self.forget(path, &error.to_string()).await?;
                return Ok(Some(Err(error)));
            }
        }
        if found.manifest != manifest {
            // Somebody brought a damaged chunk again, in another frame.
            self.manifests.replace(path.as_str(), &found.manifest).await?;
        }
        Ok(Some(Ok(found.info.nar_size)))
    }

    /// Keeps a path no more whose bytes are not what they should be. First, neither it nor what refers to it is
    /// published any more.
    pub(super) async fn forget(&self, path: &StorePath, why: &str) -> Result<(), PathsError> {
        let _marking = self.marking.lock().await;
        if !self.index.has(path) {
            return Ok(());
        }
        tracing::error!(%path, why, "a path is damaged and kept no more: whoever has it may bring it again");
        self.unpublish(std::slice::from_ref(path)).await?;
        self.manifests.forget(path.as_str()).await?;
        self.index.forget(path);
        // Nobody listens any more when the coordinator stops.
        let _ = self.forgotten.send(path.clone()).await;
        Ok(())
    }

    /// Removes paths that nothing needs, in this order: each before what it refers to. The caller holds the gate.
    pub(crate) async fn remove(&self, paths: &[StorePath]) -> Result<(), PathsError> {
        let _marking = self.marking.lock().await;
        for path in paths {
            self.index.publish(path, false);
        }
        // One by one: a crash between two leaves what is published with all its references.
        for path in paths {
            self.published.clear(&[path.hash_part().to_owned()]).await?;
        }
        for path in paths {
            self.index.forget(path);
            self.manifests.delete(&[path.to_string()]).await?;
            let _ = self.forgotten.send(path.clone()).await;
        }
        Ok(())
    }
}
