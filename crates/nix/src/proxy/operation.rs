//! The list of what an evaluator may ask of a store. What is not on it is refused.

use crate::daemon::Operation;

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
    Refuse,
}

/// `SetOptions`: twelve words and the overrides.
pub(super) const OPTIONS: &[Part] =
    &[Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Word, Many(&[Text, Text])];

const PATH: &[Part] = &[Text];
const PATHS: &[Part] = &[Many(PATH)];
const DONE: &[Part] = &[Word];
/// Deriver, NAR hash, references, registration time, NAR size, ultimate, signatures, content address.
const PATH_INFO: &[Part] = &[Text, Text, Many(PATH), Word, Word, Word, Many(PATH), Text];

/// What becomes of an operation.
pub(super) fn rule(operation: Operation) -> Rule {
    let (request, reply): (&[Part], &[Part]) = match operation {
        Operation::IsValidPath | Operation::EnsurePath => (PATH, DONE),
        Operation::QueryPathInfo => (PATH, &[Maybe(PATH_INFO)]),
        Operation::QueryPathFromHashPart => (PATH, PATH),
        Operation::QuerySubstitutablePathInfos => {
            (&[Many(&[Text, Text])], &[Many(&[Text, Text, Many(PATH), Word, Word])])
        }
        Operation::QueryValidPaths => (&[Many(PATH), Word], PATHS),
        Operation::QuerySubstitutablePaths => (PATHS, PATHS),
        Operation::QueryMissing => (PATHS, &[Many(PATH), Many(PATH), Many(PATH), Word, Word]),
        Operation::QueryDerivationOutputMap => (PATH, &[Many(&[Text, Text])]),
        Operation::AddTempRoot => return Rule::Root,
        Operation::AddToStore => return Rule::Add,
        Operation::AddToStoreNar => return Rule::AddNar,
        Operation::BuildPaths => return Rule::Build,
        Operation::SetOptions => return Rule::SetOptions,
        _ => return Rule::Refuse,
    };
    Rule::Forward { request, reply }
}
