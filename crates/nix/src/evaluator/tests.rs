//! Evaluators on real Nix, through a real proxy to a daemon of the test's own.

pub(crate) mod bench;
mod failures;
mod identity;
mod lifetime;
