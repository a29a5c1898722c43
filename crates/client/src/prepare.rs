//! The trees of a run, packed, and what the user should know of them.

use std::collections::BTreeSet;
use std::path::Path;

use tokio::sync::mpsc;

use crate::contact::News;
use crate::error::CliError;
use crate::options::RunOptions;
use crate::report::Sides;
use crate::source::inputs::{
    Carried, InputError, Lock, LockError, LockedInput, Places, Reach, Taken, choose,
};
use crate::source::{self, Location, PackedSource};

/// The directory of Nix.
const STORE: &str = "/nix/store";

/// Packed trees; gone with this value.
#[derive(Debug)]
pub struct Prepared {
    /// The tree to build.
    pub after: Side,
    /// The tree to compare with.
    pub before: Option<Side>,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

/// One packed tree, and what comes along with it.
#[derive(Debug)]
pub struct Side {
    /// The flake.
    pub packed: PackedSource,
    /// Its inputs that cannot be fetched where it is evaluated.
    pub inputs: Vec<Taken>,
}

/// How trees are prepared.
#[derive(Clone, Debug)]
pub struct Preparation {
    /// Where they are evaluated.
    pub reach: Reach,
    /// Where things are here.
    pub places: Places,
}

impl Prepared {
    /// What the report says of the trees.
    pub fn sides(&self) -> Sides {
        Sides { before: self.before.as_ref().map(label), after: label(&self.after) }
    }
}

impl Preparation {
    /// With everything below the cache directory.
    pub fn below(cache_dir: &Path, reach: Reach) -> Self {
        let (spools, known) = (cache_dir.join("spool"), cache_dir.join("inputs"));
        Self { reach, places: Places { spools, known, store: STORE.into() } }
    }
}

/// Packs in a thread of its own; `news` hears of what may take long.
pub async fn prepare(
    options: &RunOptions,
    location: &Location,
    preparation: &Preparation,
    news: &mpsc::Sender<News>,
) -> Result<Prepared, CliError> {
    let (options, location) = (options.clone(), location.clone());
    let (preparation, news) = (preparation.clone(), news.clone());
    tokio::task::spawn_blocking(move || pack(&options, &location, preparation, &news))
        .await
        .map_err(|_| CliError::new("packing the flake was interrupted"))?
}

fn pack(
    options: &RunOptions,
    location: &Location,
    preparation: Preparation,
    news: &mpsc::Sender<News>,
) -> Result<Prepared, CliError> {
    let spools = &preparation.places.spools;
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
    let mut taking =
        Taking { reach: preparation.reach, carried: Carried::new(preparation.places), news, notes };
    let known = [before.as_ref(), Some(&after)].into_iter().flatten().map(PackedSource::lock);
    taking.refuse_unknown(&options.bring, &known.collect::<Vec<_>>())?;
    let before = before.map(|packed| taking.side(packed, &options.bring)).transpose()?;
    let after = taking.side(after, &options.bring)?;
    let mut notes = taking.notes;
    notes.dedup();
    Ok(Prepared { after, before, notes })
}

/// Takes inputs along.
struct Taking<'a> {
    reach: Reach,
    carried: Carried,
    news: &'a mpsc::Sender<News>,
    notes: Vec<String>,
}

impl Taking<'_> {
    /// What is to be brought must be an input of one side at least.
    fn refuse_unknown(&self, bring: &[String], locks: &[Option<&[u8]>]) -> Result<(), InputError> {
        for name in bring {
            let mut error = Some(InputError::NoLock(name.clone()));
            for lock in locks.iter().copied().flatten() {
                let lock = Lock::parse(lock)?;
                match choose(&lock, self.reach, std::slice::from_ref(name)) {
                    Ok(_) => error = None,
                    Err(unknown) => error = error.map(|_| unknown),
                }
            }
            error.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    fn side(&mut self, packed: PackedSource, bring: &[String]) -> Result<Side, InputError> {
        let mut side = Side { packed, inputs: Vec::new() };
        let lock = match side.packed.lock().map(Lock::parse) {
            None => return Ok(side),
            Some(Ok(lock)) => lock,
            // A newer Nix may well read it.
            Some(Err(error @ LockError::Version(_))) => {
                self.notes.push(format!("{error}: no inputs are taken along"));
                return Ok(side);
            }
            Some(Err(error)) => return Err(error.into()),
        };
        // One side may have what the other has not.
        let mut known = Vec::new();
        for name in bring {
            known.extend(lock.find(name)?.map(|_| name.clone()));
        }
        let mut taken = BTreeSet::new();
        for input in choose(&lock, self.reach, &known)? {
            if let Some(input) = self.take(input, bring)?
                && taken.insert(input.tree.nar_hash())
            {
                side.inputs.push(input);
            }
        }
        Ok(side)
    }

    /// Nothing when it must be left to whoever evaluates.
    fn take(&mut self, input: LockedInput, bring: &[String]) -> Result<Option<Taken>, InputError> {
        let news = self.news;
        let asked_for = bring.contains(&input.name);
        let taken = self.carried.take(input, |input| {
            let work =
                News::Work { verb: "Packing", what: format!("input {} from {}", input.name, input.place) };
            // Nobody waits for whoever does not listen.
            let _ = news.try_send(work);
        });
        match taken {
            Err(error) if self.reach == Reach::Here && !asked_for => {
                self.notes.push(format!("{error}: left to Nix"));
                Ok(None)
            }
            taken => taken.map(Some),
        }
    }
}

fn label(side: &Side) -> fleet_diff::SideLabel {
    fleet_diff::SideLabel { rev: side.packed.rev().map(str::to_owned), dirty: side.packed.dirty }
}
