//! Names as dense numbers: each text once, found again without a walk.
//!
//! Owns the texts and an open-addressed table over them. Numbers are given in the order of first mention,
//! so they are the same on every replay; the table itself is never iterated.

use std::sync::Arc;

const VACANT: u32 = u32::MAX;

/// Texts and their numbers.
#[derive(Debug, Default)]
pub(crate) struct Names {
    texts: Vec<Arc<str>>,
    table: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    id: u32,
}

impl Names {
    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }

    pub(crate) fn text(&self, id: u32) -> &Arc<str> {
        &self.texts[id as usize]
    }

    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        let entry = self.table[self.slot(hash(text), text)];
        (entry.id != VACANT).then_some(entry.id)
    }

    /// The number of `text`, given now if it had none.
    pub(crate) fn intern(&mut self, text: &Arc<str>) -> u32 {
        // At most half full: probes stay short.
        if self.table.len() < 2 * (self.texts.len() + 1) {
            self.grow();
        }
        let hash = hash(text);
        let slot = self.slot(hash, text);
        if self.table[slot].id == VACANT {
            let id = u32::try_from(self.texts.len()).expect("the number of names is bounded below 2^32");
            self.texts.push(Arc::clone(text));
            self.table[slot] = Entry { hash, id };
        }
        self.table[slot].id
    }

    /// Where `text` stands, or the vacancy where it would.
    fn slot(&self, hash: u32, text: &str) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let entry = self.table[slot];
            if entry.id == VACANT || (entry.hash == hash && &*self.texts[entry.id as usize] == text) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let size = (self.table.len() * 2).max(64);
        let old = std::mem::replace(&mut self.table, vec![Entry { hash: 0, id: VACANT }; size]);
        let mask = size - 1;
        for entry in old.into_iter().filter(|entry| entry.id != VACANT) {
            let mut slot = entry.hash as usize & mask;
            while self.table[slot].id != VACANT {
                slot = (slot + 1) & mask;
            }
            self.table[slot] = entry;
        }
    }
}

/// Multiply and fold eight bytes at a time; fixed, so that every replay probes alike.
fn hash(text: &str) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = text.len() as u64;
    for chunk in text.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
        state ^= state >> 29;
    }
    state = state.wrapping_mul(FACTOR);
    u32::try_from(state >> 32).expect("the upper half of 64 bits")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_table_finds_nothing() {
        assert_eq!(Names::default().find("a"), None);
    }

    proptest! {
        #[test]
        fn names_keep_their_numbers(texts in prop::collection::vec("[a-c]{0,5}", 0..300)) {
            let mut names = Names::default();
            let mut model = BTreeMap::new();
            for text in &texts {
                let next = u32::try_from(model.len()).unwrap();
                let expected = *model.entry(text.clone()).or_insert(next);
                prop_assert_eq!(names.intern(&text.as_str().into()), expected);
            }
            for (text, id) in &model {
                prop_assert_eq!(names.find(text), Some(*id));
                prop_assert_eq!(&**names.text(*id), text.as_str());
            }
            prop_assert_eq!(names.find("not there"), None);
            prop_assert_eq!(names.len(), model.len());
        }
    }
}
