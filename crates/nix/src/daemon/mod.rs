//! The client of the Nix daemon, and the protocol's primitives.
//!
//! One [`Daemon`] is one connection and does one thing at a time: open one per build, import or export lane.
//! Whatever is cut short (an error of the protocol, a cancelled future) closes its connection, and closing a
//! connection is also how the daemon is told to stop a build. No file of the store is read here.
//!
//! [`codec`], [`framed`], [`handshake`], [`stderr`] and [`values`] serve both ends of the protocol.

mod ansi;
pub mod codec;
mod error;
pub mod framed;
pub mod handshake;
mod log;
pub mod stderr;
pub mod values;
mod version;

pub use error::{DaemonError, Malformed, ReadError, RemoteError};
pub use log::{Activity, ActivityKind, LogEvent, Observer, ignore};
pub use version::{Dialect, FEATURE_TYPED_REALISATIONS, NEWEST, OLDEST, Protocol, Trust};
