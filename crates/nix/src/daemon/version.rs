//! Which dialect two ends agreed on.

use std::collections::BTreeSet;
use std::fmt;

/// The newest protocol number. Newer behaviour comes as features, never as a higher number.
pub const NEWEST: Protocol = Protocol { major: 1, minor: 38 };
/// The oldest understood, of Nix 2.18.
pub const OLDEST: Protocol = Protocol { major: 1, minor: 35 };

/// Built outputs are typed values instead of JSON documents.
pub const FEATURE_TYPED_REALISATIONS: &str = "realisation-with-path-not-hash";
/// `SetOptions` is not wanted.
pub const FEATURE_NO_SET_OPTIONS: &str = "disable-set-options";

/// A number of the worker protocol, as `1.35`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol {
    /// Always 1 so far.
    pub major: u8,
    /// Grows.
    pub minor: u8,
}

impl Protocol {
    /// From the word of a greeting; the upper bytes carry nothing.
    pub const fn from_word(word: u64) -> Self {
        let [minor, major, ..] = word.to_le_bytes();
        Self { major, minor }
    }

    /// As a greeting carries it.
    pub fn word(self) -> u64 {
        u64::from(self.major) << 8 | u64::from(self.minor)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What both ends can: the lower number, the features of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The lower of the two.
    pub protocol: Protocol,
    /// Empty below 1.38.
    pub features: BTreeSet<String>,
}

impl Dialect {
    /// A dialect without features.
    pub fn plain(protocol: Protocol) -> Self {
        Self { protocol, features: BTreeSet::new() }
    }

    /// Whether both ends have it.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    /// Whether build results carry CPU times.
    pub fn has_cpu_times(&self) -> bool {
        self.protocol >= Protocol { major: 1, minor: 37 }
    }
}

/// Whether the daemon lets us do what only trusted users may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Trusted,
    /// It does not.
    NotTrusted,
    /// It cannot tell, as when it forwards to another store.
    Unknown,
}

impl Trust {
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        match word {
            0 => Some(Self::Unknown),
            1 => Some(Self::Trusted),
            2 => Some(Self::NotTrusted),
            _ => None,
        }
    }

    pub(crate) fn word(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Trusted => 1,
            Self::NotTrusted => 2,
        }
    }
}
