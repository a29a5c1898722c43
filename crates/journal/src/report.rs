//! What opening a journal found. Data only.

/// What opening and loading a journal found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries given.
    pub entries: u64,
    /// The last sequence number ever given; entries that were replaced count.
    pub last_seq: u64,
}
