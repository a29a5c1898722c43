//! Derivations: what they are, their bytes, the paths that follow from them, and what builders need of them.

mod aterm_parse;
mod aterm_print;
mod attributes;
mod definition;
mod error;
mod modulo;
mod resolve;

pub use aterm_parse::MAX_DERIVATION_LEN;
pub use attributes::{Attributes, STRUCTURED_ATTRIBUTES, split_name};
pub use definition::{
    BasicDerivation, Derivation, DerivationKind, DerivationOutput, Environment, derivation_path,
};
pub use error::{DerivationError, Fault};
pub use modulo::{ModuloHash, ModuloMemo, modulo_hashes};

#[cfg(test)]
mod tests;
