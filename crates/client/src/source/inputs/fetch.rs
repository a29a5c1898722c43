//! A commit of a repository elsewhere, fetched with the user's own git and keys into a directory that is gone again
//! as soon as the commit is packed.

use std::path::Path;

use tempfile::TempDir;

use super::lock::GitUrl;
use crate::source::git::{Git, GitError};
use crate::source::spool::{self, SpoolError};

/// Why nothing was fetched.
pub(super) enum FetchError {
    Git(GitError),
    Spool(SpoolError),
}

impl From<GitError> for FetchError {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

/// A repository that has `rev`.
pub(super) fn fetch(
    url: &GitUrl,
    rev: &str,
    reference: Option<&str>,
    spools: &Path,
) -> Result<TempDir, FetchError> {
    let directory = spool::scratch(spools).map_err(FetchError::Spool)?;
    let git = Git::new(directory.path());
    let format = if rev.len() == 64 { "sha256" } else { "sha1" };
    git.run(["init", "--quiet", "--bare", &format!("--object-format={format}"), "."])?;
    let url = url.to_string();
    match git.fetch(&url, &[rev], true) {
        Ok(()) => return Ok(directory),
        Err(GitError::Failed { message, .. }) if is_about_the_commit(&message) => {}
        Err(error) => return Err(error.into()),
    }
    // A server that gives no single commits: the branch, then everything.
    let branch = match reference {
        None => "HEAD".to_owned(),
        Some(name) if name.starts_with("refs/") || name == "HEAD" => name.to_owned(),
        Some(name) => format!("refs/heads/{name}"),
    };
    for specs in [&[format!("+{branch}:refs/fleet/branch")][..], &["+refs/*:refs/fleet/*".to_owned()]] {
        let specs: Vec<&str> = specs.iter().map(String::as_str).collect();
        match git.fetch(&url, &specs, false) {
            Ok(()) if git.resolve(rev).is_ok() => return Ok(directory),
            // A branch may be gone while another has the commit.
            Ok(()) | Err(GitError::Failed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(GitError::NoSuchCommit { rev: rev.to_owned(), root: url.into() }.into())
}

/// Whether the server was reached, and does not give this commit by its name.
fn is_about_the_commit(message: &str) -> bool {
    ["unadvertised object", "not our ref", "remote ref"].iter().any(|words| message.contains(words))
}
