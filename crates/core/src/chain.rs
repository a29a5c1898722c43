//! Many short lists in one arena: who depends on a step, who wants it.
//!
//! Owns the cells; a list's owner keeps its [`Head`]. Must not allocate per list: there are millions.

/// Where a list begins. A copy of it goes stale when the list changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head(u32);

impl Head {
    pub(crate) const EMPTY: Self = Self(u32::MAX);
}

/// The cells of all lists.
#[derive(Debug)]
pub(crate) struct Chains<T> {
    cells: Vec<Cell<T>>,
    free: Head,
}

#[derive(Debug)]
struct Cell<T> {
    value: T,
    next: Head,
}

impl<T: Copy + PartialEq> Chains<T> {
    pub(crate) fn new() -> Self {
        Self { cells: Vec::new(), free: Head::EMPTY }
    }

    /// Puts `value` in front.
    ///
    /// # Panics
    /// With more than 2³² − 2 cells; bounds on steps and edges are far below.
    pub(crate) fn push(&mut self, head: &mut Head, value: T) {
        let next = *head;
        if self.free == Head::EMPTY {
            let index = u32::try_from(self.cells.len()).expect("edges are bounded below 2^32");
            self.cells.push(Cell { value, next });
            *head = Head(index);
        } else {
            *head = self.free;
            let cell = &mut self.cells[self.free.0 as usize];
            self.free = cell.next;
            *cell = Cell { value, next };
        }
    }

    /// First value of the list at `head`, and the rest.
    pub(crate) fn split(&self, head: Head) -> Option<(T, Head)> {
        let cell = self.cells.get(head.0 as usize)?;
        Some((cell.value, cell.next))
    }

    pub(crate) fn iter(&self, head: Head) -> impl Iterator<Item = T> + '_ {
        let mut cursor = head;
        std::iter::from_fn(move || {
            let (value, rest) = self.split(cursor)?;
            cursor = rest;
            Some(value)
        })
    }

    /// Takes out the first cell that holds `value`.
    pub(crate) fn remove(&mut self, head: &mut Head, value: T) -> bool {
        let mut before = Head::EMPTY;
        let mut cursor = *head;
        while let Some((found, rest)) = self.split(cursor) {
            if found == value {
                if before == Head::EMPTY {
                    *head = rest;
                } else {
                    self.cells[before.0 as usize].next = rest;
                }
                self.recycle(cursor);
                return true;
            }
            before = cursor;
            cursor = rest;
        }
        false
    }

    /// Empties the list and returns what it held, oldest first.
    pub(crate) fn take(&mut self, head: &mut Head) -> Vec<T> {
        let mut values = Vec::new();
        let mut cursor = std::mem::replace(head, Head::EMPTY);
        while let Some((value, rest)) = self.split(cursor) {
            values.push(value);
            self.recycle(cursor);
            cursor = rest;
        }
        values.reverse();
        values
    }

    fn recycle(&mut self, cell: Head) {
        self.cells[cell.0 as usize].next = self.free;
        self.free = cell;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_behave_like_vectors(orders in prop::collection::vec((0..4usize, 0..3u8, 0..6u16), 0..200)) {
            let mut chains = Chains::new();
            let mut heads = [Head::EMPTY; 4];
            let mut models: [Vec<u16>; 4] = Default::default();
            for (list, order, value) in orders {
                let (head, model) = (&mut heads[list], &mut models[list]);
                match order {
                    0 => {
                        chains.push(head, value);
                        model.push(value);
                    }
                    1 => {
                        let at = model.iter().rposition(|held| *held == value);
                        prop_assert_eq!(chains.remove(head, value), at.is_some());
                        at.map(|at| model.remove(at));
                    }
                    _ => prop_assert_eq!(chains.take(head), std::mem::take(model)),
                }
                for (head, model) in heads.iter().zip(&models) {
                    prop_assert!(chains.iter(*head).eq(model.iter().rev().copied()));
                }
            }
            prop_assert!(chains.cells.len() <= 200);
        }
    }
}
