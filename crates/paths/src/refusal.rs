//! Why a path is not believed.

use fleet_nix::StorePath;
use thiserror::Error;

/// Why nothing is learnt from what was said of a path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It refers to what its builder could not have seen.
    #[error(
        "{path} refers to {reference}, which is neither among its inputs' closures nor an output beside it"
    )]
    ForeignReference {
        /// The output.
        path: StorePath,
        /// What it must not refer to.
        reference: StorePath,
    },
    /// Whether its builder could have seen a reference is not known, since nobody vouched for an input.
    #[error(
        "{path} refers to {reference}, and of its inputs {unknown} is known to nobody: if it comes from a cache, add \
         that cache's public key to cache.upstream_keys"
    )]
    UnknownInput {
        /// The output.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
        /// An input, or what one refers to.
        unknown: StorePath,
    },
    /// The path does not follow from the content address it claims.
    #[error("{0} does not follow from the content address it claims")]
    ContentAddress(StorePath),
    /// A floating output that does not say how its content names it.
    #[error("{0} is named by nothing: neither by its derivation nor by its content")]
    Unnamed(StorePath),
    /// Neither signed by an upstream key nor named by its content.
    #[error(
        "{0} is known to one machine only: no key of cache.upstream_keys signed it, and its content does not name it"
    )]
    LocalOnly(StorePath),
    /// It is known already, as something else.
    #[error("{0} is known with another content")]
    Differs(StorePath),
    /// As many paths are known as fit.
    #[error("no more than {0} store paths can be known")]
    Full(usize),
}
