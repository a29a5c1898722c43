//! A whole installation on one machine: a coordinator process, worker processes enrolled over TLS, each with a Nix
//! daemon and a store of its own, and fleetctl as their client.
//!
//! Owns the processes and their directories; dropping it ends and removes all of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fleet_testkit::{DaemonOptions, NixDaemon, Signal, short_temp_dir};
use tempfile::TempDir;

use crate::namespace::{self, DAEMON_SETTING};
use crate::program::{Fleetctl, Running, binary, start};

/// How long a program may take to say what is waited for.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What a farm's coordinator and workers are told beyond their places.
#[derive(Clone, Debug, Default)]
pub struct FarmOptions {
    /// Further lines of coordinator.toml.
    pub coordinator: String,
    /// Further lines of every worker.toml.
    pub worker: String,
    /// Further variables of the coordinator and of every worker.
    pub environment: Vec<(String, String)>,
}

/// The installation.
#[derive(Debug)]
pub struct Farm {
    directory: TempDir,
    options: FarmOptions,
    port: u16,
    coordinator: Option<Running>,
    workers: BTreeMap<String, FarmWorker>,
    starts: u32,
}

/// One worker and its daemon.
#[derive(Debug)]
pub struct FarmWorker {
    /// Its Nix.
    pub daemon: NixDaemon,
    program: Option<Running>,
    state: PathBuf,
    url: String,
}

impl Farm {
    /// Starts a coordinator.
    pub fn start(options: FarmOptions) -> Farm {
        let mut farm = Farm {
            directory: short_temp_dir(),
            options,
            port: free_port(),
            coordinator: None,
            workers: BTreeMap::new(),
            starts: 0,
        };
        farm.write_configuration();
        farm.start_coordinator();
        farm
    }

    /// Where its state lives.
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The socket for clients of this machine.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    /// The TCP port that workers connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that workers connect to, unless they are told another.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> PathBuf {
        let scratch = self.directory.path().join("scratch");
        fs::create_dir_all(&scratch).expect("a scratch directory");
        scratch
    }

    fn write_configuration(&self) {
        let text = format!(
            "state_dir = \"{}\"\nsocket = \"{}\"\nlisten = \"127.0.0.1:{}\"\n{}\n",
            self.state().display(),
            self.socket().display(),
            self.port,
            self.options.coordinator
        );
        fs::write(self.configuration(), text).expect("coordinator.toml is written");
    }

    /// Its coordinator.toml.
    pub fn configuration(&self) -> PathBuf {
        self.directory.path().join("coordinator.toml")
    }

    /// Starts the coordinator on the state that is there, and waits until it listens.
    pub fn start_coordinator(&mut self) {
        self.starts += 1;
        let running =
            start(self.coordinator_command(["--config".as_ref(), self.configuration().as_os_str()]));
        running.wait_until_it_says("listening", PATIENCE);
        self.coordinator = Some(running);
    }

    /// A command line of fleet-coordinator.
    pub fn coordinator_command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = program("fleet-coordinator", self.directory.path());
        command.args(arguments).envs(self.options.environment.iter().cloned());
        command
    }

    /// The coordinator that runs.
    pub fn coordinator(&self) -> &Running {
        self.coordinator.as_ref().expect("the coordinator runs")
    }

    /// Ends the coordinator with a signal and waits for its end.
    pub fn end_coordinator(&mut self, signal: Signal) {
        let running = self.coordinator.take().expect("the coordinator runs");
        running.signal(signal);
        assert!(running.ends_within(PATIENCE), "the coordinator does not end");
        running.finish();
    }

    /// Enrols and starts a worker with a daemon of its own. It is granted these systems; its daemon, which runs any
    /// shell script, claims them all.
    pub fn add_worker(&mut self, name: &str, systems: &[&str], slots: u32) {
        self.add_worker_with(name, systems, slots, "");
    }

    /// The same, with further lines of its worker.toml.
    pub fn add_worker_with(&mut self, name: &str, systems: &[&str], slots: u32, lines: &str) {
        let url = self.url();
        let lines = format!("{}{lines}", reachable());
        self.install_worker(name, systems, slots, &url, DaemonOptions::default(), &lines);
    }

    /// The same, where no other worker reaches it.
    pub fn add_hidden_worker(&mut self, name: &str, systems: &[&str], slots: u32) {
        let url = self.url();
        self.install_worker(name, systems, slots, &url, DaemonOptions::default(), "");
    }

    /// The same, at another address, such as a proxy's, and with other options of the daemon.
    pub fn add_worker_at(
        &mut self,
        name: &str,
        systems: &[&str],
        slots: u32,
        url: &str,
        options: DaemonOptions,
    ) {
        self.install_worker(name, systems, slots, url, options, &reachable());
    }

    fn install_worker(
        &mut self,
        name: &str,
        systems: &[&str],
        slots: u32,
        url: &str,
        mut options: DaemonOptions,
        lines: &str,
    ) {
        options.extra_platforms = systems.iter().map(|system| (*system).to_owned()).collect();
        if namespace::is_inside() {
            options.settings.push((DAEMON_SETTING.0.to_owned(), DAEMON_SETTING.1.to_owned()));
        }
        let daemon = NixDaemon::start(&options);
        let state = self.directory.path().join(name);
        fs::create_dir_all(&state).expect("a state directory");
        let configuration = format!(
            "state_dir = \"{}\"\nstore = \"{}\"\nslots = {slots}\nnix = \"{}\"\ncoordinator = \"{url}\"\n\
             collect_below_bytes = 0\n{lines}{}\n",
            state.display(),
            daemon.store_uri(),
            daemon.nix_bin().display(),
            self.options.worker
        );
        fs::write(state.join("worker.toml"), configuration).expect("worker.toml is written");
        self.enrol(name, systems, &state, &daemon);
        let worker = FarmWorker { daemon, program: None, state, url: url.to_owned() };
        self.workers.insert(name.to_owned(), worker);
        self.start_worker(name);
    }

    fn enrol(&self, name: &str, systems: &[&str], state: &Path, daemon: &NixDaemon) {
        let granted = systems.iter().flat_map(|system| ["--system", system]);
        let token = self.fleetctl().args(["worker", "token", "--name", name]).args(granted).run();
        token.expect_code(0);
        let file = state.join("token");
        fs::write(&file, token.stdout.trim()).expect("the token is written");
        let mut enroll = program("fleet-worker", self.directory.path());
        daemon.configure(&mut enroll);
        enroll.arg("--config").arg(state.join("worker.toml")).arg("enroll").arg("--token-file").arg(&file);
        // At the coordinator itself, whatever the worker connects to later.
        enroll.arg("--coordinator").arg(self.url());
        start(enroll).finish().expect_code(0);
    }

    /// Starts an enrolled worker and waits until it has its session.
    pub fn start_worker(&mut self, name: &str) {
        let worker = &self.workers[name];
        let mut command = program("fleet-worker", self.directory.path());
        worker.daemon.configure(&mut command);
        command.envs(self.options.environment.iter().cloned());
        command.arg("--config").arg(worker.state.join("worker.toml")).arg("run");
        let running = start(command);
        running.wait_until_it_says("session", PATIENCE);
        self.workers.get_mut(name).expect("the worker is known").program = Some(running);
    }

    /// Starts another machine with a copy of a worker's state, as whoever stole its backup would.
    pub fn clone_worker(&self, name: &str, options: &DaemonOptions) -> (NixDaemon, Running) {
        let worker = &self.workers[name];
        let daemon = NixDaemon::start(options);
        let state = self.directory.path().join(format!("{name}-clone"));
        let copied = Command::new("cp").arg("-a").arg(&worker.state).arg(&state).status().expect("cp starts");
        assert!(copied.success(), "the state is copied");
        let settings = fs::read_to_string(worker.state.join("worker.toml")).expect("its settings");
        // The port is the first one's: on another machine it would be free.
        let settings: String = settings
            .lines()
            .filter(|line| !line.starts_with("peer_"))
            .flat_map(|line| [line, "\n"])
            .collect();
        fs::write(state.join("worker.toml"), settings).expect("worker.toml is written");
        let mut command = program("fleet-worker", self.directory.path());
        daemon.configure(&mut command);
        command.arg("--config").arg(state.join("worker.toml")).arg("--state-dir").arg(&state);
        command.arg("--store").arg(daemon.store_uri()).arg("run");
        (daemon, start(command))
    }

    /// A worker.
    pub fn worker(&self, name: &str) -> &FarmWorker {
        &self.workers[name]
    }

    /// A worker's Nix daemon, to be restarted.
    pub fn daemon_of(&mut self, name: &str) -> &mut NixDaemon {
        &mut self.workers.get_mut(name).expect("the worker is known").daemon
    }

    /// A worker as `fleetctl worker ls` shows it; null when it does not.
    pub fn listed(&self, name: &str) -> serde_json::Value {
        let listed = self.fleetctl().args(["worker", "ls", "--json"]).run();
        listed.expect_code(0);
        let document = listed.json();
        let mut workers = document["workers"].as_array().into_iter().flatten();
        workers.find(|listed| listed["name"] == name).cloned().unwrap_or_default()
    }

    /// Ends a worker's program with a signal and waits for its end; its daemon stays.
    pub fn end_worker(&mut self, name: &str, signal: Signal) {
        let worker = self.workers.get_mut(name).expect("the worker is known");
        let running = worker.program.take().expect("the worker runs");
        running.signal(signal);
        assert!(running.ends_within(PATIENCE), "the worker does not end");
        running.finish();
    }

    /// Ends a worker's program and its daemon, and forgets both: the machine is gone.
    pub fn lose_machine(&mut self, name: &str) -> Vec<String> {
        let worker = self.workers.remove(name).expect("the worker is known");
        worker.daemon.journal().lines()
    }

    /// fleetctl as a client of this coordinator over its socket.
    pub fn fleetctl(&self) -> Fleetctl {
        Fleetctl::remote(&format!("unix://{}", self.socket().display()), &self.scratch())
    }

    /// What builders wrote to the journals of all daemons that are there, by worker.
    pub fn built(&self) -> BTreeMap<String, Vec<String>> {
        let lines = |worker: &FarmWorker| worker.daemon.journal().lines();
        self.workers.iter().map(|(name, worker)| (name.clone(), lines(worker))).collect()
    }

    /// Panics when two builders, wherever they ran, built the same output.
    #[track_caller]
    pub fn expect_nothing_built_twice(&self) {
        let mut seen = std::collections::BTreeSet::new();
        for (worker, lines) in self.built() {
            for line in lines {
                assert!(seen.insert(line.clone()), "built twice, the second time on {worker}: {line}");
            }
        }
    }
}

impl FarmWorker {
    /// The program; panics when it was ended.
    pub fn program(&self) -> &Running {
        self.program.as_ref().expect("the worker runs")
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Where it connects to.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A program built beside the tests, with nothing of ours in its environment.
fn program(name: &str, directory: &Path) -> Command {
    let mut command = Command::new(binary(name));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .env("TMPDIR", directory)
        .env("LC_ALL", "C.UTF-8")
        .current_dir(directory);
    command
}

/// Lines of worker.toml with which other workers reach it.
fn reachable() -> String {
    let peer = format!("{}:{}", Ipv4Addr::LOCALHOST, free_port());
    format!("peer_listen = \"{peer}\"\npeer_addresses = [\"{peer}\"]\n")
}

/// A port that nobody listens on at the moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("a bound socket has an address").port()
}
