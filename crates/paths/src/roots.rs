//! What keeps store paths from being collected: pins, and the targets of runs as long as the retention wants them.
//! Owns both lists. Says nothing about what is needed for work that goes on.

use std::collections::{BTreeMap, HashMap};

use fleet_nix::StorePath;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Pins at a time.
pub const MAX_PINS: usize = 4096;
/// Bytes of the longest name of a pin.
pub const MAX_PIN_NAME: usize = 255;
/// Runs that are remembered whatever the retention says; the oldest go first.
const MAX_RUNS: usize = 16_384;
/// Paths of all these runs together.
const MAX_RUN_PATHS: usize = 1 << 20;

/// Paths that a run or a pin keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Of the pin, or of the run.
    pub name: String,
    /// Of the run, as far as it is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub branch: String,
    /// Seconds since 1970 when it came to be.
    pub since: u64,
    /// With all they refer to.
    pub paths: Vec<StorePath>,
}

/// A change of the lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootRecord {
    /// A run ended with these targets.
    Ended(Root),
    /// Somebody pinned these paths.
    Pinned(Root),
    /// Nobody pins this any more.
    Unpinned(String),
    /// The retention wants these runs no more.
    Released(Vec<String>),
}

/// How long runs keep their targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The last runs of each branch, whatever their age.
    pub runs: usize,
    /// Younger ones too, seconds.
    pub age_s: u64,
}

/// Why something is not pinned or unpinned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PinRefusal {
    /// Names are for people, who have to type them.
    #[error("a pin's name has 1 to {MAX_PIN_NAME} printable characters")]
    Name,
    /// There is one of this name, of other paths.
    #[error("another pin has the name {0:?}: unpin it, or choose another name")]
    Taken(String),
    /// There is none of this name.
    #[error("there is no pin {0:?}")]
    Unknown(String),
    /// Too many.
    #[error("there are {MAX_PINS} pins, and no more can be had: unpin what is not needed")]
    Full,
}

/// All pins and ended runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    pins: BTreeMap<String, Root>,
    /// In the order in which they ended.
    runs: Vec<Root>,
}

impl Roots {
    /// The change that pins these, none if they are pinned so already.
    pub fn pin(&self, root: Root) -> Result<Option<RootRecord>, PinRefusal> {
        let name = &root.name;
        if name.is_empty() || name.len() > MAX_PIN_NAME || name.chars().any(char::is_control) {
            return Err(PinRefusal::Name);
        }
        match self.pins.get(name) {
            Some(known) if known.paths == root.paths => Ok(None),
            Some(_) => Err(PinRefusal::Taken(root.name)),
            None if self.pins.len() >= MAX_PINS => Err(PinRefusal::Full),
            None => Ok(Some(RootRecord::Pinned(root))),
        }
    }

    /// The change that unpins this.
    pub fn unpin(&self, name: &str) -> Result<RootRecord, PinRefusal> {
        let known = self.pins.contains_key(name);
        if known {
            Ok(RootRecord::Unpinned(name.to_owned()))
        } else {
            Err(PinRefusal::Unknown(name.to_owned()))
        }
    }

    /// The change that lets go the runs that the retention wants no more; none if it wants all. `now` is in seconds
    /// since 1970.
    pub fn release(&self, retention: Retention, now: u64) -> Option<RootRecord> {
        let mut of_branch: HashMap<&str, usize> = HashMap::new();
        let (mut runs, mut paths) = (0, 0);
        let mut released: Vec<String> = Vec::new();
        for run in self.runs.iter().rev() {
            let later = of_branch.entry(&run.branch).or_default();
            *later += 1;
            (runs, paths) = (runs + 1, paths + run.paths.len());
            let is_wanted = *later <= retention.runs || now.saturating_sub(run.since) < retention.age_s;
            // The newest stays, however large.
            let has_room = runs == 1 || (runs <= MAX_RUNS && paths <= MAX_RUN_PATHS);
            if !(is_wanted && has_room) {
                released.push(run.name.clone());
            }
        }
        released.reverse();
        (!released.is_empty()).then_some(RootRecord::Released(released))
    }

    /// Makes a change.
    pub fn apply(&mut self, record: RootRecord) {
        match record {
            RootRecord::Ended(run) => {
                // The same key again is another run of the same name.
                self.runs.retain(|earlier| earlier.name != run.name);
                self.runs.push(run);
            }
            RootRecord::Pinned(pin) => drop(self.pins.insert(pin.name.clone(), pin)),
            RootRecord::Unpinned(name) => drop(self.pins.remove(&name)),
            RootRecord::Released(names) => {
                let names: std::collections::HashSet<String> = names.into_iter().collect();
                self.runs.retain(|run| !names.contains(&run.name));
            }
        }
    }

    /// The fewest changes that make the same lists.
    pub fn condense(&self) -> Vec<RootRecord> {
        let pins = self.pins.values().cloned().map(RootRecord::Pinned);
        pins.chain(self.runs.iter().cloned().map(RootRecord::Ended)).collect()
    }

    /// Pins by name.
    pub fn pins(&self) -> impl Iterator<Item = &Root> {
        self.pins.values()
    }

    /// Runs, in the order in which they ended.
    pub fn runs(&self) -> impl Iterator<Item = &Root> {
        self.runs.iter()
    }

    /// A run that ended.
    pub fn run(&self, name: &str) -> Option<&Root> {
        self.runs.iter().find(|run| run.name == name)
    }

    /// All paths that are kept, as often as they are.
    pub fn paths(&self) -> impl Iterator<Item = &StorePath> {
        self.pins.values().chain(&self.runs).flat_map(|root| &root.paths)
    }
}

#[cfg(test)]
mod tests;
