//! Each text once: dense numbers for store path names and their parts.
//!
//! Owns the texts of a table. Looked up and indexed, never iterated in hash order.

#[expect(clippy::disallowed_types, reason = "looked up only; order comes from the dense numbers")]
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

/// The empty text; every [`Strings`] begins with it.
pub(crate) const EMPTY: u32 = 0;

#[expect(clippy::disallowed_types, reason = "looked up only; order comes from the dense numbers")]
type Numbers = HashMap<Arc<str>, u32, BuildHasherDefault<DefaultHasher>>;

#[derive(Clone, Debug)]
pub(crate) struct Strings {
    texts: Vec<Arc<str>>,
    numbers: Numbers,
}

impl Strings {
    pub(crate) fn intern(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        let number = u32::try_from(self.texts.len()).expect("memory ends long before 2^32 texts");
        let text: Arc<str> = Arc::from(text);
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    pub(crate) fn get(&self, text: &str) -> Option<u32> {
        self.numbers.get(text).copied()
    }

    pub(crate) fn text(&self, number: u32) -> &Arc<str> {
        &self.texts[number as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.texts.len()
    }
}

impl Default for Strings {
    fn default() -> Self {
        let mut strings = Self { texts: Vec::new(), numbers: Numbers::default() };
        let empty = strings.intern("");
        debug_assert_eq!(empty, EMPTY);
        strings
    }
}
