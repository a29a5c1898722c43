//! What the coordinator keeps in its journal, and how: the history of the core, runs as they were asked for, the
//! events that watchers saw, derivations, who may come in, and what is known of store paths. Pure: owns no file and no state.

use bytes::Bytes;
use fleet_core::Record;
use fleet_identity::RegistryRecord;
use fleet_journal::{Entry, JournalError, Kind, Loaded};
use fleet_paths::roots::RootRecord;
use fleet_wire::v1;
use prost::Message;

const CORE: Kind = Kind(1);
const RUN: Kind = Kind(2);
const EVENT: Kind = Kind(3);
const DERIVATION: Kind = Kind(4);
const IDENTITY: Kind = Kind(5);
const PATH: Kind = Kind(6);
const ROOT: Kind = Kind(7);

/// One entry, read back.
#[derive(Debug)]
pub(crate) enum Kept {
    /// History of the core. Definitions of steps are left out: they follow from the derivations before it.
    Core(Box<Record>),
    /// A run, by its name.
    Run(String, Box<KeptRun>),
    /// An event of a run, by the run's name.
    Event(String, v1::RunEvent),
    /// A derivation that was checked.
    Derivation(v1::Derivation),
    /// A change of who may come in.
    Identity(RegistryRecord),
    /// What became known of store paths.
    Path(fleet_paths::Record),
    /// A change of what keeps store paths.
    Root(RootRecord),
}

/// A run as it was asked for.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeptRun {
    /// As the core numbers it.
    #[prost(uint64, tag = "1")]
    pub(crate) run: u64,
    /// Who asked.
    #[prost(string, tag = "2")]
    pub(crate) client: String,
    /// On the machine's clock.
    #[prost(uint64, tag = "3")]
    pub(crate) submitted_unix_ms: u64,
    /// With the manifests of its sources while it lives.
    #[prost(message, optional, tag = "4")]
    pub(crate) request: Option<v1::SubmitRequest>,
}

pub(crate) fn core(record: &Record) -> Entry {
    json(CORE, record)
}

pub(crate) fn run(name: &str, run: &KeptRun) -> Entry {
    proto(RUN, name, run)
}

pub(crate) fn event(run: &str, event: &v1::RunEvent) -> Entry {
    proto(EVENT, run, event)
}

pub(crate) fn derivation(derivation: &v1::Derivation) -> Entry {
    proto(DERIVATION, "", derivation)
}

pub(crate) fn identity(record: &RegistryRecord) -> Entry {
    json(IDENTITY, record)
}

pub(crate) fn path(record: &fleet_paths::Record) -> Entry {
    json(PATH, record)
}

pub(crate) fn root(record: &RootRecord) -> Entry {
    json(ROOT, record)
}

/// Reads an entry back.
pub(crate) fn read(loaded: Loaded) -> Result<Kept, JournalError> {
    let Loaded { seq, entry: Entry { kind, key, body } } = loaded;
    let kept = match kind {
        CORE => from_json(&body).map(Box::new).map(Kept::Core),
        RUN => from_proto(body).map(|run| Kept::Run(key, Box::new(run))),
        EVENT => from_proto(body).map(|event| Kept::Event(key, event)),
        DERIVATION => from_proto(body).map(Kept::Derivation),
        IDENTITY => from_json(&body).map(Kept::Identity),
        PATH => from_json(&body).map(Kept::Path),
        ROOT => from_json(&body).map(Kept::Root),
        Kind(other) => Err(format!("kind {other} is not known")),
    };
    kept.map_err(|why| JournalError::Unreadable { seq, why })
}

fn json<T: serde::Serialize>(kind: Kind, value: &T) -> Entry {
    // Records hold nothing but what JSON can say.
    let body = serde_json::to_vec(value).expect("records are plain data");
    Entry { kind, key: String::new(), body: body.into() }
}

fn proto<T: Message>(kind: Kind, key: &str, value: &T) -> Entry {
    Entry { kind, key: key.to_owned(), body: value.encode_to_vec().into() }
}

fn from_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn from_proto<T: Message + Default>(body: Bytes) -> Result<T, String> {
    T::decode(body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_no_coordinator_wrote_are_named_and_refused() {
        for (kind, body) in [(CORE, "{"), (CORE, "\"Nothing\""), (RUN, "\u{0}"), (Kind(999), "")] {
            let entry = Entry { kind, key: String::new(), body: body.into() };
            let error = read(Loaded { seq: 7, entry }).expect_err("refused");
            assert!(matches!(error, JournalError::Unreadable { seq: 7, .. }), "{error}");
        }
    }
}
