//! The compiled protocol and the only home of conversions between wire and core types.
//!
//! [`v1`] is generated from proto/. [`from_wire`] parses messages into core types and refuses what is not
//! well formed; [`to_wire`] is total. Nothing here decides anything.

pub mod codec;
mod entries;
pub use entries::{MAX_ENTRIES, TooManyEntries};
pub use fleet_core::EARLIER_CAUSE;

pub mod from_wire;
pub mod to_wire;

/// Messages and services of `fleet.v1`.
pub mod v1 {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        unreachable_pub,
        clippy::pedantic,
        reason = "generated; the comments stand in proto/"
    )]
    tonic::include_proto!("fleet.v1");
}

/// The compiled description of proto/, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Largest message either side decodes, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;
