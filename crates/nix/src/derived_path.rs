//! What a client asks a store to make valid: a path as it is, or outputs of a derivation.
//!
//! Outputs of outputs (dynamic derivations) are not known here.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::store_path::{OutputName, StoreDir, StorePath, StorePathError};

/// Why a text is not a derived path.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DerivedPathError {
    /// The path or an output's name is wrong.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// Outputs of something that is no derivation.
    #[error("'{0}' is not a derivation, it has no outputs")]
    NotADerivation(StorePath),
    /// An output of an output: a dynamic derivation.
    #[error("dynamic derivations are not supported")]
    Dynamic,
}

/// Which outputs of a derivation are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutputSet {
    /// All it has.
    All,
    /// These (at least one).
    Names(BTreeSet<OutputName>),
}

impl OutputSet {
    /// Whether `name` is among them.
    pub fn contains(&self, name: &OutputName) -> bool {
        match self {
            Self::All => true,
            Self::Names(names) => names.contains(name),
        }
    }
}

impl fmt::Display for OutputSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Names(names) = self else {
            return f.write_str("*");
        };
        for (index, name) in names.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            name.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for OutputSet {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, StorePathError> {
        match text {
            "*" => Ok(Self::All),
            names => Ok(Self::Names(names.split(',').map(str::parse).collect::<Result<_, _>>()?)),
        }
    }
}

/// A path to make valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DerivedPath {
    /// The path itself.
    Opaque(StorePath),
    /// What building a derivation yields.
    Built {
        /// The derivation.
        drv: StorePath,
        /// Its wanted outputs.
        outputs: OutputSet,
    },
}

impl DerivedPath {
    /// All outputs of `drv`.
    pub fn all_outputs(drv: StorePath) -> Self {
        Self::Built { drv, outputs: OutputSet::All }
    }

    /// The path to be made valid, or the derivation to be built for it.
    pub fn base(&self) -> &StorePath {
        match self {
            Self::Opaque(path) => path,
            Self::Built { drv, .. } => drv,
        }
    }

    /// As the daemon protocol writes it: `/nix/store/….drv!out,dev`.
    pub fn print(&self, store: &StoreDir) -> String {
        match self {
            Self::Opaque(path) => store.print(path),
            Self::Built { drv, outputs } => format!("{}!{outputs}", store.print(drv)),
        }
    }

    /// Reads what [`DerivedPath::print`] writes.
    pub fn parse(store: &StoreDir, text: &str) -> Result<Self, DerivedPathError> {
        let Some((path, outputs)) = text.split_once('!') else {
            return Ok(Self::Opaque(store.parse(text)?));
        };
        if outputs.contains('!') {
            return Err(DerivedPathError::Dynamic);
        }
        let drv = store.parse(path)?;
        if !drv.is_derivation() {
            return Err(DerivedPathError::NotADerivation(drv));
        }
        Ok(Self::Built { drv, outputs: outputs.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DRV: &str = "/nix/store/00000000000000000000000000000000-a.drv";

    fn parse(text: &str) -> Result<DerivedPath, DerivedPathError> {
        DerivedPath::parse(&StoreDir::default(), text)
    }

    #[test]
    fn every_form_reads_back() {
        let store = StoreDir::default();
        for outputs in ["*", "out", "dev,out"] {
            let path = parse(&format!("{DRV}!{outputs}")).expect("valid");
            assert_eq!(path.print(&store), format!("{DRV}!{outputs}"));
        }
        let opaque = parse(DRV).expect("valid");
        assert!(matches!(opaque, DerivedPath::Opaque(_)));
        assert_eq!(opaque.print(&store), DRV);
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(parse(&format!("{DRV}!out!out")), Err(DerivedPathError::Dynamic));
        let plain = "/nix/store/00000000000000000000000000000000-a";
        assert!(matches!(parse(&format!("{plain}!out")), Err(DerivedPathError::NotADerivation(_))));
        for bad in ["!", "!out,", "!a b", "!*,out"] {
            assert!(matches!(parse(&format!("{DRV}{bad}")), Err(DerivedPathError::Path(_))), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text: String) {
            let _ = parse(&text);
            let _ = parse(&format!("{DRV}!{text}"));
        }
    }
}
