//! A store socket for evaluators: forwards what is harmless, sees every derivation.
//!
//! The server half of the daemon protocol in front of a real daemon. An evaluator can read, add
//! content-addressed paths, and instantiate; it cannot change settings, collect garbage, import what only a
//! signature vouches for, or build. What evaluation itself needs built is answered by [`BuildImports`]. What
//! evaluators wrote stays rooted until the proxy is dropped. The store's files are not read here.

mod addition;
mod client;
mod config;
mod error;
mod imports;
mod operation;
mod roots;
mod seen;
mod server;
mod session;
mod shape;
mod upstream;

pub use config::{ImportPolicy, ProxyConfig};
pub use error::ProxyError;
pub use imports::{BuildImports, ImportError, LocalImports};
pub use seen::SeenDerivation;
pub use server::StoreProxy;

#[cfg(test)]
mod tests;
