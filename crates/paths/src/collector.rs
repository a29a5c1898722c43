//! Decides what is removed from the object store. Two phases: what nothing needs is condemned, and goes when it is
//! still unneeded after the grace. Whatever is used meanwhile stands as if it had never been condemned. Owns who is
//! condemned since when, and what was used lately. Removes nothing itself: whoever does so lets nobody use anything
//! from when it takes a batch until that is gone.
//!
//! Of two paths the one that refers to the other goes first, so that what is left has all its references at any time.
//! The use of a condemned path ends the pass over paths: what it refers to is needed again, and has to be looked for.

mod mark;
mod recent;

use std::collections::{HashMap, HashSet};

use fleet_nix::StorePath;
use serde::{Deserialize, Serialize};

use recent::{MAX_RECENT, Recent};

/// Condemned chunks at a time; further ones are condemned when these are gone.
const MAX_CONDEMNED: usize = 1 << 22;

/// A chunk by the first bytes of its name. Two of one key stay as long as either is needed.
pub type ChunkKey = u64;

/// A path whose bytes are here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPath {
    /// The path.
    pub path: StorePath,
    /// All it refers to.
    pub references: Vec<StorePath>,
}

/// What is to become of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is needed, or was used lately.
    Stays,
    /// Nothing needs it; its grace is not over.
    Condemned,
    /// It may go, if [`Collector::may_go`] still says so when nobody can use it.
    Goes,
}

/// What is known of a chunk that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// A path that is needed consists of it, or the source of a run.
    pub needed: bool,
    /// A path that is still here consists of it.
    pub referred: bool,
    /// It was written within the time that an upload may take.
    pub young: bool,
}

/// Who is condemned, and for how many seconds already: what is kept for the next start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condemned {
    /// Paths.
    pub paths: Vec<(StorePath, u64)>,
    /// Chunks.
    pub chunks: Vec<(ChunkKey, u64)>,
}

/// One pass over everything.
#[derive(Clone, Debug, Default)]
struct Pass {
    /// To be removed, the last first.
    going: Vec<StorePath>,
    /// A condemned path was used.
    disturbed: bool,
}

/// The decisions. Times are seconds on one clock that never goes back.
#[derive(Clone, Debug)]
pub struct Collector {
    in_flight_s: i64,
    /// Nothing goes before: what was used before the start is not known.
    settled_at: i64,
    paths: HashMap<StorePath, i64>,
    chunks: HashMap<ChunkKey, i64>,
    recent_paths: Recent<StorePath>,
    recent_chunks: Recent<ChunkKey>,
    /// Chunks of registrations under way, and of how many.
    held: HashMap<ChunkKey, u32>,
    pass: Option<Pass>,
}

impl Collector {
    /// Goes on from what was condemned at the end of the last pass. What was used within `in_flight_s` stays, whatever
    /// the grace of a pass: somebody counts on it.
    pub fn new(in_flight_s: u32, now: i64, condemned: Condemned) -> Self {
        let since = |age: u64| now.saturating_sub_unsigned(age);
        Self {
            in_flight_s: i64::from(in_flight_s),
            settled_at: now + i64::from(in_flight_s),
            paths: condemned.paths.into_iter().map(|(path, age)| (path, since(age))).collect(),
            chunks: condemned.chunks.into_iter().map(|(key, age)| (key, since(age))).collect(),
            recent_paths: Recent::new(now, MAX_RECENT),
            recent_chunks: Recent::new(now, MAX_RECENT),
            held: HashMap::new(),
            pass: None,
        }
    }

    /// Somebody counts on these paths: was told that they are here, or brought them.
    pub fn use_paths<'a>(&mut self, now: i64, paths: impl IntoIterator<Item = &'a StorePath>) {
        self.turn(now);
        for path in paths {
            self.recent_paths.add(path.clone());
            if self.paths.remove(path).is_some()
                && let Some(pass) = &mut self.pass
            {
                pass.disturbed = true;
            }
        }
    }

    /// Somebody counts on these chunks: was told that they are here, or brought them.
    pub fn use_chunks(&mut self, now: i64, keys: impl IntoIterator<Item = ChunkKey>) {
        self.turn(now);
        for key in keys {
            self.recent_chunks.add(key);
            self.chunks.remove(&key);
        }
    }

    /// These chunks stay until they are let go, however long that takes.
    pub fn hold(&mut self, keys: &[ChunkKey]) {
        for key in keys {
            *self.held.entry(*key).or_default() += 1;
            self.chunks.remove(key);
        }
    }

    /// Ends one hold of these, which counts as a use.
    pub fn let_go(&mut self, now: i64, keys: &[ChunkKey]) {
        for key in keys {
            if let Some(holds) = self.held.get_mut(key) {
                *holds -= 1;
                if *holds == 0 {
                    self.held.remove(key);
                }
            }
        }
        self.use_chunks(now, keys.iter().copied());
    }

    /// Begins a pass: condemns the paths of `kept` that neither `roots` nor what was used lately leads to, and answers
    /// those that are needed.
    pub fn begin<'a, 'r>(
        &mut self,
        now: i64,
        grace_s: u64,
        kept: &'a [KeptPath],
        roots: impl IntoIterator<Item = &'r StorePath>,
    ) -> HashSet<&'a StorePath> {
        self.pass = None;
        self.turn(now);
        if self.recent_paths.overflowed() {
            self.pass = Some(Pass::default());
            return kept.iter().map(|kept| &kept.path).collect();
        }
        let graph = mark::Graph::new(kept);
        let mut from = graph.places(roots.into_iter());
        from.extend(graph.places(self.recent_paths.iter()));
        let needed = graph.closure(from);
        let unneeded: HashSet<&StorePath> =
            kept.iter().map(|kept| &kept.path).filter(|path| !needed.contains(path)).collect();
        self.paths.retain(|path, _| unneeded.contains(path));
        for path in &unneeded {
            if !self.paths.contains_key(*path) {
                self.paths.insert((*path).clone(), now);
            }
        }
        let is_over = |since: i64| now.saturating_sub(since) >= i64::try_from(grace_s).unwrap_or(i64::MAX);
        let due = |path: &StorePath| self.paths.get(path).is_some_and(|since| is_over(*since));
        let going = if now >= self.settled_at { graph.going(&unneeded, due) } else { Vec::new() };
        self.pass = Some(Pass { going, disturbed: false });
        needed
    }

    /// At most so many paths to be removed now, in this order; none when the pass has to begin again. The caller lets
    /// nobody use a path until these are gone.
    pub fn take_going(&mut self, limit: usize) -> Option<Vec<StorePath>> {
        let pass = self.pass.as_mut().filter(|pass| !pass.disturbed)?;
        let first = pass.going.len() - limit.min(pass.going.len());
        let mut taken = pass.going.split_off(first);
        taken.reverse();
        for path in &taken {
            self.paths.remove(path);
        }
        Some(taken)
    }

    /// What is to become of a chunk that was found in this pass.
    pub fn judge(&mut self, now: i64, grace_s: u64, key: ChunkKey, found: Found) -> Verdict {
        let is_used = found.young || self.held.contains_key(&key) || self.recent_chunks.has(&key);
        if found.needed || is_used {
            self.chunks.remove(&key);
            return Verdict::Stays;
        }
        if self.chunks.len() >= MAX_CONDEMNED && !self.chunks.contains_key(&key) {
            return Verdict::Stays;
        }
        let since = *self.chunks.entry(key).or_insert(now);
        let is_over = now.saturating_sub(since) >= i64::try_from(grace_s).unwrap_or(i64::MAX);
        if is_over && !found.referred && now >= self.settled_at { Verdict::Goes } else { Verdict::Condemned }
    }

    /// Whether a chunk that was to go may do so: nobody used it since. The caller lets nobody use it until it is gone.
    pub fn may_go(&mut self, key: ChunkKey) -> bool {
        !self.held.contains_key(&key) && !self.recent_chunks.has(&key) && self.chunks.remove(&key).is_some()
    }

    /// Ends the pass.
    pub fn end(&mut self) {
        self.pass = None;
    }

    /// Paths and chunks that are condemned.
    pub fn counts(&self) -> (usize, usize) {
        (self.paths.len(), self.chunks.len())
    }

    /// For the next start.
    pub fn condemned(&self, now: i64) -> Condemned {
        let age = |since: i64| u64::try_from(now.saturating_sub(since)).unwrap_or(0);
        Condemned {
            paths: self.paths.iter().map(|(path, since)| (path.clone(), age(*since))).collect(),
            chunks: self.chunks.iter().map(|(key, since)| (*key, age(*since))).collect(),
        }
    }

    /// A pass forgets nothing that was used since it began.
    fn turn(&mut self, now: i64) {
        if self.pass.is_none() {
            self.recent_paths.turn(now, self.in_flight_s);
            self.recent_chunks.turn(now, self.in_flight_s);
        }
    }
}

#[cfg(test)]
mod tests;
