//! The list of what an evaluator may ask of a store. What is not on it is refused.

use super::shape::Part::{self, Many, Maybe, Text, Word};

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// The daemon answers; only the shapes matter.
    Forward { request: &'static [Part], reply: &'static [Part] },
    /// As `Forward`, and the path stays rooted as long as the proxy lives.
    Root,
    /// A file or tree, named by its content.
    Add,
    /// An archive under a given name: only what its content proves.
    AddNar,
    /// What evaluation needs built.
    Build,
    /// Accepted and ignored.
    SetOptions,
    /// Answered with an error.
    Refuse(&'static str),
}

/// `SetOptions`: twelve words and the overrides.
pub(super) const OPTIONS: &[Part] =
    &[Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Many(&[Text, Text])];

pub(super) const ADD_TEMP_ROOT: u64 = 11;
pub(super) const ADD_TO_STORE: u64 = 7;
pub(super) const ADD_TO_STORE_NAR: u64 = 39;

const PATH: &[Part] = &[Text];
const PATHS: &[Part] = &[Many(PATH)];
const DONE: &[Part] = &[Word];
/// Deriver, NAR hash, references, registration time, NAR size, ultimate, signatures, content address.
const PATH_INFO: &[Part] = &[Text, Text, Many(PATH), Word, Word, Word, Many(PATH), Text];

/// What becomes of operation `number`.
pub(super) fn rule(number: u64) -> Rule {
    let (request, reply): (&[Part], &[Part]) = match number {
        // IsValidPath, EnsurePath
        1 | 10 => (PATH, DONE),
        // QueryPathInfo
        26 => (PATH, &[Maybe(PATH_INFO)]),
        // QueryPathFromHashPart
        29 => (PATH, PATH),
        // QuerySubstitutablePathInfos
        30 => (&[Many(&[Text, Text])], &[Many(&[Text, Text, Many(PATH), Word, Word])]),
        // QueryValidPaths
        31 => (&[Many(PATH), Word], PATHS),
        // QuerySubstitutablePaths
        32 => (PATHS, PATHS),
        // QueryMissing
        40 => (PATHS, &[Many(PATH), Many(PATH), Many(PATH), Word, Word]),
        // QueryDerivationOutputMap
        41 => (PATH, &[Many(&[Text, Text])]),
        ADD_TEMP_ROOT => return Rule::Root,
        ADD_TO_STORE => return Rule::Add,
        ADD_TO_STORE_NAR => return Rule::AddNar,
        9 => return Rule::Build,
        19 => return Rule::SetOptions,
        _ => return Rule::Refuse(name(number)),
    };
    Rule::Forward { request, reply }
}

/// Names of what is refused, for people.
fn name(number: u64) -> &'static str {
    match number {
        6 => "QueryReferrers",
        8 => "AddTextToStore",
        12 => "AddIndirectRoot",
        14 => "FindRoots",
        20 => "CollectGarbage",
        23 => "QueryAllValidPaths",
        33 => "QueryValidDerivers",
        34 => "OptimiseStore",
        35 => "VerifyStore",
        36 => "BuildDerivation",
        37 => "AddSignatures",
        38 => "NarFromPath",
        42 => "RegisterDrvOutput",
        43 => "QueryRealisation",
        44 => "AddMultipleToStore",
        45 => "AddBuildLog",
        46 => "BuildPathsWithResults",
        47 => "AddPermRoot",
        _ => "an unknown operation",
    }
}
