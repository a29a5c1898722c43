//! The client of the Nix daemon, and the protocol's primitives.
//!
//! One [`Daemon`] is one connection and does one thing at a time: open one per build, import or export lane.
//! Whatever is cut short (an error of the protocol, a cancelled future) closes its connection, and closing a
//! connection is also how the daemon is told to stop a build. No file of the store is read here.
//!
//! [`codec`], [`framed`], [`handshake`], [`stderr`] and [`values`] serve both ends of the protocol.

mod address;
mod build;
mod build_result;
pub mod codec;
mod connection;
mod error;
mod export;
pub mod framed;
mod garbage;
pub mod handshake;
mod import;
mod log;
mod operation;
mod query;
mod roots;
mod settings;
pub mod stderr;
pub mod values;
mod verdict;
mod version;

pub use address::{AddressError, DaemonAddress};
pub use build_result::{BuildResult, BuildStatus, read_build_result};
pub use connection::Daemon;
pub use error::{DaemonError, Malformed, ReadError, RemoteError};
pub use garbage::Collected;
pub use import::CheckSignatures;
pub use log::{Activity, ActivityKind, LogEvent, Observer, ignore};
pub use operation::Operation;
pub use query::{Missing, Substitute};
pub use settings::Settings;
pub use verdict::BuildVerdict;
pub use version::{Dialect, FEATURE_NO_SET_OPTIONS, FEATURE_TYPED_REALISATIONS};
pub use version::{NEWEST, OLDEST, Protocol, Trust};

#[cfg(test)]
mod tests;
