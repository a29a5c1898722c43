//! The git command, called so that neither names, configuration nor environment change what it means.
//!
//! Every call is an argument vector; user text never stands where an option could.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// What git prints at most before we stop reading: a listing of a million long paths.
const MAX_OUTPUT_BYTES: u64 = 512 * 1024 * 1024;
/// A fetch that takes longer hangs: a whole nixpkgs comes in a tenth of it.
const FETCH_WITHIN: Duration = Duration::from_mins(30);
/// Variables that say how to reach a server, and nothing about repositories here.
const OF_TRANSPORT: [&[u8]; 4] = [b"GIT_SSH", b"GIT_SSH_COMMAND", b"GIT_SSH_VARIANT", b"GIT_ASKPASS"];
/// Enough of git's own words to act on.
const MAX_STDERR_BYTES: u64 = 8 * 1024;

/// Git in one repository.
#[derive(Clone, Debug)]
pub struct Git {
    root: PathBuf,
}

/// Why git gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// No such program.
    #[error("the git command was not found")]
    NotInstalled,
    /// It could not be run or spoken with.
    #[error("cannot run git")]
    Io(#[source] io::Error),
    /// It ended with an error.
    #[error("git {action} failed in {root}: {message}", root = root.display())]
    Failed {
        /// Its first argument.
        action: String,
        /// The repository.
        root: PathBuf,
        /// What it said.
        message: String,
    },
    /// No such commit.
    #[error("`{rev}` is not a commit of the repository {root}", root = root.display())]
    NoSuchCommit {
        /// As asked for.
        rev: String,
        /// The repository.
        root: PathBuf,
    },
    /// It printed something else than it should.
    #[error("git {action} printed something unexpected in {root}", root = root.display())]
    Unexpected {
        /// Its first argument.
        action: String,
        /// The repository.
        root: PathBuf,
    },
}

impl Git {
    /// Git in the repository whose top directory this is.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The repository's top directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The full hash of a commit the user named.
    pub fn resolve(&self, rev: &str) -> Result<String, GitError> {
        let missing = || GitError::NoSuchCommit { rev: rev.to_owned(), root: self.root.clone() };
        // A leading dash would be read as an option by versions without --end-of-options.
        if rev.is_empty() || rev.starts_with('-') || rev.contains('\0') {
            return Err(missing());
        }
        let spec = format!("{rev}^{{commit}}");
        match self.run(["rev-parse", "--verify", "--quiet", &spec]) {
            Ok(output) => self.hash("rev-parse", &output),
            Err(GitError::Failed { message, .. }) if message.is_empty() => Err(missing()),
            Err(error) => Err(error),
        }
    }

    /// The commit that HEAD names, if there is one yet.
    pub fn head(&self) -> Result<Option<String>, GitError> {
        match self.resolve("HEAD") {
            Ok(rev) => Ok(Some(rev)),
            Err(GitError::NoSuchCommit { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Seconds since 1970 of the commit's committer.
    pub fn committed_at(&self, rev: &str) -> Result<u64, GitError> {
        let output = self.run(["rev-list", "--max-count=1", "--timestamp", rev, "--"])?;
        self.number("rev-list", output.split(|&b| b == b' ').next().unwrap_or_default())
    }

    /// Commits reachable from `rev`, itself included.
    pub fn rev_count(&self, rev: &str) -> Result<u64, GitError> {
        let output = self.run(["rev-list", "--count", rev, "--"])?;
        self.number("rev-list", &output)
    }

    /// Whether history is cut off: then no count of it is true.
    pub fn is_shallow(&self) -> Result<bool, GitError> {
        Ok(self.run(["rev-parse", "--is-shallow-repository"])?.starts_with(b"true"))
    }

    /// Whether a tracked file differs from HEAD or the index. Submodules do not count, as for Nix.
    pub fn is_dirty(&self) -> Result<bool, GitError> {
        let status = self.run([
            "status",
            "--porcelain=v1",
            "-z",
            "--untracked-files=no",
            "--ignore-submodules=all",
            "--no-renames",
        ])?;
        Ok(!status.is_empty())
    }

    /// The branch that is checked out, if one is.
    pub fn branch(&self) -> Option<String> {
        let name = self.run(["symbolic-ref", "--quiet", "--short", "HEAD"]).ok()?;
        let name = String::from_utf8(name).ok()?.trim_end().to_owned();
        (!name.is_empty()).then_some(name)
    }

    /// Fetches from a repository elsewhere; `shallow` leaves the history out.
    pub fn fetch(&self, url: &str, specs: &[&str], shallow: bool) -> Result<(), GitError> {
        let mut args =
            vec!["fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"];
        args.extend(shallow.then_some("--depth=1"));
        args.extend(["--", url]);
        args.extend(specs);
        let mut command = self.command(args);
        for (name, value) in std::env::vars_os() {
            if OF_TRANSPORT.contains(&name.as_encoded_bytes()) {
                command.env(name, value);
            }
        }
        // No program that a URL could name, and no repository of this machine.
        command.env("GIT_ALLOW_PROTOCOL", "ssh:https:http:git");
        self.gather(command, Vec::new(), Some(FETCH_WITHIN)).map(|_| ())
    }

    /// The whole standard output of a command that must succeed.
    pub fn run<I, S>(&self, args: I) -> Result<Vec<u8>, GitError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.gather(self.command(args), Vec::new(), None)
    }

    /// The same for a command that reads `input`.
    pub fn run_with<I, S>(&self, args: I, input: Vec<u8>) -> Result<Vec<u8>, GitError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.gather(self.command(args), input, None)
    }

    fn gather(
        &self,
        mut command: Command,
        input: Vec<u8>,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, GitError> {
        let action = action(&command);
        let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
        let mut child = spawn(command.stdin(stdin))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (ended, end) = mpsc::channel::<()>();
        // All at once: git stops when any pipe is full.
        let (output, message, late) = std::thread::scope(|scope| {
            let message = scope.spawn(move || read_bounded(stderr, MAX_STDERR_BYTES));
            let output = scope.spawn(move || {
                // Whoever waits hears of the end when this goes.
                let _ended = ended;
                read_bounded(stdout, MAX_OUTPUT_BYTES)
            });
            // Git that ended early says why itself.
            let fed = scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
            let late =
                limit.is_some_and(|limit| end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout));
            if late {
                // It may have ended just now.
                let _ = child.kill();
            }
            let _ = fed.join();
            let joined = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|_| Ok(Vec::new()))
            };
            (joined(output), joined(message), late)
        });
        let status = child.wait().map_err(GitError::Io)?;
        let (output, message) = (output.map_err(GitError::Io)?, message.map_err(GitError::Io)?);
        if status.success() && output.len() as u64 <= MAX_OUTPUT_BYTES {
            return Ok(output);
        }
        let message = if late {
            "it took too long".to_owned()
        } else {
            String::from_utf8_lossy(&message).trim().to_owned()
        };
        Err(GitError::Failed { action, root: self.root.clone(), message })
    }

    /// A command that is spoken with: both pipes open.
    pub fn converse<I, S>(&self, args: I) -> Result<Child, GitError>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        spawn(self.command(args).stdin(Stdio::piped()).stderr(Stdio::null()))
    }

    fn command<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new("git");
        // Variables of an outer git (a hook, an alias) would point us at another repository or index.
        // Configuration stays: it is where an administrator says which owners are trusted.
        for (name, _) in std::env::vars_os() {
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(b"GIT_") && !bytes.starts_with(b"GIT_CONFIG_") {
                command.env_remove(name);
            }
        }
        if let Some(parent) = self.root.parent() {
            // A broken .git must be an error, not a reason to take the repository around it.
            command.env("GIT_CEILING_DIRECTORIES", parent);
        }
        command
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .arg("--no-pager")
            // Neither runs programs that the repository's own configuration names.
            .args(["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"])
            .arg("-C")
            .arg(&self.root)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn hash(&self, action: &str, output: &[u8]) -> Result<String, GitError> {
        let text = std::str::from_utf8(output).unwrap_or_default().trim();
        let is_hash = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hash { Ok(text.to_owned()) } else { Err(self.unexpected(action)) }
    }

    fn number(&self, action: &str, output: &[u8]) -> Result<u64, GitError> {
        let text = std::str::from_utf8(output).unwrap_or_default().trim();
        text.parse().map_err(|_| self.unexpected(action))
    }

    /// An answer that is none.
    pub fn unexpected(&self, action: &str) -> GitError {
        GitError::Unexpected { action: action.to_owned(), root: self.root.clone() }
    }
}

fn spawn(command: &mut Command) -> Result<Child, GitError> {
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => GitError::NotInstalled,
        _ => GitError::Io(error),
    })
}

fn action(command: &Command) -> String {
    const FIXED_ARGS: usize = 7;
    command.get_args().nth(FIXED_ARGS).map(|arg| arg.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_bounded(from: Option<impl Read>, limit_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        // One byte more tells a full answer from a cut one; the rest is read so that git can end.
        from.by_ref().take(limit_bytes + 1).read_to_end(&mut bytes)?;
        io::copy(&mut from, &mut io::sink())?;
    }
    Ok(bytes)
}
