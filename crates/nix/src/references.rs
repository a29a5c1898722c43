//! Which store paths a stream of bytes refers to, by Nix's rule: whoever holds a path's hash part refers to it. Also
//! the hash of an archive that holds its own hash part. Pure; takes the bytes in any pieces and keeps few of them.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::base32;
use crate::hash::{Hash, HashAlgorithm, Hasher};
use crate::store_path::{HASH_PART_LEN, StorePath};

/// Bytes that may belong to a hash part which ends in the next piece.
const TAIL_LEN: usize = HASH_PART_LEN - 1;
/// Times that an object may hold its own hash part: their places are kept until all bytes were seen.
const MAX_PLACES: usize = 1 << 20;

type HashPart = [u8; HASH_PART_LEN];

/// Finds which of some paths occur in a stream.
#[derive(Clone, Debug)]
pub struct ReferenceScanner {
    /// Sorted by hash part; true once it was found.
    candidates: Vec<(HashPart, StorePath, bool)>,
    prefixes: Prefixes,
    tail: Vec<u8>,
}

impl ReferenceScanner {
    /// Nothing seen yet.
    pub fn new(candidates: impl IntoIterator<Item = StorePath>) -> Self {
        let part = |path: StorePath| (part_of(&path), path, false);
        let mut candidates: Vec<_> = candidates.into_iter().map(part).collect();
        candidates.sort_unstable();
        candidates.dedup();
        let mut prefixes = Prefixes::default();
        for (part, ..) in &candidates {
            prefixes.insert(part);
        }
        Self { candidates, prefixes, tail: Vec::with_capacity(2 * TAIL_LEN) }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (candidates, prefixes) = (&mut self.candidates, &self.prefixes);
        let mut seen = |part: &HashPart| {
            if prefixes.may_have(part) {
                let first = candidates.partition_point(|(known, ..)| known < part);
                let equal = candidates[first..].iter_mut().take_while(|(known, ..)| known == part);
                for (.., found) in equal {
                    *found = true;
                }
            }
        };
        self.tail.extend_from_slice(&bytes[..bytes.len().min(TAIL_LEN)]);
        each_hash_part(&self.tail, &mut seen);
        each_hash_part(bytes, &mut seen);
        keep_tail(&mut self.tail, bytes);
    }

    /// Those that occurred.
    pub fn finish(self) -> BTreeSet<StorePath> {
        self.candidates.into_iter().filter_map(|(_, path, found)| found.then_some(path)).collect()
    }
}

/// An object holds its own hash part more often than is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it holds its own hash part more than {MAX_PLACES} times")]
pub struct TooManyPlaces;

/// Hashes an object as if its own hash part were zeros, and then the places where it stood: what names an object
/// that refers to itself by its contents.
#[derive(Clone, Debug)]
pub struct ModuloHasher {
    hasher: Hasher,
    own: HashPart,
    places: Vec<u64>,
    /// Seen, and not hashed yet.
    pending: Vec<u8>,
    /// Bytes that were hashed.
    hashed: u64,
}

impl ModuloHasher {
    /// Nothing seen yet.
    pub fn new(algorithm: HashAlgorithm, own: &StorePath) -> Self {
        Self {
            hasher: Hasher::new(algorithm),
            own: part_of(own),
            places: Vec::new(),
            pending: Vec::new(),
            hashed: 0,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), TooManyPlaces> {
        self.pending.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(offset) = find(&self.pending[at..], &self.own) {
            if self.places.len() == MAX_PLACES {
                return Err(TooManyPlaces);
            }
            let place = at + offset;
            self.places.push(self.hashed + place as u64);
            self.pending[place..place + HASH_PART_LEN].fill(0);
            at = place + HASH_PART_LEN;
        }
        let settled = self.pending.len().saturating_sub(TAIL_LEN);
        self.hasher.update(&self.pending[..settled]);
        self.pending.drain(..settled);
        self.hashed += settled as u64;
        Ok(())
    }

    /// The hash of all that was seen.
    pub fn finish(mut self) -> Hash {
        self.hasher.update(&self.pending);
        for place in &self.places {
            self.hasher.update(format!("|{place}").as_bytes());
        }
        self.hasher.finish()
    }
}

/// Tells of every place in `bytes` where a hash part could stand. What cannot be one is jumped over from its end.
fn each_hash_part(bytes: &[u8], seen: &mut impl FnMut(&HashPart)) {
    let mut rest = bytes;
    while let Some(window) = rest.first_chunk::<HASH_PART_LEN>() {
        let other = window.iter().rposition(|byte| !base32::is_character(*byte));
        if other.is_none() {
            seen(window);
        }
        let skip = other.map_or(1, |other| other + 1);
        rest = &rest[skip..];
    }
}

/// The last bytes of all that was seen, where `tail` ends with the beginning of `bytes`.
fn keep_tail(tail: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() >= TAIL_LEN {
        tail.clear();
        tail.extend_from_slice(&bytes[bytes.len() - TAIL_LEN..]);
    } else {
        tail.drain(..tail.len().saturating_sub(TAIL_LEN));
    }
}

fn find(bytes: &[u8], part: &HashPart) -> Option<usize> {
    let mut from = 0;
    loop {
        let offset = bytes.get(from..)?.iter().position(|byte| *byte == part[0])?;
        let here = bytes.get(from + offset..from + offset + HASH_PART_LEN)?;
        if here == part {
            return Some(from + offset);
        }
        from += offset + 1;
    }
}

fn part_of(path: &StorePath) -> HashPart {
    path.hash_part().as_bytes().try_into().expect("a hash part has 32 characters")
}

/// Which first three characters some hash parts have: tells most texts from hash parts without a search.
#[derive(Clone, Debug)]
struct Prefixes(Box<[u64; 512]>);

impl Default for Prefixes {
    fn default() -> Self {
        Self(Box::new([0; 512]))
    }
}

impl Prefixes {
    fn insert(&mut self, part: &HashPart) {
        let (word, bit) = Self::place(part);
        self.0[word] |= bit;
    }

    fn may_have(&self, part: &HashPart) -> bool {
        let (word, bit) = Self::place(part);
        self.0[word] & bit != 0
    }

    /// The low five bits of a character tell most of the alphabet apart.
    fn place(part: &HashPart) -> (usize, u64) {
        let low = |at: usize| usize::from(part[at] & 31);
        let index = low(0) << 10 | low(1) << 5 | low(2);
        (index / 64, 1 << (index % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::NarHash;
    use proptest::prelude::*;

    fn path(part: &str) -> StorePath {
        format!("{part}-x").parse().expect("a store path")
    }

    fn scan(candidates: &[StorePath], pieces: &[&[u8]]) -> BTreeSet<StorePath> {
        let mut scanner = ReferenceScanner::new(candidates.iter().cloned());
        for piece in pieces {
            scanner.update(piece);
        }
        scanner.finish()
    }

    const ONE: &str = "0123456789abcdfghijklmnpqrsvwxyz";
    const TWO: &str = "123456789abcdfghijklmnpqrsvwxyz0";

    #[test]
    fn a_hash_part_is_found_wherever_it_stands_and_is_not_told_by_a_part_of_it() {
        let candidates = [path(ONE), path(TWO)];
        let both: BTreeSet<StorePath> = candidates.iter().cloned().collect();
        assert_eq!(scan(&candidates, &[ONE.as_bytes()]), BTreeSet::from([path(ONE)]));
        // They overlap but for one character.
        assert_eq!(scan(&candidates, &[format!("{ONE}0").as_bytes()]), both);
        for text in
            ["", &ONE[1..], &ONE[..31], &ONE.to_uppercase(), &format!("{}-{}", &ONE[..16], &ONE[16..])]
        {
            assert!(scan(&candidates, &[text.as_bytes()]).is_empty(), "{text}");
        }
    }

    #[test]
    fn borders_of_pieces_hide_nothing() {
        let text = format!("/nix/store/{ONE}-x\n\u{0}{TWO}");
        let candidates = [path(ONE), path(TWO)];
        for size in 1..text.len() {
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(scan(&candidates, &pieces).len(), 2, "{size}");
        }
        assert_eq!(scan(&candidates, &[&[], text.as_bytes(), &[]]).len(), 2);
    }

    #[test]
    fn paths_of_one_hash_part_are_told_together() {
        let other: StorePath = format!("{ONE}-y").parse().expect("a store path");
        assert_eq!(scan(&[path(ONE), other], &[ONE.as_bytes()]).len(), 2);
    }

    #[test]
    fn an_archive_modulo_itself_has_the_hash_that_nix_gives_it() {
        // What Nix does, in one piece: zeros for the hash part, then a bar and the offset for each.
        let bytes = format!("a{ONE}{ONE}b{}", &ONE[..31]);
        let zeros = "\0".repeat(32);
        let expected = NarHash::of(format!("a{zeros}{zeros}b{}|1|33", &ONE[..31]).as_bytes()).to_hash();
        for size in 1..=bytes.len() {
            let mut hasher = ModuloHasher::new(HashAlgorithm::Sha256, &path(ONE));
            for piece in bytes.as_bytes().chunks(size) {
                hasher.update(piece).expect("few places");
            }
            assert_eq!(hasher.finish(), expected, "{size}");
        }
    }

    #[test]
    fn places_are_counted_and_bounded() {
        let mut hasher = ModuloHasher::new(HashAlgorithm::Sha256, &path(ONE));
        let many = ONE.repeat(1 << 10);
        for _ in 0..MAX_PLACES >> 10 {
            hasher.update(many.as_bytes()).expect("as many as may be");
        }
        assert_eq!(hasher.update(ONE.as_bytes()), Err(TooManyPlaces));
    }

    /// Hash parts of few different characters, so that they overlap.
    fn part() -> impl Strategy<Value = String> {
        prop_oneof!["[01]{32}", "[0-9a-df-np-sv-z]{32}"]
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let text = prop_oneof!["[01]{0,80}".prop_map(String::into_bytes), any::<Vec<u8>>()];
        prop::collection::vec(text, 0..12)
    }

    proptest! {
        #[test]
        fn the_scanner_finds_what_a_search_finds(
            parts in prop::collection::vec(part(), 1..6),
            pieces in pieces(),
            planted in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4),
            sizes in prop::collection::vec(1..70usize, 1..10),
        ) {
            let mut bytes = pieces.concat();
            for (which, at) in planted {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, parts[which.index(parts.len())].bytes());
            }
            let candidates: Vec<StorePath> = parts.iter().map(|part| path(part)).collect();
            let occurs = |path: &&StorePath| {
                bytes.windows(HASH_PART_LEN).any(|window| window == path.hash_part().as_bytes())
            };
            let expected: BTreeSet<StorePath> = candidates.iter().filter(occurs).cloned().collect();
            let mut scanner = ReferenceScanner::new(candidates.iter().cloned());
            let mut rest = bytes.as_slice();
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*size));
                scanner.update(piece);
                rest = after;
            }
            prop_assert_eq!(scanner.finish(), expected);
        }
    }
}
