//! What is kept of a table, so that it can be made again: one record for each thing that was believed.

use std::collections::BTreeSet;

use fleet_nix::{PathInfo, StorePath};
use serde::{Deserialize, Serialize};

use crate::table::Origin;

/// Something that a table learnt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// A worker built these outputs of one derivation.
    Built {
        /// Its name.
        worker: String,
        /// What they are.
        outputs: Vec<Described>,
        /// Direct inputs of the derivation.
        inputs: Vec<StorePath>,
        /// Paths that the derivation names for its outputs.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        beside: Vec<StorePath>,
    },
    /// A worker vouched for a path.
    Vouched {
        /// Its name; empty when it does not count as a holder.
        worker: String,
        /// What it is.
        path: Described,
        /// Upstream or content-addressed.
        origin: Origin,
    },
    /// A worker has these.
    Held {
        /// Its name.
        worker: String,
        /// Known paths.
        paths: Vec<StorePath>,
    },
    /// A worker has these no more.
    Lost {
        /// Its name.
        worker: String,
        /// Which.
        paths: Vec<StorePath>,
    },
    /// A worker has nothing any more.
    Gone {
        /// Its name.
        worker: String,
    },
    /// The bytes are here.
    Kept(StorePath),
    /// They are here no more.
    Forgotten(StorePath),
}

/// A path's info in its shortest form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The path.
    #[serde(rename = "p")]
    pub path: StorePath,
    /// SHA-256 of its NAR, as Nix prints it.
    #[serde(rename = "h", with = "as_text")]
    pub nar_hash: fleet_nix::NarHash,
    /// Bytes of its NAR.
    #[serde(rename = "s")]
    pub nar_size: u64,
    /// What it refers to.
    #[serde(rename = "r", default, skip_serializing_if = "BTreeSet::is_empty")]
    pub references: BTreeSet<StorePath>,
    /// Its derivation, if known.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<StorePath>,
    /// How its content names it, if it does; as Nix prints it.
    #[serde(rename = "c", default, skip_serializing_if = "String::is_empty")]
    pub content_address: String,
}

impl From<&PathInfo> for Described {
    fn from(info: &PathInfo) -> Self {
        Self {
            path: info.path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.clone(),
            deriver: info.deriver.clone(),
            content_address: info.content_address.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl From<Described> for PathInfo {
    fn from(described: Described) -> Self {
        Self {
            path: described.path,
            deriver: described.deriver,
            nar_hash: described.nar_hash,
            references: described.references,
            registration_time: 0,
            nar_size: described.nar_size,
            ultimate: false,
            signatures: Vec::new(),
            // Only what was parsed before is written.
            content_address: described.content_address.parse().ok(),
        }
    }
}

/// Values that are written as Nix prints them.
mod as_text {
    use std::borrow::Cow;
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        <Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
