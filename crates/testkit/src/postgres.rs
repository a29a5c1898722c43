//! A PostgreSQL server of a test's own, on a Unix socket and a loopback port, with its data in a temporary directory.
//!
//! The server refuses to run as root: it then runs as an unprivileged user, who owns the directory.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::installation::short_temp_dir;
use crate::lines::Lines;
use crate::process::{send_signal, wait_until_gone};

const MISSING: &str = "no PostgreSQL to test with: run scripts/test, or set FLEET_TEST_POSTGRES to a directory with \
                       initdb and postgres (scripts/ensure-postgres prints one)";
/// Nobody, on every Linux.
const UNPRIVILEGED: u32 = 65534;
const PATIENCE: Duration = Duration::from_mins(1);

/// A running server; dropping it ends it with all its sessions, and removes its data.
#[derive(Debug)]
pub struct PostgresServer {
    bin: PathBuf,
    port: u16,
    child: Child,
    directory: TempDir,
}

impl PostgresServer {
    /// Makes a database and starts its server; panics with what it said when it does not start.
    pub fn start() -> PostgresServer {
        let bin = find();
        let directory = short_temp_dir();
        if rustix::process::geteuid().is_root() {
            chown(directory.path(), Some(UNPRIVILEGED), Some(UNPRIVILEGED)).expect("the directory's owner");
        }
        let mut initdb = unprivileged(&bin.join("initdb"), directory.path());
        initdb.args([
            "--username=fleet",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--pgdata",
        ]);
        let made = initdb.arg(directory.path().join("data")).output().expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let child = spawn(&bin, directory.path(), port);
        PostgresServer { bin, port, child, directory }
    }

    /// Where it is, in the form `key=value …`, over its Unix socket.
    pub fn location(&self) -> String {
        format!("host={} port={} user=fleet dbname=postgres", self.directory.path().display(), self.port)
    }

    /// Where it listens on loopback.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Ends all sessions and stops the server, as an operator would.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Ends the server and everything that belongs to it without a warning.
    pub fn kill(&mut self) {
        // The server's own way of that: it kills its sessions, which would outlive a SIGKILL for a moment.
        self.end(Signal::QUIT);
    }

    /// Starts a server that was ended, on the same data and addresses.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.bin, self.directory.path(), self.port);
    }

    fn end(&mut self, signal: Signal) {
        send_signal(self.child.id(), signal);
        assert!(wait_until_gone(self.child.id(), PATIENCE), "the server does not stop");
        self.child.wait().expect("a child of ours");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            send_signal(self.child.id(), Signal::QUIT);
            let _ = self.child.wait();
        }
    }
}

/// `FLEET_TEST_POSTGRES`, else the newest of Debian's, else that on `PATH`.
fn find() -> PathBuf {
    let whole = |bin: &PathBuf| bin.join("initdb").is_file() && bin.join("postgres").is_file();
    if let Some(told) = env::var_os("FLEET_TEST_POSTGRES").map(PathBuf::from) {
        assert!(whole(&told), "{MISSING} (looked in {})", told.display());
        return told;
    }
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = debian.map(|version| version.path().join("bin")).filter(whole).max();
    let path = env::var_os("PATH").unwrap_or_default();
    debian.or_else(|| env::split_paths(&path).find(whole)).expect(MISSING)
}

fn spawn(bin: &Path, directory: &Path, port: u16) -> Child {
    let mut server = unprivileged(&bin.join("postgres"), directory);
    server.arg("-D").arg(directory.join("data")).arg("-p").arg(port.to_string());
    server.arg("-k").arg(directory);
    // Processes are killed here, machines are not: nothing needs to reach a disk.
    for setting in ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB", "max_connections=20"] {
        server.args(["-c", setting]);
    }
    let mut child = server.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("postgres starts");
    let lines = Lines::new();
    let log = child.stderr.take().expect("stderr is a pipe");
    let reader = lines.clone();
    thread::spawn(move || reader.read_from(log, |_| true));
    let ready =
        lines.wait_for(PATIENCE, |line| line.contains("database system is ready to accept connections"));
    assert!(ready.is_some(), "postgres does not start: {:#?}", lines.all());
    child
}

/// A program that may be run by anybody but root, in the C locale.
fn unprivileged(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).env("LC_ALL", "C").stdin(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    command
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a bound socket has an address").port()
}
