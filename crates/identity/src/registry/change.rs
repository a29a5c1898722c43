//! Records of a registry and their folding. What a record says is taken as it is: it was decided once.

use serde::{Deserialize, Serialize};

use super::{ClientEntry, JoinEntry, Registry, Worker};
use crate::name::Name;

/// One decision, whole: its changes belong together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegistryRecord {
    /// Seconds since 1970.
    pub at: u64,
    /// In order.
    pub changes: Vec<Change>,
}

/// The new value of one entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    /// Made or redeemed.
    Join(JoinEntry),
    /// Enrolled, enrolled again or revoked.
    Worker(Worker),
    /// Made.
    Client(ClientEntry),
    /// Shut out; its tokens go.
    ClientRevoked {
        /// Its name.
        name: Name,
        /// Seconds since 1970.
        at: u64,
    },
}

/// Entries that one record of [`Registry::condense`] holds.
const CONDENSED_CHANGES: usize = 256;

impl Registry {
    /// Folds the records of an earlier life, in order.
    pub fn restore(records: impl IntoIterator<Item = RegistryRecord>) -> Self {
        let mut registry = Self::default();
        for record in records {
            registry.apply(record);
        }
        registry
    }

    /// Folds one record.
    pub fn apply(&mut self, record: RegistryRecord) {
        self.sweep(record.at);
        for change in record.changes {
            self.change(change);
        }
    }

    /// Few records that stand for all earlier ones.
    pub fn condense(&self, now: u64) -> Vec<RegistryRecord> {
        let revoked = self.revoked_clients.iter();
        let changes: Vec<Change> = (self.workers.values().cloned().map(Change::Worker))
            .chain(revoked.map(|(name, at)| Change::ClientRevoked { name: name.clone(), at: *at }))
            .chain(self.joins.values().filter(|entry| now < entry.expires).cloned().map(Change::Join))
            .chain(self.clients.values().filter(|entry| now < entry.expires).cloned().map(Change::Client))
            .collect();
        let record = |changes: &[Change]| RegistryRecord { at: now, changes: changes.to_vec() };
        changes.chunks(CONDENSED_CHANGES).map(record).collect()
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Join(entry) => {
                self.joins.insert(entry.id, entry);
            }
            Change::Worker(worker) => {
                if worker.revoked.is_some() {
                    self.joins.retain(|_, entry| entry.name != worker.name);
                }
                self.workers.insert(worker.name.clone(), worker);
            }
            Change::Client(entry) => {
                self.clients.insert(entry.id, entry);
            }
            Change::ClientRevoked { name, at } => {
                self.clients.retain(|_, entry| entry.name != name);
                self.revoked_clients.insert(name, at);
            }
        }
    }

    /// Forgets what has expired; nothing that is refused for ever.
    pub(super) fn sweep(&mut self, now: u64) {
        self.joins.retain(|_, entry| now < entry.expires);
        self.clients.retain(|_, entry| now < entry.expires);
    }
}

/// Bytes in JSON, as text.
pub(super) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in super::super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}
