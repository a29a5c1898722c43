//! Runs the real fleetctl, with nothing in its environment but a daemon of the test's own.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fleet_testkit::{Lines, NixDaemon, Signal, kill_hard, peak_memory_kib, send_signal, wait_until_gone};
use serde_json::Value;

/// A command line of fleetctl.
#[derive(Debug)]
pub struct Fleetctl {
    command: Command,
}

/// A fleetctl that has been started; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<u64>>,
    said: Lines,
}

/// What a fleetctl that has ended left.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: String,
    /// All of its stderr.
    pub stderr: String,
    /// The most memory it was seen to hold whenever it wrote to stderr.
    pub peak_memory_kib: u64,
}

impl Fleetctl {
    /// fleetctl with a daemon's store, that daemon's Nix, and its directories below `scratch`.
    pub fn new(daemon: &NixDaemon) -> Fleetctl {
        let mut command = Command::new(fleetctl_binary());
        daemon.configure(&mut command);
        let scratch = daemon.scratch();
        command
            .env("FLEET_NIX", daemon.nix_bin())
            .env("FLEET_STATE_DIR", scratch.join("state"))
            .env("FLEET_CACHE_DIR", scratch.join("cache"))
            .env("TMPDIR", &scratch)
            .current_dir(&scratch)
            .stdin(Stdio::null());
        Fleetctl { command }
    }

    /// fleetctl as a client of a coordinator, without any Nix.
    pub fn remote(coordinator: &str, scratch: &Path) -> Fleetctl {
        let mut command = Command::new(fleetctl_binary());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", scratch)
            .env("TMPDIR", scratch)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("LC_ALL", "C.UTF-8")
            .env("FLEET_COORDINATOR", coordinator)
            .env("FLEET_STATE_DIR", scratch.join("state"))
            .env("FLEET_CACHE_DIR", scratch.join("cache"))
            .current_dir(scratch)
            .stdin(Stdio::null());
        Fleetctl { command }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it there.
    #[must_use]
    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.start().finish()
    }

    /// Starts it and lets it run.
    pub fn start(self) -> Running {
        start(self.command)
    }
}

/// Starts a program, reading all that it says.
pub(crate) fn start(mut command: Command) -> Running {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let pid = child.id();
    let said = Lines::new();
    let mut out = child.stdout.take().expect("stdout is a pipe");
    let err = child.stderr.take().expect("stderr is a pipe");
    let stdout = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = out.read_to_end(&mut bytes);
        bytes
    });
    let stderr = thread::spawn({
        let said = said.clone();
        move || read_and_measure(err, &said, pid)
    });
    Running { child, stdout: Some(stdout), stderr: Some(stderr), said }
}

impl Running {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send_signal(self.pid(), signal);
    }

    /// Waits until it writes a line with `text` to stderr; panics with all that it wrote when it does not.
    #[track_caller]
    pub fn wait_until_it_says(&self, text: &str, patience: Duration) {
        let said = self.said.wait_for(patience, |line| line.contains(text));
        assert!(said.is_some(), "it never says “{text}”:\n{}", self.said.all().join("\n"));
    }

    /// Whether it ends by itself in this time; what it left is told by [`Running::finish`].
    pub fn ends_within(&self, patience: Duration) -> bool {
        wait_until_gone(self.pid(), patience)
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Outcome {
        let status = self.child.wait().expect("a child is waited for once");
        let stdout = self.stdout.take().expect("finished once").join().expect("stdout was read");
        let peak = self.stderr.take().expect("finished once").join().expect("stderr was read");
        Outcome {
            status,
            stdout: String::from_utf8(stdout).expect("stdout is UTF-8"),
            stderr: self.said.all().join("\n"),
            peak_memory_kib: peak,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.stdout.is_some() {
            kill_hard(self.child.id());
            let _ = self.child.wait();
        }
    }
}

impl Outcome {
    /// Panics with all that was said unless it ended with this exit code.
    #[track_caller]
    pub fn expect_code(&self, code: i32) {
        assert_eq!(self.status.code(), Some(code), "{}, not {code}\n{self}", self.status);
    }

    /// The document of `--json`.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is not JSON ({error})\n{self}"))
    }

    /// Panics unless this is an error as a user should meet it: nothing on stdout, one paragraph on stderr that
    /// contains all of `words`, no panic, and exit code 1.
    #[track_caller]
    pub fn expect_clear_error(&self, words: &[&str]) {
        assert_eq!(self.status.code(), Some(1), "exit code\n{self}");
        assert!(self.stdout.is_empty(), "stdout must be empty\n{self}");
        assert!(!self.stderr.contains("panicked"), "no panic\n{self}");
        let errors: Vec<_> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        let [error] = errors.as_slice() else { panic!("one line that starts with `error: `\n{self}") };
        for word in words {
            assert!(error.contains(word), "the error does not say “{word}”\n{self}");
        }
        // What happened is one sentence, the next step another.
        assert!(error.matches(". ").count() >= 1 && error.ends_with('.'), "no next step\n{self}");
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "── stdout ──\n{}\n── stderr ──\n{}", self.stdout, self.stderr)
    }
}

/// The program under test: `FLEET_TEST_FLEETCTL`, else the one built beside the tests.
pub fn fleetctl_binary() -> PathBuf {
    std::env::var_os("FLEET_TEST_FLEETCTL").map_or_else(|| binary("fleetctl"), PathBuf::from)
}

/// A program built beside the tests.
pub(crate) fn binary(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a path");
    let profile = tests.parent().and_then(Path::parent).expect("tests stand in TARGET/PROFILE/deps");
    let binary = profile.join(name);
    assert!(
        binary.is_file(),
        "no {}: run scripts/test, or cargo build -p fleet-client -p fleet-coordinator -p fleet-worker first",
        binary.display()
    );
    binary
}

/// Keeps the lines, and looks at the process's memory whenever there is one.
fn read_and_measure(stderr: impl Read, said: &Lines, pid: u32) -> u64 {
    let mut peak = 0;
    said.read_from(stderr, |_| {
        peak = peak.max(peak_memory_kib(pid).unwrap_or(0));
        true
    });
    peak
}
