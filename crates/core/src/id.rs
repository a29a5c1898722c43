//! Newtypes for everything that has an identity.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// One request of a client.
    RunId
);
number!(
    /// One worker, across all its sessions: it follows from the name in its certificate.
    WorkerId
);
number!(
    /// One connection of one worker.
    Session
);
number!(
    /// Evaluate some targets, or discover hosts, on one worker.
    EvalJobId
);
number!(
    /// A worker's right to execute a batch.
    LeaseId
);
number!(
    /// Make a toplevel valid and describe its closure.
    RealiseJobId
);
number!(
    /// Fences reports: one from an older epoch than the job's or lease's own is refused.
    Epoch
);
number!(
    /// Milliseconds on a clock that never goes back; only differences mean anything.
    Time
);

impl Time {
    /// This time and `ms` milliseconds.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; 0 if that is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }
        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }
    };
}

text!(
    /// Base name of a derivation's store path: hash, dash, name, `.drv`.
    DrvPath
);
text!(
    /// Base name of an output's store path.
    OutputPath
);
text!(
    /// A Nix system such as `x86_64-linux`.
    System
);
text!(
    /// A system feature such as `big-parallel`.
    Feature
);

/// Names a flake tree with the git facts that the flake sees: a digest of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId(pub [u8; 32]);

/// Which tree a target belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The base of an update.
    Before,
    /// Its result, or the only tree of a plain build.
    After,
}

/// What kind of configuration a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HostKind {
    /// `nixosConfigurations`
    Nixos,
    /// `darwinConfigurations`
    Darwin,
    /// `homeConfigurations`
    Home,
}

/// One named configuration of a flake. Names are data: they may hold any character.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Host {
    /// Attribute name.
    pub name: Arc<str>,
    /// Which attribute set it stands in.
    pub kind: HostKind,
}

/// Host × side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The configuration.
    pub host: Host,
    /// The tree.
    pub side: Side,
}
