//! Git repositories with fixed identities and dates, so that revisions and what Nix makes of them repeat.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The date of every first commit; later ones follow a day apart.
const FIRST_COMMIT_AT: u64 = 1_700_000_000;
const DAY: u64 = 86_400;

/// A work tree with its repository.
#[derive(Debug)]
pub struct GitRepo {
    path: PathBuf,
    commits: u64,
}

impl GitRepo {
    /// Makes an empty repository in `path`, which may exist.
    pub fn init(path: impl Into<PathBuf>) -> GitRepo {
        let path = path.into();
        fs::create_dir_all(&path).expect("a directory for the repository");
        let repo = GitRepo { path, commits: 0 };
        repo.git(&["init", "--quiet", "--initial-branch=main"]);
        repo
    }

    /// The work tree.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, making its directory; git is not told.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let file = self.path.join(name);
        fs::create_dir_all(file.parent().expect("a file has a directory")).expect("the file's directory");
        fs::write(file, content).expect("the file is written");
    }

    /// Tells git about a file, as a flake needs before Nix sees it.
    pub fn add(&self, name: &str) {
        self.git(&["add", "--", name]);
    }

    /// Commits everything in the work tree and gives the revision.
    pub fn commit(&mut self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.commits += 1;
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git in the work tree and gives its stdout, trimmed; panics with its stderr when it fails.
    pub fn git(&self, arguments: &[&str]) -> String {
        let date = format!("{} +0000", FIRST_COMMIT_AT + self.commits * DAY);
        let output = Command::new("git")
            .arg("-C")
            .arg(&self.path)
            .args(arguments)
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_AUTHOR_NAME", "Fleet Test")
            .env("GIT_AUTHOR_EMAIL", "test@fleet.invalid")
            .env("GIT_COMMITTER_NAME", "Fleet Test")
            .env("GIT_COMMITTER_EMAIL", "test@fleet.invalid")
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .output()
            .expect("git runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?} failed: {error}");
        String::from_utf8(output.stdout).expect("git prints UTF-8").trim().to_owned()
    }
}
