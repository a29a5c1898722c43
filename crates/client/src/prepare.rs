//! The trees of a run, packed, and what the user should know of them.

use std::path::Path;

use crate::error::CliError;
use crate::options::RunOptions;
use crate::report::Sides;
use crate::source::{self, Location, PackedSource};

/// Packed trees; gone with this value.
#[derive(Debug)]
pub struct Prepared {
    /// The tree to build.
    pub after: PackedSource,
    /// The tree to compare with.
    pub before: Option<PackedSource>,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

impl Prepared {
    /// What the report says of the trees.
    pub fn sides(&self) -> Sides {
        Sides { before: self.before.as_ref().map(label), after: label(&self.after) }
    }
}

/// Packs in a thread of its own.
pub async fn prepare(options: &RunOptions, location: &Location, spools: &Path) -> Result<Prepared, CliError> {
    let (options, location, spools) = (options.clone(), location.clone(), spools.to_owned());
    tokio::task::spawn_blocking(move || pack(&options, &location, &spools))
        .await
        .map_err(|_| CliError::new("packing the flake was interrupted"))?
}

fn pack(options: &RunOptions, location: &Location, spools: &Path) -> Result<Prepared, CliError> {
    source::sweep_spools(spools);
    let mut after = source::pack_current(&options.flake, location, spools)?;
    let base = options.base.as_deref();
    let mut before = base.map(|rev| source::pack_base(&options.flake, location, rev, spools)).transpose()?;
    let mut notes = std::mem::take(&mut after.notes);
    if before.as_ref().is_some_and(|before| before.is_same_source(&after)) {
        notes.insert(
            0,
            "both sides are the same tree, so nothing will differ: --base names an earlier commit".to_owned(),
        );
    }
    if after.dirty {
        let tree = location.root().display();
        notes.insert(
            0,
            format!("the git tree {tree} has uncommitted changes: building it as it is, without a revision"),
        );
    }
    notes.extend(before.as_mut().map(|before| std::mem::take(&mut before.notes)).unwrap_or_default());
    notes.dedup();
    Ok(Prepared { after, before, notes })
}

fn label(packed: &PackedSource) -> fleet_diff::SideLabel {
    fleet_diff::SideLabel { rev: packed.rev().map(str::to_owned), dirty: packed.dirty }
}
