//! A Nix daemon of a test's own, on a store of its own below a temporary directory.
//!
//! Its socket is bound before it is started and handed over, so that it is ready by construction. Its
//! configuration is complete: nothing of the machine's is read.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::installation::{NixInstallation, short_temp_dir};
use crate::journal::Journal;
use crate::options::DaemonOptions;
use crate::process;

/// A running daemon; dropping it ends it with all its connections and builders, and removes its store.
#[derive(Debug)]
pub struct NixDaemon {
    installation: NixInstallation,
    child: Child,
    journal: Journal,
    root: PathBuf,
    directory: TempDir,
}

impl NixDaemon {
    /// Starts a daemon and shakes hands with it; panics with its log when it does not answer.
    pub fn start(options: &DaemonOptions) -> NixDaemon {
        let installation = NixInstallation::find();
        let directory = short_temp_dir();
        let base = directory.path();
        let root = options.root.clone().unwrap_or_else(|| base.join("r"));
        for made in [&base.join("etc"), &base.join("home"), &root] {
            fs::create_dir_all(made).expect("a directory for the daemon");
        }
        let journal = Journal::start(&base.join("journal"));
        let configuration = options.configuration(&installation, base);
        fs::write(base.join("etc/nix.conf"), configuration).expect("nix.conf is written");
        let child = spawn(&installation, base, &root);
        let daemon = NixDaemon { installation, child, journal, root, directory };
        daemon.shake_hands();
        daemon
    }

    /// A trusting daemon without substituters.
    pub fn start_default() -> NixDaemon {
        NixDaemon::start(&DaemonOptions::default())
    }

    /// Starts the listening daemon again, after a test has ended it. Its connections and builders live on.
    pub fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        fs::remove_file(self.socket()).expect("the old socket is removed");
        self.child = spawn(&self.installation, self.directory.path(), &self.root);
        self.shake_hands();
    }

    /// The socket that clients connect to.
    pub fn socket(&self) -> PathBuf {
        socket_in(self.directory.path())
    }

    /// The directory that stands for `/`: the store is `ROOT/nix/store`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a store path such as `/nix/store/…` really is.
    pub fn physical(&self, store_path: &str) -> PathBuf {
        self.root.join(store_path.trim_start_matches('/'))
    }

    /// What `NIX_REMOTE` and `--store` take.
    pub fn store_uri(&self) -> String {
        format!("unix://{}?root={}", self.socket().display(), self.root.display())
    }

    /// A directory for the test's own files, gone with the daemon.
    pub fn scratch(&self) -> PathBuf {
        let scratch = self.directory.path().join("scratch");
        fs::create_dir_all(&scratch).expect("a scratch directory");
        scratch
    }

    /// The home that commands of [`NixDaemon::nix`] get.
    pub fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    /// The directory with the daemon's nix.conf, for `NIX_CONF_DIR`.
    pub fn conf_dir(&self) -> PathBuf {
        self.directory.path().join("etc")
    }

    /// The `nix` program that fits the daemon.
    pub fn nix_bin(&self) -> PathBuf {
        self.installation.nix()
    }

    /// The directory with `nix`, `nix-daemon`, `nix-store`.
    pub fn bin(&self) -> &Path {
        self.installation.bin()
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What builders wrote to `/journal`.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// What the daemon itself printed so far.
    pub fn log(&self) -> String {
        fs::read(self.directory.path().join("log"))
            .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Processes that build for this daemon right now.
    pub fn builders(&self) -> BTreeSet<u32> {
        process::sandboxed_from(self.directory.path())
    }

    /// The daemon's processes, one a connection, itself and builders included.
    pub fn processes(&self) -> BTreeSet<u32> {
        process::tree_of(self.pid())
    }

    /// A `nix` command for this daemon's store: empty environment, a home of its own.
    pub fn nix<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        self.command("nix", arguments)
    }

    /// Another program of the same Nix, such as `nix-store`.
    pub fn command<I, S>(&self, program: &str, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        let mut command = Command::new(self.installation.bin().join(program));
        self.configure(&mut command);
        command.args(arguments);
        command
    }

    /// Gives any command the environment of [`NixDaemon::nix`]: this store, this Nix first on `PATH`.
    pub fn configure(&self, command: &mut Command) {
        // `git` and `sh` come from the machine.
        let mut path = self.installation.bin().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.home())
            .env("NIX_REMOTE", self.store_uri())
            .env("NIX_CONF_DIR", self.conf_dir())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
    }

    /// Runs `nix` and gives its stdout without the last line end; panics with its stderr when it fails.
    pub fn nix_stdout<I, S>(&self, arguments: I) -> String
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        stdout_of(&mut self.nix(arguments))
    }

    /// Builds a Nix expression without flakes and gives its output paths.
    pub fn build_expression(&self, expression: &str) -> Vec<String> {
        let arguments = ["build", "--impure", "--no-link", "--print-out-paths", "--expr", expression];
        self.nix_stdout(arguments).lines().map(str::to_owned).collect()
    }

    /// Instantiates a Nix expression and gives the path of its derivation.
    pub fn instantiate(&self, expression: &str) -> String {
        let drv = stdout_of(&mut self.command("nix-instantiate", ["--expr", expression]));
        drv.split('!').next().unwrap_or(&drv).to_owned()
    }

    fn shake_hands(&self) {
        let failed = |why: String| -> ! { panic!("the Nix daemon does not answer ({why}):\n{}", self.log()) };
        let mut stream = match UnixStream::connect(self.socket()) {
            Ok(stream) => stream,
            Err(error) => failed(error.to_string()),
        };
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a read timeout");
        let mut reply = [0_u8; 8];
        let done = stream.write_all(&CLIENT_MAGIC.to_le_bytes()).and_then(|()| stream.read_exact(&mut reply));
        match done {
            Ok(()) if u64::from_le_bytes(reply) == DAEMON_MAGIC => {}
            Ok(()) => failed(format!("it sent {reply:?}")),
            Err(error) => failed(error.to_string()),
        }
    }
}

impl Drop for NixDaemon {
    fn drop(&mut self) {
        let mut doomed = process::family_of(self.directory.path());
        doomed.extend(process::sandboxed_from(self.directory.path()));
        let _ = self.child.kill();
        for &pid in &doomed {
            process::kill_hard(pid);
        }
        let _ = self.child.wait();
        for &pid in &doomed {
            process::wait_until_gone(pid, Duration::from_secs(5));
        }
        make_writable(&self.root);
    }
}

/// Runs a command and gives its stdout without the last line end; panics with its stderr when it fails.
fn stdout_of(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    assert!(status.success(), "{command:?} failed with {status}:\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("UTF-8 on stdout").trim_end().to_owned()
}

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;

fn socket_in(base: &Path) -> PathBuf {
    base.join("s")
}

/// Starts the daemon by socket activation, which takes the socket as descriptor 3.
fn spawn(installation: &NixInstallation, base: &Path, root: &Path) -> Child {
    let listener = UnixListener::bind(socket_in(base)).expect("the daemon's socket is bound");
    let log =
        File::options().create(true).append(true).open(base.join("log")).expect("the daemon's log is made");
    let script = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" --daemon"#;
    Command::new("/bin/sh")
        .args(["-c", script])
        .arg(installation.daemon())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", base.join("home"))
        .env("TMPDIR", base)
        .env("NIX_CONF_DIR", base.join("etc"))
        .env("NIX_REMOTE", format!("local?root={}", root.display()))
        .stdin(OwnedFd::from(listener))
        .stdout(log.try_clone().expect("the log is shared"))
        .stderr(log)
        .spawn()
        .expect("the Nix daemon starts")
}

/// Store paths are read-only; whoever removes the directory needs to write to it.
fn make_writable(directory: &Path) {
    let Ok(metadata) = fs::symlink_metadata(directory) else {
        return;
    };
    if !metadata.is_dir() {
        return;
    }
    let _ = fs::set_permissions(directory, Permissions::from_mode(0o700));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        make_writable(&entry.path());
    }
}
