//! What a derivation is: its parts, its kind, the store path of its bytes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attributes, DerivationError};
use crate::addressing::text_path;
use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::hash::{HashAlgorithm, NarHash};
use crate::store_path::{DERIVATION_SUFFIX, OutputName, StoreDir, StorePath, StorePathError};

/// Bytes and names as Nix has them: strings of a derivation need not be UTF-8.
pub type Environment = BTreeMap<Vec<u8>, Vec<u8>>;

/// A build: what to run, on what, and what comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derivation {
    /// The name, without `.drv`.
    pub name: String,
    /// What comes out.
    pub outputs: BTreeMap<OutputName, DerivationOutput>,
    /// Outputs of other derivations that go in.
    pub input_drvs: BTreeMap<StorePath, BTreeSet<OutputName>>,
    /// Store paths that go in as they are.
    pub input_srcs: BTreeSet<StorePath>,
    /// The platform: `x86_64-linux`, `builtin`.
    pub system: String,
    /// The program.
    pub builder: Vec<u8>,
    /// Its arguments.
    pub args: Vec<Vec<u8>>,
    /// Its environment; structured attributes are JSON under `__json`.
    pub env: Environment,
}

/// A derivation with every input as a store path: all a daemon needs to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicDerivation {
    /// The name, without `.drv`.
    pub name: String,
    /// What comes out.
    pub outputs: BTreeMap<OutputName, DerivationOutput>,
    /// Store paths that go in.
    pub input_srcs: BTreeSet<StorePath>,
    /// The platform.
    pub system: String,
    /// The program.
    pub builder: Vec<u8>,
    /// Its arguments.
    pub args: Vec<Vec<u8>>,
    /// Its environment.
    pub env: Environment,
}

/// How an output's path is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DerivationOutput {
    /// It follows from the derivation.
    InputAddressed(StorePath),
    /// It follows from a hash that is known before the build.
    Fixed {
        /// The hash.
        ca: ContentAddress,
        /// The path that follows.
        path: StorePath,
    },
    /// It follows from what the build makes.
    Floating {
        /// What is hashed.
        method: ContentAddressMethod,
        /// How.
        algo: HashAlgorithm,
    },
    /// It follows from the derivation once its floating inputs are built.
    Deferred,
    /// As `Floating`, and never kept for another build.
    Impure {
        /// What is hashed.
        method: ContentAddressMethod,
        /// How.
        algo: HashAlgorithm,
    },
}

impl DerivationOutput {
    /// The path, where it is known before the build.
    pub fn path(&self) -> Option<&StorePath> {
        match self {
            Self::InputAddressed(path) | Self::Fixed { path, .. } => Some(path),
            Self::Floating { .. } | Self::Deferred | Self::Impure { .. } => None,
        }
    }

    fn kind(&self) -> DerivationKind {
        match self {
            Self::InputAddressed(_) => DerivationKind::InputAddressed,
            Self::Fixed { .. } => DerivationKind::Fixed,
            Self::Floating { .. } => DerivationKind::Floating,
            Self::Deferred => DerivationKind::Deferred,
            Self::Impure { .. } => DerivationKind::Impure,
        }
    }
}

/// What all outputs of a derivation have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DerivationKind {
    /// Paths follow from the derivation.
    InputAddressed,
    /// One output, of a known hash.
    Fixed,
    /// Paths follow from what the build makes.
    Floating,
    /// Paths follow from the derivation once its floating inputs are built.
    Deferred,
    /// As `Floating`, never kept.
    Impure,
}

impl DerivationKind {
    /// The common kind of `outputs`.
    pub(super) fn of(outputs: &BTreeMap<OutputName, DerivationOutput>) -> Result<Self, DerivationError> {
        let kind = outputs.values().next().ok_or(DerivationError::NoOutputs)?.kind();
        let algorithm = |output: &DerivationOutput| match output {
            DerivationOutput::Floating { algo, .. } => Some(*algo),
            _ => None,
        };
        let mut algorithms = outputs.values().map(algorithm);
        let first = algorithms.next();
        let is_mixed = outputs.values().any(|output| output.kind() != kind)
            || algorithms.any(|other| Some(other) != first);
        let is_bad_fixed =
            kind == Self::Fixed && (outputs.len() > 1 || outputs.keys().any(|name| name.as_str() != "out"));
        if is_mixed || is_bad_fixed {
            return Err(DerivationError::MixedOutputs);
        }
        Ok(kind)
    }
}

impl Derivation {
    /// What its outputs have in common.
    pub fn kind(&self) -> Result<DerivationKind, DerivationError> {
        DerivationKind::of(&self.outputs)
    }

    /// The path of an output, where it is known before the build.
    pub fn output_path(&self, name: &OutputName) -> Option<&StorePath> {
        self.outputs.get(name)?.path()
    }

    /// What the derivation's file refers to: its input derivations and its input paths.
    pub fn references(&self) -> BTreeSet<StorePath> {
        self.input_srcs.iter().chain(self.input_drvs.keys()).cloned().collect()
    }

    /// The store path of this derivation's file, from its bytes and references.
    pub fn path(&self, store: &StoreDir) -> Result<StorePath, StorePathError> {
        derivation_path(store, &self.name, &self.to_aterm(store), &self.references())
    }

    /// What its attributes say about building it.
    pub fn attributes(&self) -> Result<Attributes<'_>, DerivationError> {
        Attributes::new(&self.name, &self.env)
    }
}

impl BasicDerivation {
    /// What its outputs have in common.
    pub fn kind(&self) -> Result<DerivationKind, DerivationError> {
        DerivationKind::of(&self.outputs)
    }

    /// The path of an output, where it is known before the build.
    pub fn output_path(&self, name: &OutputName) -> Option<&StorePath> {
        self.outputs.get(name)?.path()
    }

    /// What its attributes say about building it.
    pub fn attributes(&self) -> Result<Attributes<'_>, DerivationError> {
        Attributes::new(&self.name, &self.env)
    }

    /// As a derivation that has no input derivations.
    pub fn into_derivation(self) -> Derivation {
        Derivation {
            name: self.name,
            outputs: self.outputs,
            input_drvs: BTreeMap::new(),
            input_srcs: self.input_srcs,
            system: self.system,
            builder: self.builder,
            args: self.args,
            env: self.env,
        }
    }
}

/// The store path of a derivation's file with these bytes and references. `name` is without `.drv`.
pub fn derivation_path(
    store: &StoreDir,
    name: &str,
    aterm: &[u8],
    references: &BTreeSet<StorePath>,
) -> Result<StorePath, StorePathError> {
    text_path(store, &format!("{name}{DERIVATION_SUFFIX}"), NarHash::of(aterm).0, references)
}
