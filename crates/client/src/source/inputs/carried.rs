//! What a run takes along: each tree once, however many inputs of both sides are that tree.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_wire::v1;

use super::known::{self, Known};
use super::lock::LockedInput;
use super::tree::{InputError, Places, pack_spool};
use crate::source::spool::Spool;
use crate::upload;

/// The trees of a run.
#[derive(Debug)]
pub struct Carried {
    places: Places,
    trees: BTreeMap<[u8; 32], Arc<CarriedTree>>,
}

/// One tree; its chunks are known, its bytes are packed when somebody lacks them.
#[derive(Debug)]
pub struct CarriedTree {
    input: LockedInput,
    places: Places,
    nar_hash: [u8; 32],
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: Known,
    spool: Option<Spool>,
}

/// A tree whose bytes are there.
#[derive(Clone, Debug)]
pub struct PackedTree {
    /// Its NAR, as long as the tree lives.
    pub nar: PathBuf,
    /// Whether its chunks are others than those that were remembered.
    pub recut: bool,
}

/// An input of one side, and its tree.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Of the input.
    pub name: String,
    /// Shared with whatever else is that tree.
    pub tree: Arc<CarriedTree>,
}

impl Carried {
    /// Nothing yet.
    pub fn new(places: Places) -> Self {
        Self { places, trees: BTreeMap::new() }
    }

    /// Takes one input along. `packing` hears of those whose chunks are not known yet.
    pub fn take(
        &mut self,
        input: LockedInput,
        packing: impl FnOnce(&LockedInput),
    ) -> Result<Taken, InputError> {
        let nar_hash = input.nar_hash.ok_or_else(|| InputError::NoHash(input.name.clone()))?.0;
        let name = input.name.clone();
        if let Some(tree) = self.trees.get(&nar_hash) {
            return Ok(Taken { name, tree: Arc::clone(tree) });
        }
        let (known, spool) = if let Some(known) = known::read(&self.places.known, nar_hash) {
            (known, None)
        } else {
            packing(&input);
            let spool = pack_spool(&input, &self.places)?;
            let known = cut(&input, &spool)?;
            known::write(&self.places.known, nar_hash, &known);
            (known, Some(spool))
        };
        let places = self.places.clone();
        let tree =
            Arc::new(CarriedTree { input, places, nar_hash, state: Mutex::new(State { known, spool }) });
        self.trees.insert(nar_hash, Arc::clone(&tree));
        Ok(Taken { name, tree })
    }
}

impl CarriedTree {
    /// Its chunks, in order.
    pub fn chunks(&self) -> Vec<v1::ChunkRef> {
        self.state().known.manifest.chunks.clone()
    }

    /// SHA-256 of its NAR.
    pub fn nar_hash(&self) -> [u8; 32] {
        self.nar_hash
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.input.name
    }

    /// Packs it if it has not been. Blocks.
    pub fn pack(&self) -> Result<PackedTree, InputError> {
        let mut state = self.state();
        if let Some(spool) = &state.spool {
            return Ok(PackedTree { nar: spool.path().to_owned(), recut: false });
        }
        let spool = pack_spool(&self.input, &self.places)?;
        // Another version may have cut it that remembered it.
        let known = cut(&self.input, &spool)?;
        let recut = known != state.known;
        if recut {
            known::write(&self.places.known, self.nar_hash, &known);
        }
        let nar = spool.path().to_owned();
        *state = State { known, spool: Some(spool) };
        Ok(PackedTree { nar, recut })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// As it is sent.
    pub fn to_wire(&self) -> v1::SourceInput {
        let Known { nar_size, manifest } = self.tree.state().known.clone();
        v1::SourceInput {
            name: self.name.clone(),
            nar_hash: self.tree.nar_hash.to_vec().into(),
            nar_size,
            manifest: Some(manifest),
        }
    }
}

fn cut(input: &LockedInput, spool: &Spool) -> Result<Known, InputError> {
    let failed = |source| InputError::Cut { name: input.name.clone(), source };
    let chunks = upload::manifest(spool.path()).map_err(failed)?;
    Ok(Known { nar_size: spool.nar_size, manifest: v1::Manifest { chunks } })
}
