//! What a flake may read of itself that a packed source cannot carry: found so that it can be said.

use super::git::{Git, GitError};

/// Attributes that are lost.
const ALWAYS: [&str; 2] = ["self.submodules", "self.lfs"];
const WHEN_DIRTY: [&str; 2] = ["dirtyRev", "dirtyShortRev"];
/// Files named at most.
const MAX_NAMED: usize = 3;

/// The tree that is looked through.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tree<'a> {
    /// The tracked files as they are, equal to HEAD.
    Clean,
    /// The tracked files as they are, with changes.
    Dirty,
    /// A commit's.
    Commit(&'a str),
}

/// One sentence for each thing that is not carried.
pub(super) fn find(git: &Git, tree: Tree<'_>) -> Result<Vec<String>, GitError> {
    let dirty = matches!(tree, Tree::Dirty);
    let wanted = ALWAYS.iter().chain(WHEN_DIRTY.iter().filter(|_| dirty));
    let mut notes = Vec::new();
    for attribute in wanted {
        let files = mentions(git, tree, attribute)?;
        if !files.is_empty() {
            notes.push(format!(
                "{attribute} is not carried to the evaluator, but {} mentions it: what depends on it differs \
                 from plain Nix",
                named(&files)
            ));
        }
    }
    Ok(notes)
}

fn mentions(git: &Git, tree: Tree<'_>, text: &str) -> Result<Vec<String>, GitError> {
    let mut args = vec!["grep", "-l", "-z", "-F", "-I", "--no-recurse-submodules", "-e", text];
    if let Tree::Commit(rev) = tree {
        args.push(rev);
    }
    args.extend(["--", "*.nix"]);
    let output = match git.run(args) {
        Ok(output) => output,
        // Without a match git grep ends with 1 and no word.
        Err(GitError::Failed { message, .. }) if message.is_empty() => Vec::new(),
        Err(error) => return Err(error),
    };
    let prefix = if let Tree::Commit(rev) = tree { format!("{rev}:") } else { String::new() };
    let names = output.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
    Ok(names.map(|name| name.strip_prefix(&prefix).unwrap_or(&name).to_owned()).collect())
}

fn named(files: &[String]) -> String {
    let mut text = files.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    if files.len() > MAX_NAMED {
        text.push_str(" and others");
    }
    text
}
