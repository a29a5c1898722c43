//! All store paths a run has heard of, each once, and the closures they form.
//!
//! Owns names, sizes and references. A path may be referred to before it is described; a closure that
//! meets one that never was is refused, for a diff of half a closure would be a lie.

use std::sync::Arc;

use crate::strings::Strings;

/// What is known of one store path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathFact {
    /// Base name: hash, dash, name.
    pub path: String,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// Base names; the path itself may be among them.
    pub references: Vec<String>,
    /// What its derivation says of it, if that is known.
    pub identity: Option<Identity>,
}

/// What a derivation says of one of its outputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `pname`; an empty one means that the identity is unknown.
    pub pname: String,
    /// `version`; may be empty.
    pub version: String,
    /// Name of the output; `out` and the empty text both mean the main one.
    pub output: String,
}

/// Dense number of a path in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub(crate) u32);

impl PathId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A closure asked for, or met, a path of which nothing is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is known of store path {path}{}", .referrer.as_ref().map_or(String::new(), |by| format!(", which {by} refers to")))]
pub struct UnknownPath {
    /// Base name of the path.
    pub path: Arc<str>,
    /// Base name of the path that refers to it; none for the root itself.
    pub referrer: Option<Arc<str>>,
}

/// Store paths by base name.
#[derive(Clone, Debug, Default)]
pub struct PathTable {
    names: Strings,
    facts: Vec<Fact>,
    edges: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
struct Fact {
    known: bool,
    nar_size: u64,
    first_edge: usize,
    edges: usize,
    identity: Option<Box<Identity>>,
}

impl PathTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Describes a path. Of two descriptions of one path the first stays, but an identity is never lost.
    pub fn add(&mut self, fact: PathFact) -> PathId {
        let id = self.number(&fact.path);
        let identity = fact.identity.filter(|identity| !identity.pname.is_empty()).map(Box::new);
        if self.facts[id.index()].known {
            let known = &mut self.facts[id.index()];
            known.identity = known.identity.take().or(identity);
            return id;
        }
        let first_edge = self.edges.len();
        for reference in &fact.references {
            let reference = self.number(reference);
            self.edges.push(reference.0);
        }
        self.facts[id.index()] = Fact {
            known: true,
            nar_size: fact.nar_size,
            first_edge,
            edges: self.edges.len() - first_edge,
            identity,
        };
        id
    }

    /// How many paths are described or referred to.
    pub fn len(&self) -> usize {
        self.facts.len().saturating_sub(1)
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything reachable from a path, itself included.
    pub fn closure(&self, root: &str) -> Result<Closure, UnknownPath> {
        let unknown = || UnknownPath { path: Arc::from(root), referrer: None };
        let root = self.names.get(root).filter(|&id| self.fact(PathId(id)).is_some()).ok_or_else(unknown)?;
        let mut closure = Closure::empty(PathId(root), self.facts.len());
        let mut open = vec![root];
        closure.insert(root);
        while let Some(id) = open.pop() {
            let Some(fact) = self.fact(PathId(id)) else {
                continue;
            };
            closure.paths += 1;
            closure.nar_size = closure.nar_size.saturating_add(fact.nar_size);
            for &reference in self.edges_of(fact) {
                if closure.insert(reference) {
                    if self.fact(PathId(reference)).is_none() {
                        return Err(UnknownPath {
                            path: Arc::clone(self.names.text(reference)),
                            referrer: Some(Arc::clone(self.names.text(id))),
                        });
                    }
                    open.push(reference);
                }
            }
        }
        Ok(closure)
    }

    /// Base name of a path.
    pub fn name(&self, id: PathId) -> &str {
        self.names.text(id.0)
    }

    pub(crate) fn described(&self) -> impl Iterator<Item = PathId> {
        (0u32..).zip(&self.facts).filter(|(_, fact)| fact.known).map(|(id, _)| PathId(id))
    }

    pub(crate) fn slots(&self) -> usize {
        self.facts.len()
    }

    pub(crate) fn nar_size(&self, id: PathId) -> u64 {
        self.fact(id).map_or(0, |fact| fact.nar_size)
    }

    pub(crate) fn identity(&self, id: PathId) -> Option<&Identity> {
        self.fact(id).and_then(|fact| fact.identity.as_deref())
    }

    pub(crate) fn references(&self, id: PathId) -> impl Iterator<Item = PathId> {
        self.fact(id).map_or(&[][..], |fact| self.edges_of(fact)).iter().map(|&id| PathId(id))
    }

    fn edges_of(&self, fact: &Fact) -> &[u32] {
        &self.edges[fact.first_edge..fact.first_edge + fact.edges]
    }

    fn fact(&self, id: PathId) -> Option<&Fact> {
        self.facts.get(id.index()).filter(|fact| fact.known)
    }

    fn number(&mut self, name: &str) -> PathId {
        let id = self.names.intern(name);
        if self.facts.len() < self.names.len() {
            self.facts.resize_with(self.names.len(), Fact::default);
        }
        PathId(id)
    }
}

/// A set of paths of one table, closed under references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    root: PathId,
    words: Vec<u64>,
    paths: usize,
    nar_size: u64,
}

impl Closure {
    fn empty(root: PathId, slots: usize) -> Self {
        Self { root, words: vec![0; slots.div_ceil(64)], paths: 0, nar_size: 0 }
    }

    /// Where it starts.
    pub fn root(&self) -> PathId {
        self.root
    }

    /// How many paths it holds.
    pub fn paths(&self) -> usize {
        self.paths
    }

    /// Sum of their NAR sizes in bytes.
    pub fn nar_size(&self) -> u64 {
        self.nar_size
    }

    /// Whether a path is in it.
    pub fn contains(&self, id: PathId) -> bool {
        self.word(id.index() / 64) & (1 << (id.0 % 64)) != 0
    }

    /// Its paths in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = PathId> {
        (0u32..).zip(&self.words).flat_map(|(place, &word)| bits(place, word))
    }

    /// Paths that are here and not there.
    pub(crate) fn without(&self, other: &Closure) -> Vec<PathId> {
        let pairs = (0u32..).zip(&self.words);
        pairs.flat_map(|(place, &word)| bits(place, word & !other.word(place as usize))).collect()
    }

    fn insert(&mut self, id: u32) -> bool {
        let word = &mut self.words[id as usize / 64];
        let bit = 1 << (id % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn word(&self, place: usize) -> u64 {
        self.words.get(place).copied().unwrap_or(0)
    }
}

fn bits(place: u32, mut word: u64) -> impl Iterator<Item = PathId> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(PathId(place * 64 + bit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(path: &str, nar_size: u64, references: &[&str]) -> PathFact {
        PathFact {
            path: path.to_owned(),
            nar_size,
            references: references.iter().map(|&name| name.to_owned()).collect(),
            identity: None,
        }
    }

    #[test]
    fn closure_holds_what_is_reachable_and_nothing_else() {
        let mut table = PathTable::new();
        table.add(fact("root", 1, &["b", "a", "root"]));
        table.add(fact("a", 10, &["b"]));
        table.add(fact("b", 100, &[]));
        table.add(fact("other", 1000, &["a"]));
        let closure = table.closure("root").unwrap();
        let names: Vec<_> = closure.iter().map(|id| table.name(id)).collect();
        assert_eq!(names, ["root", "b", "a"]);
        assert_eq!((closure.paths(), closure.nar_size()), (3, 111));
    }

    #[test]
    fn closure_of_a_long_chain_needs_no_stack() {
        let mut table = PathTable::new();
        for link in 0..200_000u32 {
            table.add(fact(&link.to_string(), 1, &[&(link + 1).to_string()]));
        }
        table.add(fact("200000", 1, &[]));
        assert_eq!(table.closure("0").unwrap().paths(), 200_001);
    }

    #[test]
    fn undescribed_reference_is_an_error_that_names_both_ends() {
        let mut table = PathTable::new();
        table.add(fact("root", 1, &["gone"]));
        let error = table.closure("root").unwrap_err();
        assert_eq!(error.to_string(), "nothing is known of store path gone, which root refers to");
        assert_eq!(table.closure("").unwrap_err().to_string(), "nothing is known of store path ");
        assert!(table.closure("gone").is_err());
    }

    #[test]
    fn second_description_adds_an_identity_and_changes_nothing_else() {
        let mut table = PathTable::new();
        let id = table.add(fact("a", 1, &[]));
        let identity = Identity { pname: "a".into(), ..Identity::default() };
        table.add(PathFact { identity: Some(identity.clone()), ..fact("a", 2, &["b"]) });
        assert_eq!((table.nar_size(id), table.identity(id)), (1, Some(&identity)));
        assert_eq!(table.closure("a").unwrap().paths(), 1);
    }

    #[test]
    fn closure_made_before_the_table_grew_stays_usable() {
        let mut table = PathTable::new();
        table.add(fact("a", 1, &[]));
        let early = table.closure("a").unwrap();
        for path in 0..200 {
            table.add(fact(&format!("p{path}"), 1, &["a"]));
        }
        let late = table.closure("p199").unwrap();
        assert_eq!(late.without(&early).len(), 1);
        assert_eq!(early.without(&late).len(), 0);
    }
}
