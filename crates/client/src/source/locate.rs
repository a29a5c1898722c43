//! Finds the tree around a flake the way Nix does: up to flake.nix, then up to the repository.

use std::io;
use std::path::{Path, PathBuf};

use super::flake_ref::{FlakeRef, Scheme};

/// Where a flake's tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// The top directory of a git repository.
    Repository {
        /// Holds `.git`.
        root: PathBuf,
        /// Of flake.nix below it; empty for the top.
        subdir: String,
    },
    /// A directory of its own.
    Directory {
        /// All of it is the source.
        root: PathBuf,
        /// Of flake.nix below it; empty for the top.
        subdir: String,
    },
}

/// Why there is no flake.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// It cannot be looked at.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file, a socket.
    #[error("{path} is not a directory", path = .0.display())]
    NotADirectory(PathBuf),
    /// Neither there nor above.
    #[error("there is no flake.nix in {path}, nor in a directory above it", path = .0.display())]
    NoFlake(PathBuf),
    /// `git+file:` without a repository.
    #[error("{path} is not a git repository", path = .0.display())]
    NotARepository(PathBuf),
    /// A repository without a work tree.
    #[error("{path} is a bare git repository: it has no files to build", path = .0.display())]
    Bare(PathBuf),
    /// Nix cannot name it either.
    #[error("the directory {path} is not named in UTF-8", path = .0.display())]
    NotUtf8(PathBuf),
}

impl Location {
    /// Looks for the flake, starting from the absolute directory `current`.
    pub fn find(flake: &FlakeRef, current: &Path) -> Result<Self, LocateError> {
        let path = canonical(&current.join(&flake.path))?;
        let dir = flake.dir.clone().unwrap_or_default();
        match flake.scheme {
            Scheme::Directory => Ok(Self::Directory { root: directory(path)?, subdir: dir }),
            Scheme::Git => {
                let root = directory(path)?;
                if root.join(".git").exists() {
                    Ok(Self::Repository { root, subdir: dir })
                } else {
                    Err(if is_bare(&root) {
                        LocateError::Bare(root)
                    } else {
                        LocateError::NotARepository(root)
                    })
                }
            }
            Scheme::Guess => {
                // Gentle with those who name the file itself.
                let named_file = path.is_file() && path.file_name().is_some_and(|name| name == "flake.nix");
                let start = if named_file { path.parent().unwrap_or(&path).to_owned() } else { path };
                Self::guess(&directory(start)?, dir)
            }
        }
    }

    /// The top directory.
    pub fn root(&self) -> &Path {
        match self {
            Self::Repository { root, .. } | Self::Directory { root, .. } => root,
        }
    }

    fn guess(start: &Path, dir: String) -> Result<Self, LocateError> {
        let flake = if dir.is_empty() { with_flake(start)? } else { start.to_owned() };
        let Some(root) = flake.ancestors().find(|path| path.join(".git").exists()) else {
            return Ok(Self::Directory { root: flake, subdir: dir });
        };
        let below = flake.strip_prefix(root).unwrap_or(Path::new(""));
        let below = below.to_str().ok_or_else(|| LocateError::NotUtf8(flake.clone()))?;
        let subdir = [below, &dir].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Ok(Self::Repository { root: root.to_owned(), subdir })
    }
}

/// The nearest directory with flake.nix; the search ends at the top of the repository.
fn with_flake(start: &Path) -> Result<PathBuf, LocateError> {
    for path in start.ancestors() {
        if path.join("flake.nix").exists() {
            return Ok(path.to_owned());
        }
        if path.join(".git").exists() {
            break;
        }
    }
    let start = start.to_owned();
    Err(if is_bare(&start) { LocateError::Bare(start) } else { LocateError::NoFlake(start) })
}

/// What git itself takes for a repository.
fn is_bare(path: &Path) -> bool {
    path.join("HEAD").is_file() && path.join("objects").is_dir() && path.join("refs").is_dir()
}

fn canonical(path: &Path) -> Result<PathBuf, LocateError> {
    // Without the `./` that users type.
    let shown = || path.components().collect();
    path.canonicalize().map_err(|source| LocateError::Io { path: shown(), source })
}

fn directory(path: PathBuf) -> Result<PathBuf, LocateError> {
    if path.is_dir() { Ok(path) } else { Err(LocateError::NotADirectory(path)) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn find(text: &str, current: &Path) -> Result<Location, LocateError> {
        Location::find(&FlakeRef::parse(text).expect("flake reference"), current)
    }

    fn fixture() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().canonicalize().expect("path");
        for path in ["repo/.git", "repo/hosts/deep", "repo/empty", "plain/below"] {
            fs::create_dir_all(root.join(path)).expect("directory");
        }
        for path in ["repo/hosts/flake.nix", "plain/flake.nix"] {
            fs::write(root.join(path), "{ }").expect("file");
        }
        (dir, root)
    }

    #[test]
    fn a_flake_below_a_repository_is_the_repository_with_a_subdir() {
        let (_dir, root) = fixture();
        let expected = Location::Repository { root: root.join("repo"), subdir: "hosts".into() };
        assert_eq!(find(".", &root.join("repo/hosts")).expect("found"), expected);
        assert_eq!(find(".", &root.join("repo/hosts/deep")).expect("found"), expected);
        assert_eq!(find("repo/hosts/flake.nix", &root).expect("found"), expected);
        assert_eq!(find("repo?dir=hosts", &root).expect("found"), expected);
        assert_eq!(find("git+file:repo?dir=hosts", &root).expect("found"), expected);
    }

    #[test]
    fn a_flake_without_a_repository_is_its_directory() {
        let (_dir, root) = fixture();
        let expected = Location::Directory { root: root.join("plain"), subdir: String::new() };
        assert_eq!(find("below/.", &root.join("plain")).expect("found"), expected);
        assert_eq!(find("path:plain", &root).expect("found"), expected);
        let expected = Location::Directory { root: root.join("repo"), subdir: "hosts".into() };
        assert_eq!(find("path:repo?dir=hosts", &root).expect("found"), expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_dir, root) = fixture();
        assert!(matches!(find("repo/empty", &root), Err(LocateError::NoFlake(_))));
        assert!(matches!(find("nowhere", &root), Err(LocateError::Io { .. })));
        assert!(matches!(find("git+file:plain", &root), Err(LocateError::NotARepository(_))));
        fs::create_dir_all(root.join("bare/objects")).expect("directory");
        fs::create_dir_all(root.join("bare/refs")).expect("directory");
        fs::write(root.join("bare/HEAD"), "ref: refs/heads/main\n").expect("file");
        for bare in ["bare", "git+file:bare?rev=abc"] {
            assert!(matches!(find(bare, &root), Err(LocateError::Bare(_))), "{bare}");
        }
        assert!(matches!(find("path:plain/flake.nix", &root), Err(LocateError::NotADirectory(_))));
    }
}
