//! What to say when a flake cannot be found, read or packed.

use std::io;

use super::{CliError, FULL, chain};
use crate::source::inputs::InputError;
use crate::source::{FlakeRefError, GitError, LocateError, PackError, SourceError, SpoolError};
use crate::suggest::closest;

impl From<FlakeRefError> for CliError {
    fn from(error: FlakeRefError) -> Self {
        let next = match &error {
            FlakeRefError::NotLocal(_) => {
                "Clone it first and give its path, as in `fleetctl build ./fleet --all-hosts`"
            }
            FlakeRefError::Parameter { .. } => "Leave it out; ?dir=, ?rev=, ?ref= and ?shallow=1 are known",
            FlakeRefError::Malformed(_) => "Give a path, as in `fleetctl build ./fleet --all-hosts`",
        };
        Self::new(error.to_string()).next(next)
    }
}

impl From<LocateError> for CliError {
    fn from(error: LocateError) -> Self {
        let next = match &error {
            LocateError::Io { .. } => "Check the path and its permissions",
            LocateError::NotADirectory(_) => "Give the directory that holds flake.nix",
            LocateError::NoFlake(_) => "Go to the directory of your flake, or give its path as FLAKE",
            LocateError::NotARepository(_) => {
                "Run `git init` and `git add` your files there, or write path: instead of git+file: to take every \
                 file of the directory"
            }
            LocateError::Bare(path) => {
                let path = path.display();
                return Self::new(error.to_string()).next(format!(
                    "Check it out with `git -C {path} worktree add DIR`, and give DIR as FLAKE"
                ));
            }
            LocateError::NotUtf8(_) => "Rename it: Nix cannot name such a directory in a flake reference",
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<GitError> for CliError {
    fn from(error: GitError) -> Self {
        let next = match &error {
            GitError::NotInstalled => {
                "Install git, or write path: before the flake's path to take every file of the directory"
                    .to_owned()
            }
            GitError::Failed { message, root, .. } if message.contains("dubious ownership") => {
                let root = root.display();
                return Self::new(format!(
                    "the repository {root} belongs to another user, so git does not read it"
                ))
                .next(format!("If you trust it, run `git config --global --add safe.directory {root}`"));
            }
            GitError::NoSuchCommit { root, .. } => format!(
                "`git -C {} log --oneline --all` lists commits; in a shallow clone, run `git fetch --unshallow` first",
                root.display()
            ),
            GitError::Failed { .. } | GitError::Io(_) | GitError::Unexpected { .. } => {
                "Check that `git status` works in that directory".to_owned()
            }
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<PackError> for CliError {
    fn from(error: PackError) -> Self {
        let next = match error {
            PackError::Git(error) => return error.into(),
            PackError::Write(source) if source.kind() == io::ErrorKind::StorageFull => {
                return Self::new("cannot write the packed flake: the disk is full").next(FULL);
            }
            PackError::Write(_) => "Set FLEET_CACHE_DIR to a directory with room for a copy of the flake",
            PackError::Read { .. } => "Check its permissions; Nix reads every tracked file of a flake",
            PackError::Changed(_) => "Run the same command again when nothing writes there",
            PackError::Unsupported(_) => "Remove it, or use a git repository that does not track it",
            PackError::Nar { .. } => "Rename or remove it: Nix cannot hold it in its store either",
            PackError::TooDeep(_) => "Move it up: Nix takes 64 directories in one another at most",
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<SpoolError> for CliError {
    fn from(error: SpoolError) -> Self {
        Self::unusable_directory("cache", &error.directory, "FLEET_CACHE_DIR", &error.source)
    }
}

impl From<InputError> for CliError {
    fn from(error: InputError) -> Self {
        let next = match error {
            InputError::Spool(error) => return error.into(),
            InputError::Cut { source, .. } => return source.into(),
            InputError::Lock(_) => "`nix flake lock` says what is wrong with it".to_owned(),
            InputError::NoLock(_) => "Leave --bring out, or run `nix flake lock` and add flake.lock to git".to_owned(),
            InputError::Unknown { ref name, ref known } => {
                let names: Vec<&str> = known.iter().map(String::as_str).collect();
                match closest(std::slice::from_ref(name), &names) {
                    near if near.is_empty() => format!("Its own inputs are {}", names.join(", ")),
                    near => format!("Perhaps you mean {}", near.join(" or ")),
                }
            }
            InputError::TooMany(_) => {
                "Keep them on a git server that workers reach, and lock them there".to_owned()
            }
            InputError::NoHash(_) => "`nix flake lock` of Nix 2.26 or newer writes it".to_owned(),
            InputError::Named(_) => "Take the `name` out of the input in flake.nix, and run `nix flake lock`".to_owned(),
            InputError::Changed { ref name, .. } => {
                format!("`nix flake update {name}` locks what is there now")
            }
            InputError::Beyond { .. } | InputError::NotStored { .. } => {
                "Run `nix flake archive` in the flake's directory: what is in the store here is taken from there"
                    .to_owned()
            }
            InputError::Git { source: GitError::NoSuchCommit { .. }, .. } => {
                "Push the commit there, or run `nix flake archive` where Nix has it".to_owned()
            }
            InputError::Git { ref source, .. } if matches!(source, GitError::NotInstalled) => {
                "Install git, or run `nix flake archive` in the flake's directory".to_owned()
            }
            InputError::Git { .. } => "Check that `git ls-remote` works with that address here".to_owned(),
            InputError::Pack { .. } => {
                "Check that it is there and readable, or run `nix flake archive` where Nix has it".to_owned()
            }
        };
        Self::new(chain(&error)).next(next)
    }
}

impl From<SourceError> for CliError {
    fn from(error: SourceError) -> Self {
        let next = match error {
            SourceError::Git(error) => return error.into(),
            SourceError::Pack(error) => return error.into(),
            SourceError::Spool(error) => return error.into(),
            SourceError::HugeLock(_) => "`nix flake lock` writes a new one".to_owned(),
            SourceError::Untracked(ref path) => {
                format!("Run `git add {}`: Nix sees tracked files only", path.display())
            }
            SourceError::NoFlake { .. } => "Check FLAKE, its ?dir= and the commit".to_owned(),
            SourceError::NoHistory(_) => {
                "A base needs history: keep the flake in git, or leave --base out".to_owned()
            }
        };
        Self::new(chain(&error)).next(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_of_another_user_is_told_in_our_words() {
        let error = GitError::Failed {
            action: "rev-parse".to_owned(),
            root: "/srv/fleet".into(),
            message: "fatal: detected dubious ownership in repository at '/srv/fleet'\nTo add an exception for this \
                      directory, call:\n\n\tgit config --global --add safe.directory /srv/fleet"
                .to_owned(),
        };
        insta::assert_snapshot!(CliError::from(error).paragraph(), @"error: the repository /srv/fleet belongs to another user, so git does not read it. If you trust it, run `git config --global --add safe.directory /srv/fleet`.");
    }
}
