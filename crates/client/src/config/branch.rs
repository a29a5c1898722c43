//! What a run is of, where nobody says it: the branch that is checked out, or the one that a CI job is about.

use super::settings::Environment;

/// Longest name, bytes: git's own limit is that of a file name.
const MAX_NAME: usize = 255;
/// What CI systems say, the nearest to a branch first: a pull request's own branch before the merge that is tested.
const VARIABLES: [&str; 7] = [
    "FORGEJO_HEAD_REF",
    "FORGEJO_REF_NAME",
    "GITHUB_HEAD_REF",
    "GITHUB_REF_NAME",
    "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME",
    "CI_COMMIT_BRANCH",
    "CI_COMMIT_REF_NAME",
];

/// The branch a CI job is about.
pub fn of_ci(environment: &Environment) -> Option<String> {
    let said = VARIABLES.iter().filter_map(|name| environment.get(name));
    said.filter(|name| is_name(name)).map(str::to_owned).next()
}

/// Whether it can be a branch's name.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Option<String> {
        of_ci(&Environment(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()))
    }

    #[test]
    fn a_pull_request_is_its_own_branch() {
        let push = ("GITHUB_REF_NAME", "main");
        assert_eq!(of(&[push]).as_deref(), Some("main"));
        assert_eq!(of(&[push, ("GITHUB_HEAD_REF", "")]).as_deref(), Some("main"));
        assert_eq!(of(&[("GITHUB_REF_NAME", "7/merge"), ("GITHUB_HEAD_REF", "fix")]).as_deref(), Some("fix"));
        assert_eq!(
            of(&[("CI_COMMIT_REF_NAME", "v1"), ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "x")]).as_deref(),
            Some("x")
        );
        assert_eq!(
            of(&[("FORGEJO_REF_NAME", "main"), ("GITHUB_REF_NAME", "other")]).as_deref(),
            Some("main")
        );
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn what_is_no_name_is_not_taken_for_one() {
        assert_eq!(of(&[("GITHUB_REF_NAME", "a\u{1b}[2J")]), None);
        assert!(!is_name("") && !is_name(&"x".repeat(MAX_NAME + 1)) && is_name("feature/ünïcode"));
    }
}
