//! From a location to a packed source: which tree, which facts, one NAR in a private file.

use std::io::Read;
use std::path::{Path, PathBuf};

use fleet_wire::v1;

use super::caveat::{self, Tree};
use super::directory;
use super::flake_ref::FlakeRef;
use super::git::{Git, GitError};
use super::locate::Location;
use super::objects::Objects;
use super::pack::{self, Contents, PackError};
use super::spool::{FillError, Spool, SpoolError};
use super::tree::{self, Entry, EntryKind};
use super::work_tree::{self, WorkTree};

/// Longest flake.lock: a hundred times what is seen.
const MAX_LOCK_BYTES: u64 = 16 << 20;

/// A flake tree as one NAR in a private file, gone with this value.
#[derive(Debug)]
pub struct PackedSource {
    spool: Spool,
    facts: Facts,
    /// The content of flake.lock, when the flake has one.
    lock: Option<Vec<u8>>,
    /// Set when tracked files differ from the last commit.
    pub dirty: bool,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

/// What Nix knows of a tree beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Facts {
    rev: Option<String>,
    rev_count: Option<u64>,
    last_modified: u64,
    subdir: String,
}

/// Why a flake could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Git has no answer.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Its files cannot be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// There is a flake.nix, but git does not know it.
    #[error("{path} is not tracked by git", path = .0.display())]
    Untracked(PathBuf),
    /// The tree has none.
    #[error("there is no {path} in {tree}")]
    NoFlake {
        /// Below the tree.
        path: String,
        /// Which tree.
        tree: String,
    },
    /// A directory has no past.
    #[error("{path} has no earlier revisions: it is not a git repository", path = .0.display())]
    NoHistory(PathBuf),
    /// A lock file that no Nix wrote.
    #[error("{path} is larger than {MAX_LOCK_BYTES} bytes", path = .0.display())]
    HugeLock(PathBuf),
    /// The file for the NAR.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl From<FillError> for SourceError {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Spool(error) => Self::Spool(error),
            FillError::Pack(error) => Self::Pack(error),
        }
    }
}

impl PackedSource {
    /// The NAR.
    pub fn nar(&self) -> &Path {
        self.spool.path()
    }

    /// Whether a flake would see the same in both.
    pub fn is_same_source(&self, other: &Self) -> bool {
        self.nar_hash() == other.nar_hash() && self.facts == other.facts
    }

    /// SHA-256 of the NAR.
    pub fn nar_hash(&self) -> &[u8; 32] {
        &self.spool.nar_hash
    }

    /// The content of flake.lock.
    pub fn lock(&self) -> Option<&[u8]> {
        self.lock.as_deref()
    }

    /// The commit, when the tree is exactly one.
    pub fn rev(&self) -> Option<&str> {
        self.facts.rev.as_deref()
    }

    /// As it is sent, once the chunks of the NAR are known; without inputs.
    pub fn to_wire(&self, manifest: v1::Manifest) -> v1::Source {
        v1::Source {
            nar_hash: self.nar_hash().to_vec().into(),
            nar_size: self.spool.nar_size,
            rev: self.facts.rev.clone().unwrap_or_default(),
            rev_count: self.facts.rev_count.unwrap_or(0),
            last_modified: self.facts.last_modified,
            subdir: self.facts.subdir.clone(),
            manifest: Some(manifest),
            inputs: Vec::new(),
        }
    }
}

/// The flake as it is: the work tree, or the commit that the reference names.
pub fn pack_current(
    flake: &FlakeRef,
    location: &Location,
    spools: &Path,
) -> Result<PackedSource, SourceError> {
    match location {
        Location::Directory { root, subdir } => pack_directory(root, subdir, spools),
        Location::Repository { root, subdir } => {
            let git = Git::new(root);
            let history = History { git: &git, subdir, counted: !flake.shallow };
            match &flake.commit {
                Some(commit) => history.pack_commit(commit, spools),
                None => history.pack_work_tree(spools),
            }
        }
    }
}

/// The flake as it was at `rev`, from git's objects.
pub fn pack_base(
    flake: &FlakeRef,
    location: &Location,
    rev: &str,
    spools: &Path,
) -> Result<PackedSource, SourceError> {
    match location {
        Location::Directory { root, .. } => Err(SourceError::NoHistory(root.clone())),
        Location::Repository { root, subdir } => {
            let git = Git::new(root);
            History { git: &git, subdir, counted: !flake.shallow }.pack_commit(rev, spools)
        }
    }
}

/// The branch that the flake is of, as far as the reference or git knows one.
pub fn branch(flake: &FlakeRef, location: &Location) -> Option<String> {
    let short = |name: &str| name.strip_prefix("refs/heads/").unwrap_or(name).to_owned();
    match location {
        Location::Directory { .. } => None,
        Location::Repository { .. } if flake.commit.is_some() => flake.branch.as_deref().map(short),
        Location::Repository { root, .. } => Git::new(root).branch(),
    }
}

/// A repository, and how its commits are described.
struct History<'a> {
    git: &'a Git,
    subdir: &'a str,
    counted: bool,
}

impl History<'_> {
    fn pack_work_tree(&self, spools: &Path) -> Result<PackedSource, SourceError> {
        let head = self.git.head()?;
        let dirty = self.git.is_dirty()?;
        let entries = work_tree::tracked(self.git)?;
        let flake = Path::new(self.subdir).join("flake.nix");
        if !pack::has_file(&entries, &flake) {
            let path = self.git.root().join(flake);
            let tree = self.git.root().display().to_string();
            return Err(if path.exists() {
                SourceError::Untracked(path)
            } else {
                missing(self.subdir, tree)
            });
        }
        let facts = match &head {
            Some(rev) if dirty => Facts {
                last_modified: self.git.committed_at(rev)?,
                subdir: self.subdir.to_owned(),
                ..Facts::default()
            },
            Some(rev) => self.facts(rev)?,
            None => Facts { subdir: self.subdir.to_owned(), ..Facts::default() },
        };
        let notes = caveat::find(self.git, if dirty { Tree::Dirty } else { Tree::Clean })?;
        let contents = &mut WorkTree::new(self.git.root());
        Ok(PackedSource { dirty, notes, ..packed(&entries, contents, facts, spools)? })
    }

    fn pack_commit(&self, name: &str, spools: &Path) -> Result<PackedSource, SourceError> {
        let rev = self.git.resolve(name)?;
        let entries = tree::of_commit(self.git, &rev)?;
        if !pack::has_file(&entries, &Path::new(self.subdir).join("flake.nix")) {
            return Err(missing(self.subdir, format!("commit {name}")));
        }
        let notes = caveat::find(self.git, Tree::Commit(&rev))?;
        let contents = &mut Objects::open(self.git)?;
        Ok(PackedSource { notes, ..packed(&entries, contents, self.facts(&rev)?, spools)? })
    }

    fn facts(&self, rev: &str) -> Result<Facts, GitError> {
        let counted = self.counted && !self.git.is_shallow()?;
        Ok(Facts {
            rev: Some(rev.to_owned()),
            rev_count: counted.then(|| self.git.rev_count(rev)).transpose()?,
            last_modified: self.git.committed_at(rev)?,
            subdir: self.subdir.to_owned(),
        })
    }
}

fn missing(subdir: &str, tree: String) -> SourceError {
    SourceError::NoFlake { path: Path::new(subdir).join("flake.nix").display().to_string(), tree }
}

fn pack_directory(root: &Path, subdir: &str, spools: &Path) -> Result<PackedSource, SourceError> {
    let listing = directory::list(root)?;
    if !pack::has_file(&listing.entries, &Path::new(subdir).join("flake.nix")) {
        return Err(missing(subdir, root.display().to_string()));
    }
    let facts = Facts { last_modified: listing.modified, subdir: subdir.to_owned(), ..Facts::default() };
    packed(&listing.entries, &mut WorkTree::new(root), facts, spools)
}

fn packed(
    entries: &[Entry],
    contents: &mut dyn Contents,
    facts: Facts,
    spools: &Path,
) -> Result<PackedSource, SourceError> {
    let lock = lock(entries, contents, &facts.subdir)?;
    let spool = Spool::fill(spools, |to| pack::pack(entries, contents, to).map(|_| ()))?;
    Ok(PackedSource { spool, facts, lock, dirty: false, notes: Vec::new() })
}

/// The lock file as the evaluator will find it in the tree.
fn lock(
    entries: &[Entry],
    contents: &mut dyn Contents,
    subdir: &str,
) -> Result<Option<Vec<u8>>, SourceError> {
    let path = Path::new(subdir).join("flake.lock");
    let is_file = |entry: &&Entry| matches!(entry.kind, EntryKind::Regular | EntryKind::Executable);
    let Some(entry) = entries.iter().filter(is_file).find(|entry| entry.as_path() == path) else {
        return Ok(None);
    };
    let content = contents.open(entry)?;
    if content.size > MAX_LOCK_BYTES {
        return Err(SourceError::HugeLock(path));
    }
    let mut lock = Vec::new();
    content
        .bytes
        .take(content.size)
        .read_to_end(&mut lock)
        .map_err(|source| PackError::read(entry, source))?;
    Ok(Some(lock))
}
