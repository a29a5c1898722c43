//! What can be wrong with a derivation.

use thiserror::Error;

use crate::addressing::AddressingError;
use crate::hash::HashError;
use crate::store_path::{OutputName, StorePath, StorePathError};

/// Why a derivation is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DerivationError {
    /// More bytes than we read.
    #[error("derivation of {0} bytes is too large")]
    TooLarge(usize),
    /// The bytes are not a derivation in Nix's one form of writing it.
    #[error("malformed derivation at byte {offset}: {fault}")]
    Malformed {
        /// Where reading stopped.
        offset: usize,
        /// What is wrong there.
        fault: Fault,
    },
    /// It uses outputs of outputs (Nix's experimental dynamic derivations).
    #[error("dynamic derivations are not supported")]
    Dynamic,
    /// A form of derivation that no Nix we know writes.
    #[error("unknown derivation format '{0}'")]
    UnknownVersion(String),
    /// The name cannot be a derivation's, or an output's path cannot be named.
    #[error("bad name in derivation")]
    Name(#[from] StorePathError),
    /// A path that does not follow from its content address.
    #[error("bad content address in derivation")]
    Address(#[from] AddressingError),
    /// No outputs.
    #[error("derivation has no outputs")]
    NoOutputs,
    /// Outputs of different kinds, or several fixed ones.
    #[error("derivation mixes outputs of different kinds")]
    MixedOutputs,
    /// The stated path of an output is not the one that follows from the derivation.
    #[error("output '{output}' is stated as {stated}, but is {computed}")]
    WrongOutputPath {
        /// The output.
        output: OutputName,
        /// The path the derivation states.
        stated: StorePath,
        /// The path that follows.
        computed: StorePath,
    },
    /// A stated path of an output that follows only once inputs are built.
    #[error("path of output '{0}' cannot be known before its inputs are built")]
    NotYetKnown(OutputName),
    /// An input derivation that the caller's lookup does not know.
    #[error("input derivation {0} is unknown")]
    UnknownInput(StorePath),
    /// An input derivation without the output that is asked of it.
    #[error("output '{output}' of input {drv} is unknown")]
    UnknownInputOutput {
        /// The input derivation.
        drv: StorePath,
        /// The output.
        output: OutputName,
    },
    /// Derivations that are inputs of each other.
    #[error("derivation {0} is an input of itself")]
    Cycle(StorePath),
    /// A resolved derivation has no input derivations.
    #[error("a basic derivation cannot have input derivations")]
    NotBasic,
    /// The `__json` attribute is not a JSON object.
    #[error("structured attributes are not a JSON object: {0}")]
    StructuredAttributes(String),
}

/// What is wrong with the bytes of a derivation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Something else should stand here.
    #[error("expected '{0}'")]
    Expected(&'static str),
    /// A string without its closing quote.
    #[error("unterminated string")]
    UnterminatedString,
    /// An escape Nix does not write, or a character it would have escaped.
    #[error("string is not escaped as Nix does it")]
    BadEscape,
    /// Bytes after the end.
    #[error("trailing bytes")]
    Trailing,
    /// Not text where text is required.
    #[error("not UTF-8")]
    NotUtf8,
    /// Sets and maps are written in order, and each member once.
    #[error("out of order, or twice")]
    OutOfOrder,
    /// An input derivation of which no output is used.
    #[error("input derivation without outputs")]
    NoInputOutputs,
    /// An input derivation whose path does not end in `.drv`.
    #[error("input is not a derivation")]
    InputIsNoDerivation,
    /// An output has a path where its kind has none, or none where its kind has one.
    #[error("path and hash of the output do not fit")]
    OutputForm,
    /// The system holds a character that Nix would not escape.
    #[error("bad system name")]
    BadSystem,
    /// A bad store path.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// A bad hash or hash algorithm.
    #[error(transparent)]
    Hash(#[from] HashError),
}
