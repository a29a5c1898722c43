//! From a location to a packed source: which tree, which facts, one NAR in a private file.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use fleet_wire::v1;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::caveat::{self, Tree};
use super::directory;
use super::flake_ref::FlakeRef;
use super::git::{Git, GitError};
use super::locate::Location;
use super::objects::Objects;
use super::pack::{self, Contents, PackError};
use super::tree::{self, Entry};
use super::work_tree::{self, WorkTree};

const SPOOL_PREFIX: &str = "source-";
/// A spool this old belongs to a process that was killed.
const STALE_AFTER: Duration = Duration::from_hours(24);

/// A flake tree as one NAR in a private file, gone with this value.
#[derive(Debug)]
pub struct PackedSource {
    spool: NamedTempFile,
    nar_hash: [u8; 32],
    nar_size: u64,
    facts: Facts,
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
    /// The file for the NAR.
    #[error("cannot create a file in {directory}", directory = directory.display())]
    Spool {
        /// Where.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl PackedSource {
    /// The NAR.
    pub fn nar(&self) -> &Path {
        self.spool.path()
    }

    /// Whether a flake would see the same in both.
    pub fn is_same_source(&self, other: &Self) -> bool {
        self.nar_hash == other.nar_hash && self.facts == other.facts
    }

    /// SHA-256 of the NAR.
    pub fn nar_hash(&self) -> &[u8; 32] {
        &self.nar_hash
    }

    /// The commit, when the tree is exactly one.
    pub fn rev(&self) -> Option<&str> {
        self.facts.rev.as_deref()
    }

    /// As it is sent, once the chunks of the NAR are known.
    pub fn to_wire(&self, manifest: v1::Manifest) -> v1::Source {
        v1::Source {
            nar_hash: self.nar_hash.to_vec().into(),
            nar_size: self.nar_size,
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

/// Removes what killed processes left.
pub fn sweep_spools(spools: &Path) {
    let Ok(entries) = fs::read_dir(spools) else { return };
    for entry in entries.flatten() {
        let ours = entry.file_name().as_encoded_bytes().starts_with(SPOOL_PREFIX.as_bytes());
        let age = entry.metadata().and_then(|metadata| metadata.modified());
        let age = age.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if ours && age.is_some_and(|age| age > STALE_AFTER) {
            // Another process may have been faster.
            let _ = fs::remove_file(entry.path());
        }
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
        Ok(PackedSource { dirty, notes, ..spool(&entries, contents, facts, spools)? })
    }

    fn pack_commit(&self, name: &str, spools: &Path) -> Result<PackedSource, SourceError> {
        let rev = self.git.resolve(name)?;
        let entries = tree::of_commit(self.git, &rev)?;
        if !pack::has_file(&entries, &Path::new(self.subdir).join("flake.nix")) {
            return Err(missing(self.subdir, format!("commit {name}")));
        }
        let notes = caveat::find(self.git, Tree::Commit(&rev))?;
        let contents = &mut Objects::open(self.git)?;
        Ok(PackedSource { notes, ..spool(&entries, contents, self.facts(&rev)?, spools)? })
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
    spool(&listing.entries, &mut WorkTree::new(root), facts, spools)
}

fn spool(
    entries: &[Entry],
    contents: &mut dyn Contents,
    facts: Facts,
    spools: &Path,
) -> Result<PackedSource, SourceError> {
    let failed = |source| SourceError::Spool { directory: spools.to_owned(), source };
    fs::create_dir_all(spools).map_err(failed)?;
    // Readable by its owner only, as a flake may hold secrets.
    let file =
        tempfile::Builder::new().prefix(OsStr::new(SPOOL_PREFIX)).tempfile_in(spools).map_err(failed)?;
    let counting = Counting { to: BufWriter::with_capacity(256 * 1024, file), hash: Sha256::new(), size: 0 };
    let counting = pack::pack(entries, contents, counting)?;
    let file = counting.to.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok(PackedSource {
        spool: file,
        nar_hash: counting.hash.finalize().into(),
        nar_size: counting.size,
        facts,
        dirty: false,
        notes: Vec::new(),
    })
}

/// Hashes and counts what passes.
struct Counting<W> {
    to: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
