//! One locked input as a NAR: from this machine's Nix store where it is there, else from where it was locked, as Nix
//! would make it. Whatever comes out is checked against the lock file.

use std::io::Write;
use std::path::{Path, PathBuf};

use fleet_nix::{NarHash, References, StoreDir, source_path};

use super::export;
use super::fetch;
use super::lock::{GitInput, GitUrl, LockError, LockedInput, Place};
use crate::source::directory;
use crate::source::git::{Git, GitError};
use crate::source::objects::Objects;
use crate::source::pack::{self, Contents, PackError};
use crate::source::spool::{FillError, Spool, SpoolError};
use crate::source::tree::{self, Entry};
use crate::source::work_tree::{self, WorkTree};

/// The name of every source that has none of its own.
const SOURCE_NAME: &str = "source";

/// Where things are on this machine.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where trees are packed.
    pub spools: PathBuf,
    /// Where what is packed once is remembered.
    pub known: PathBuf,
    /// Where store paths can be read.
    pub store: PathBuf,
}

/// Why an input cannot be taken along.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The lock file.
    #[error(transparent)]
    Lock(LockError),
    /// `--bring` without a lock file.
    #[error("the flake has no flake.lock, so it has no input `{0}`")]
    NoLock(String),
    /// `--bring` of what the lock file does not name.
    #[error("flake.lock has no input `{name}`")]
    Unknown {
        /// As asked for.
        name: String,
        /// The flake's own inputs.
        known: Vec<String>,
    },
    /// More than anybody takes.
    #[error("more than {0} inputs would have to be taken along")]
    TooMany(usize),
    /// Without the hash evaluators do not find it.
    #[error("input `{0}` has no narHash in flake.lock, so it cannot be taken along")]
    NoHash(String),
    /// A store path's name of its own.
    #[error("input `{0}` has a `name` of its own, so it cannot be taken along")]
    Named(String),
    /// It is not what was locked.
    #[error("input `{name}` at {place} is not what flake.lock says: its narHash is {found}, not {expected}")]
    Changed {
        /// Of the input.
        name: String,
        /// Where it is.
        place: String,
        /// Of what is there.
        found: String,
        /// Of what was locked.
        expected: String,
    },
    /// Content that this program does not gather.
    #[error("input `{name}` at {place} is locked with its {what}, which cannot be gathered here")]
    Beyond {
        /// Of the input.
        name: String,
        /// Where it is.
        place: String,
        /// Submodules or LFS files.
        what: &'static str,
    },
    /// It is somewhere where only Nix can get it.
    #[error("input `{name}` ({place}) is not in this machine's Nix store")]
    NotStored {
        /// Of the input.
        name: String,
        /// Where it is.
        place: String,
    },
    /// The repository.
    #[error("input `{name}` cannot be read from {place}")]
    Git {
        /// Of the input.
        name: String,
        /// Where it is.
        place: String,
        /// Why.
        #[source]
        source: GitError,
    },
    /// Its files.
    #[error("input `{name}` cannot be packed")]
    Pack {
        /// Of the input.
        name: String,
        /// Why.
        #[source]
        source: PackError,
    },
    /// The file for the NAR.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// What was packed cannot be cut.
    #[error("input `{name}` cannot be cut into chunks")]
    Cut {
        /// Of the input.
        name: String,
        /// Why.
        #[source]
        source: crate::upload::UploadError,
    },
}

/// Packs the input; nothing but what was locked comes out.
pub(super) fn pack_spool(input: &LockedInput, places: &Places) -> Result<Spool, InputError> {
    let expected = input.nar_hash.ok_or_else(|| InputError::NoHash(input.name.clone()))?;
    if input.store_name.is_some() {
        return Err(InputError::Named(input.name.clone()));
    }
    if let Some(spool) = stored(expected, places) {
        return Ok(spool);
    }
    let (name, place) = (input.name.clone(), input.place.to_string());
    let spool = match &input.place {
        Place::Directory(path) => directory_spool(path, &places.spools),
        Place::Git(git) => git_spool(git, expected, &places.spools),
        Place::Relative | Place::Other { .. } => return Err(InputError::NotStored { name, place }),
    };
    let spool = spool.map_err(|error| match error {
        TreeError::Git(source) => InputError::Git { name: name.clone(), place: place.clone(), source },
        TreeError::Fill(FillError::Pack(source)) => InputError::Pack { name: name.clone(), source },
        TreeError::Fill(FillError::Spool(error)) | TreeError::Spool(error) => InputError::Spool(error),
    })?;
    if spool.nar_hash == expected.0 {
        return Ok(spool);
    }
    let beyond = match &input.place {
        Place::Git(git) if git.submodules => Some("submodules"),
        Place::Git(git) if git.lfs => Some("LFS files"),
        _ => None,
    };
    if let Some(what) = beyond {
        return Err(InputError::Beyond { name, place, what });
    }
    let (found, expected) = (NarHash(spool.nar_hash).to_sri(), expected.to_sri());
    Err(InputError::Changed { name, place, found, expected })
}

enum TreeError {
    Git(GitError),
    Fill(FillError),
    Spool(SpoolError),
}

impl From<GitError> for TreeError {
    fn from(error: GitError) -> Self {
        Self::Git(error)
    }
}

impl From<FillError> for TreeError {
    fn from(error: FillError) -> Self {
        Self::Fill(error)
    }
}

impl From<fetch::FetchError> for TreeError {
    fn from(error: fetch::FetchError) -> Self {
        match error {
            fetch::FetchError::Git(error) => Self::Git(error),
            fetch::FetchError::Spool(error) => Self::Spool(error),
        }
    }
}

impl From<PackError> for TreeError {
    fn from(error: PackError) -> Self {
        Self::Fill(FillError::Pack(error))
    }
}

impl From<SpoolError> for TreeError {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

/// The tree as Nix has it here already. No validity is asked for: the hash says whether it is whole.
fn stored(expected: NarHash, places: &Places) -> Option<Spool> {
    let path = source_path(&StoreDir::default(), SOURCE_NAME, expected, &References::none()).ok()?;
    let path = places.store.join(path.to_string());
    path.symlink_metadata().ok()?;
    directory_spool(&path, &places.spools).ok().filter(|spool| spool.nar_hash == expected.0)
}

fn directory_spool(path: &Path, spools: &Path) -> Result<Spool, TreeError> {
    let failed = |source| PackError::Read { path: path.to_owned(), source };
    let metadata = path.symlink_metadata().map_err(failed)?;
    if metadata.is_dir() {
        let listing = directory::list(path)?;
        return fill(&listing.entries, &mut WorkTree::new(path), spools);
    }
    let unsupported = || PackError::Unsupported(path.to_owned());
    let kind = work_tree::kind(&metadata).ok_or_else(unsupported)?;
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(unsupported)?;
    let entry = Entry { path: name.as_encoded_bytes().to_vec(), kind, object: String::new() };
    let spool =
        Spool::fill(spools, |to| pack::pack_leaf(&entry, &mut WorkTree::new(parent), to).map(|_| ()))?;
    Ok(spool)
}

fn git_spool(input: &GitInput, expected: NarHash, spools: &Path) -> Result<Spool, TreeError> {
    match (&input.url, &input.rev) {
        // Locked while it had changes: the work tree, if it is still the same.
        (GitUrl::File(path), None) => work_tree_spool(&Git::new(path), spools),
        (_, None) => Err(no_rev(input).into()),
        (GitUrl::File(path), Some(rev)) => {
            let git = Git::new(path);
            let commit = commit_spool(&git, rev, input, expected, spools)?;
            // Nix locks a clean work tree as it is checked out, which filters may make different from its commit.
            if commit.nar_hash != expected.0 && git.head()?.as_ref() == Some(rev) {
                return work_tree_spool(&git, spools);
            }
            Ok(commit)
        }
        (url, Some(rev)) => {
            let fetched = fetch::fetch(url, rev, input.reference.as_deref(), spools)?;
            commit_spool(&Git::new(fetched.path()), rev, input, expected, spools)
        }
    }
}

fn work_tree_spool(git: &Git, spools: &Path) -> Result<Spool, TreeError> {
    fill(&work_tree::tracked(git)?, &mut WorkTree::new(git.root()), spools)
}

fn no_rev(input: &GitInput) -> GitError {
    GitError::NoSuchCommit { rev: String::new(), root: input.url.to_string().into() }
}

fn commit_spool(
    git: &Git,
    rev: &str,
    input: &GitInput,
    expected: NarHash,
    spools: &Path,
) -> Result<Spool, TreeError> {
    let rev = git.resolve(rev)?;
    let mut entries = tree::of_commit(git, &rev)?;
    let modules: Vec<Vec<u8>> =
        entries.iter().filter(|entry| entry.is_directory()).map(|entry| entry.path.clone()).collect();
    if input.export_ignore {
        entries = export::exported(git, &rev, &entries)?;
    }
    let spool = fill(&entries, &mut Objects::open(git)?, spools)?;
    if spool.nar_hash == expected.0 || modules.is_empty() {
        return Ok(spool);
    }
    // Locked from a work tree, where Nix leaves submodules out that are empty directories in a commit.
    entries.retain(|entry| !modules.contains(&entry.path));
    fill(&entries, &mut Objects::open(git)?, spools)
}

fn fill(entries: &[Entry], contents: &mut dyn Contents, spools: &Path) -> Result<Spool, TreeError> {
    Ok(Spool::fill(spools, |to: &mut dyn Write| pack::pack(entries, contents, to).map(|_| ()))?)
}
