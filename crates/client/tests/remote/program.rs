//! The real fleetctl against a scripted coordinator: its streams, its signals, and a terminal for it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use fleet_testkit::{GitRepo, Lines, Signal, kill_hard, send_signal};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::scripted::{PATIENCE, Scripted};

/// A fleetctl that runs; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<()>>,
    said: Lines,
    terminal: Option<File>,
}

/// What it left.
#[derive(Debug)]
pub(crate) struct Outcome {
    status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("UTF-8")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A flake in a git repository; nobody evaluates it.
pub(crate) fn flake(coordinator: &Scripted) -> GitRepo {
    let mut repo = GitRepo::init(coordinator.scratch().join("fleet"));
    repo.write("flake.nix", "{ outputs = _: { }; }");
    repo.commit("first");
    repo
}

/// fleetctl in the flake's directory, if there is one, with nothing in its environment but the coordinator.
pub(crate) fn fleetctl(coordinator: &Scripted, arguments: &[&str]) -> Command {
    let mut command = bare(coordinator.scratch(), arguments);
    command.env("FLEET_COORDINATOR", coordinator.url());
    command
}

/// Without a coordinator.
pub(crate) fn bare(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetctl"));
    let fleet = scratch.join("fleet");
    command
        .args(arguments)
        .current_dir(if fleet.is_dir() { &fleet } else { scratch })
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", scratch)
        .stdin(Stdio::null());
    command
}

pub(crate) fn run(command: Command) -> Outcome {
    start(command).finish()
}

/// With pipes, as in a script.
pub(crate) fn start(mut command: Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("fleetctl starts");
    let err = child.stderr.take().expect("a pipe");
    running(child, err, None)
}

/// With a terminal for its input and its messages.
pub(crate) fn start_on_terminal(mut command: Command) -> Running {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).expect("a terminal of ours");
    unlockpt(&master).expect("a terminal that can be opened");
    let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("UTF-8");
    let open = || File::options().read(true).write(true).open(&name).expect("the other side");
    let (input, messages) = (open(), open());
    let child = command
        .env("TERM", "xterm")
        .stdin(input)
        .stderr(messages)
        .stdout(Stdio::piped())
        .spawn()
        .expect("fleetctl starts");
    drop(command);
    let master = File::from(master);
    let reader = master.try_clone().expect("a second handle");
    running(child, reader, Some(master))
}

fn running(mut child: Child, err: impl Read + Send + 'static, terminal: Option<File>) -> Running {
    let said = Lines::new();
    let mut out = child.stdout.take().expect("a pipe");
    let stdout = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = out.read_to_end(&mut bytes);
        bytes
    });
    let stderr = std::thread::spawn({
        let said = said.clone();
        // A question has no newline: its bracket ends what is waited for.
        move || said.read_from(Broken(err), |_| true)
    });
    Running { child, stdout: Some(stdout), stderr: Some(stderr), said, terminal }
}

/// Ends a line after each `]`, so that a question without a newline is a line, too.
struct Broken<R>(R);

impl<R: Read> Read for Broken<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let half = buffer.len() / 2;
        let read = self.0.read(&mut buffer[..half.max(1)])?;
        let text: Vec<u8> = buffer[..read]
            .iter()
            .flat_map(|&byte| if byte == b']' { vec![b']', b'\n'] } else { vec![byte] })
            .take(buffer.len())
            .collect();
        buffer[..text.len()].copy_from_slice(&text);
        Ok(text.len())
    }
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(self.child.id(), signal);
    }

    #[track_caller]
    pub(crate) fn wait_until_it_says(&self, text: &str) {
        let said = self.said.wait_for(PATIENCE, |line| line.contains(text));
        assert!(said.is_some(), "it never says “{text}”:\n{}", self.said.all().join("\n"));
    }

    pub(crate) fn type_in(&mut self, text: &str) {
        self.terminal.as_mut().expect("it has a terminal").write_all(text.as_bytes()).expect("typed");
    }

    pub(crate) fn finish(mut self) -> Outcome {
        let status = self.child.wait().expect("waited for once");
        let stdout = self.stdout.take().expect("finished once").join().expect("read");
        self.stderr.take().expect("finished once").join().expect("read");
        Outcome { status, stdout, stderr: self.said.all().join("\n") }
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
