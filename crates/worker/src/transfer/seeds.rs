//! Chunks that are on this machine already, in other versions of what is wanted: known from where those were cut, and
//! read from the store's files, each checked. Reads the store, and owns nothing.

mod layout;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fleet_nix::StoreDir;
use fleet_nix::daemon::DaemonAddress;
use fleet_nix::store_path::StorePath;
use fleet_store::Digest;

use super::manifest_cache::{ManifestCache, Piece, stem};
use layout::Layout;

/// Other paths that one fetch looks at.
const MAX_PATHS: usize = 256;

/// What is here.
#[derive(Debug, Default)]
pub(crate) struct Seeds {
    layouts: Vec<Layout>,
    /// Layout and position of a chunk.
    places: HashMap<Digest, (usize, u64)>,
    /// Names without versions.
    stems: HashSet<String>,
}

impl Seeds {
    /// The chunks of `paths`, which must be valid and stay so while this lives.
    pub(crate) async fn gather(
        manifests: &Arc<ManifestCache>,
        address: &DaemonAddress,
        store_dir: &StoreDir,
        paths: &BTreeSet<StorePath>,
    ) -> Self {
        let mut seeds = Self::default();
        // Case-insensitive file systems change names.
        if cfg!(target_os = "macos") {
            return seeds;
        }
        for path in paths.iter().take(MAX_PATHS) {
            let Some(pieces) = manifests.get(path).await else { continue };
            let place = address.physical(store_dir, path);
            let Ok(Ok(layout)) = tokio::task::spawn_blocking(move || Layout::of(&place)).await else {
                continue;
            };
            let size: u64 = pieces.iter().map(|piece| u64::from(piece.size)).sum();
            if layout.len() != size {
                manifests.forget(path);
                continue;
            }
            let number = seeds.layouts.len();
            seeds.layouts.push(layout);
            let mut position = 0;
            for piece in &*pieces {
                seeds.places.insert(piece.digest, (number, position));
                position += u64::from(piece.size);
            }
            seeds.stems.insert(stem(path.name()));
        }
        seeds
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Whether another version of this path is here.
    pub(crate) fn may_serve(&self, path: &StorePath) -> bool {
        self.stems.contains(&stem(path.name()))
    }

    /// Whether this chunk is here.
    pub(crate) fn has(&self, piece: &Piece) -> bool {
        self.places.contains_key(&piece.digest)
    }

    /// A chunk, if it is still what it was. Blocks.
    pub(crate) fn read(&self, piece: &Piece) -> Option<Vec<u8>> {
        let (number, position) = *self.places.get(&piece.digest)?;
        let data = self.layouts.get(number)?.read(position, piece.size as usize).ok()?;
        (Digest::of(&data) == piece.digest).then_some(data)
    }
}
