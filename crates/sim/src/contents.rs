//! A set of contents, small enough to be copied.
//!
//! Owns nothing but bits: worlds are small, and what is valid where is asked for all the time.

/// Contents by the number of their first node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents(u128);

impl Contents {
    /// As many contents as fit.
    pub(crate) const MOST: usize = 128;

    pub(crate) fn contains(self, content: usize) -> bool {
        self.0 & (1 << content) != 0
    }

    /// Adds a content; says whether it is new.
    pub(crate) fn insert(&mut self, content: usize) -> bool {
        let new = !self.contains(content);
        self.0 |= 1 << content;
        new
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        (0..Self::MOST).filter(move |content| self.contains(*content))
    }
}

impl FromIterator<usize> for Contents {
    fn from_iter<T: IntoIterator<Item = usize>>(contents: T) -> Self {
        let mut all = Self::default();
        for content in contents {
            all.insert(content);
        }
        all
    }
}
