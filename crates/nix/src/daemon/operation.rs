//! The numbers of the operations.

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a client can ask for, by the numbers of the protocol. Obsolete ones are left out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $($(#[$doc])* $name = $number,)*
        }

        impl Operation {
            /// From the word that begins a request.
            pub const fn from_word(word: u64) -> Option<Self> {
                match word {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

operations! {
    /// Is a path valid?
    IsValidPath = 1,
    /// Who refers to a path?
    QueryReferrers = 6,
    /// Add bytes under a content address.
    AddToStore = 7,
    /// Add a text; obsolete, and still used.
    AddTextToStore = 8,
    /// Build or substitute; errors end it.
    BuildPaths = 9,
    /// Make a path valid by substitution.
    EnsurePath = 10,
    /// Keep a path as long as this connection lives.
    AddTempRoot = 11,
    /// Register a symlink as a root.
    AddIndirectRoot = 12,
    /// Obsolete, does nothing.
    SyncWithGc = 13,
    /// List roots.
    FindRoots = 14,
    /// Settings of this connection.
    SetOptions = 19,
    /// Collect garbage.
    CollectGarbage = 20,
    /// What would a substituter give?
    QuerySubstitutablePathInfo = 21,
    /// All valid paths.
    QueryAllValidPaths = 23,
    /// What is known of a path?
    QueryPathInfo = 26,
    /// Which path has this hash part?
    QueryPathFromHashPart = 29,
    /// What would substituters give?
    QuerySubstitutablePathInfos = 30,
    /// Which of these paths are valid?
    QueryValidPaths = 31,
    /// Which of these paths could be substituted?
    QuerySubstitutablePaths = 32,
    /// Which derivations make this path?
    QueryValidDerivers = 33,
    /// Link equal files.
    OptimiseStore = 34,
    /// Check the store.
    VerifyStore = 35,
    /// Build a derivation that comes with the request.
    BuildDerivation = 36,
    /// Add signatures to a path.
    AddSignatures = 37,
    /// Read a path as a NAR.
    NarFromPath = 38,
    /// Add a path as a NAR.
    AddToStoreNar = 39,
    /// What would have to be built or substituted?
    QueryMissing = 40,
    /// Which paths do a derivation's outputs have?
    QueryDerivationOutputMap = 41,
    /// Record an output of a floating derivation.
    RegisterDrvOutput = 42,
    /// Where is an output of a floating derivation?
    QueryRealisation = 43,
    /// Add many paths as NARs.
    AddMultipleToStore = 44,
    /// Keep the log of a build.
    AddBuildLog = 45,
    /// Build or substitute, with a result for each.
    BuildPathsWithResults = 46,
    /// Make a root.
    AddPermRoot = 47,
}

impl Operation {
    /// As it begins a request.
    pub const fn word(self) -> u64 {
        self as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Operation;

    #[test]
    fn words_name_operations_and_back() {
        let known =
            (0..1100).filter_map(|word| Operation::from_word(word).map(|operation| (word, operation)));
        for (word, operation) in known {
            assert_eq!(operation.word(), word);
        }
        assert_eq!(Operation::from_word(36), Some(Operation::BuildDerivation));
        assert_eq!(Operation::from_word(3), None);
    }
}
