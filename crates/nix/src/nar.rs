//! Nix archives: one canonical byte string for each tree.
//!
//! [`NarParser`] is the only place that knows the grammar: it is fed bytes and tells what they mean, so that
//! any source of bytes, blocking or not, can be read with it. [`read_nar`] drives it from a `Read`.

mod error;
mod parser;
mod reader;
mod writer;

pub use error::{NarError, NarReadError, NarWriteError};
pub use parser::{NarEvent, NarParser};
pub use reader::{read_nar, verify_nar};
pub use writer::NarWriter;

/// How deep directories may nest, as in Nix: a node inside this many directories is refused.
pub const MAX_DEPTH: usize = 64;
/// Bytes of the longest name of a directory entry.
pub const MAX_NAME_LEN: usize = 255;
/// Bytes of the longest target of a symbolic link.
pub const MAX_TARGET_LEN: usize = 4095;

#[cfg(test)]
mod tests;
