//! Builders whose daemon died. Nobody waits for them any more, but they go on, and the next attempt at their step would
//! run beside them: they are found by what they were given for their step, and ended where this worker may do that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use fleet_nix::daemon::DaemonAddress;
use fleet_nix::store_path::{StoreDir, StorePath};
use rustix::process::{Pid, Signal, geteuid, kill_process};

/// How long processes may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
/// Parents followed upwards.
const MAX_DEPTH: usize = 64;

/// What a builder is known by.
#[derive(Debug)]
pub(crate) struct Traces {
    /// The directory that the sandbox is mounted from, as far as file systems agree on its name.
    sandbox: String,
    /// Values in the environment of one without a sandbox.
    outputs: Vec<String>,
}

/// What became of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// There were none.
    None,
    /// So many.
    All(usize),
    /// These go on.
    NotThese(Vec<i32>),
    /// This user cannot see them.
    Unknown,
}

impl Traces {
    pub(crate) fn of<'o>(
        address: &DaemonAddress,
        store: &StoreDir,
        drv: &StorePath,
        outputs: impl Iterator<Item = &'o StorePath>,
    ) -> Self {
        let sandbox = address.physical(store, drv);
        // A mount names its source from the root of its file system, wherever that is mounted.
        let components: Vec<_> = sandbox.iter().map(|part| part.to_string_lossy()).collect();
        let known = 3 + if address.root.is_some() { 2 } else { 0 };
        let tail = components[components.len().saturating_sub(known)..].join("/");
        let outputs = match address.root {
            // Other stores below other roots have the same names in them.
            Some(_) => Vec::new(),
            None => outputs.map(|output| format!("={}\0", store.print(output))).collect(),
        };
        Self { sandbox: format!("{tail}.chroot"), outputs }
    }

    fn are_of(&self, process: &Path) -> bool {
        let read = |file| fs::read(process.join(file)).unwrap_or_default();
        if contains(&read("mountinfo"), self.sandbox.as_bytes()) {
            return true;
        }
        let environment = read("environ");
        // A person's shell has the same variables.
        contains(&environment, b"NIX_BUILD_TOP=")
            && !contains(&environment, b"IN_NIX_SHELL=")
            && self.outputs.iter().any(|output| contains(&environment, output.as_bytes()))
    }
}

/// Waits for the end of a step's builders, and ends those that no daemon looks after.
pub(crate) async fn end(traces: &Traces) -> Ended {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut ended = BTreeSet::new();
    loop {
        let builders = find(traces);
        if builders.is_empty() {
            return match ended.len() {
                0 if !geteuid().is_root() => Ended::Unknown,
                0 => Ended::None,
                number => Ended::All(number),
            };
        }
        if tokio::time::Instant::now() > deadline {
            return Ended::NotThese(builders.into_iter().map(|builder| builder.pid).collect());
        }
        // A daemon that is about to die still looks alive, and one that lives ends its builders by itself.
        for builder in builders.into_iter().filter(|builder| !builder.is_looked_after) {
            if let Some(pid) = Pid::from_raw(builder.pid)
                && kill_process(pid, Signal::KILL).is_ok()
            {
                ended.insert(builder.pid);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Ended {
    /// For the report; nothing where nothing was to be done.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::All(number) => format!(" (its builder went on without it: {number} processes were ended)"),
            Self::NotThese(pids) => format!(
                " (its builder goes on without it, and this worker may not end it: processes {pids:?} on this machine)"
            ),
            Self::Unknown => {
                " (whether its builder goes on without it cannot be seen by this user)".to_owned()
            }
        }
    }
}

#[derive(Debug)]
struct Builder {
    pid: i32,
    is_looked_after: bool,
}

/// The step's builders.
fn find(traces: &Traces) -> Vec<Builder> {
    let processes = processes();
    let ours = i32::try_from(std::process::id()).unwrap_or_default();
    let pids = processes.keys().copied().filter(|pid| *pid != ours);
    let builders = pids.filter(|pid| traces.are_of(&Path::new("/proc").join(pid.to_string())));
    builders.map(|pid| Builder { pid, is_looked_after: is_looked_after(pid, &processes) }).collect()
}

#[derive(Debug)]
struct Process {
    parent: i32,
    is_daemon: bool,
}

fn is_looked_after(pid: i32, processes: &BTreeMap<i32, Process>) -> bool {
    let parent_of = |pid: &i32| processes.get(pid).map(|process| process.parent);
    let ancestors = std::iter::successors(parent_of(&pid), parent_of).take(MAX_DEPTH);
    ancestors.into_iter().any(|ancestor| processes.get(&ancestor).is_some_and(|process| process.is_daemon))
}

/// All living ones; none where there is no /proc.
fn processes() -> BTreeMap<i32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, process(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// From /proc/PID/stat; none for one that has ended.
fn process(stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    // Whatever belongs to Nix looks after its own builders: `nix daemon`, `nix build` on a local store, Lix.
    let is_daemon = name.starts_with("nix") || name.starts_with("lix");
    (!matches!(state, "Z" | "X")).then_some(Process { parent, is_daemon })
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_below_a_daemon_is_left_to_it() {
        let stat =
            |name: &str, parent: i32| process(&format!("7 ({name}) S {parent} 7 7 0 -1")).expect("alive");
        let mut processes = BTreeMap::from([
            (1, stat("init", 0)),
            (2, stat("nix-daemon", 1)),
            (3, stat("nix-daemon", 2)),
            (4, stat("sh) (", 3)),
            (5, stat("make", 4)),
        ]);
        assert!(is_looked_after(5, &processes));
        processes.insert(3, stat("nix", 1));
        assert!(is_looked_after(5, &processes), "a build without a daemon is its owner's");
        processes.insert(4, stat("sh", 1));
        assert!(!is_looked_after(5, &processes) && !is_looked_after(4, &processes));
        assert!(process("7 (sh) Z 1 7").is_none());
        processes.insert(8, stat("its own parent", 8));
        assert!(!is_looked_after(8, &processes), "and it ends");
    }
    /// Starts what looks like a builder of an output, in the background of a shell that ends or stays.
    fn builder(shell: &mut std::process::Command, output: &str, then: &str) -> (std::process::Child, i32) {
        let script = format!("(trap '' HUP; while :; do sleep 100; done) >/dev/null 2>&1 & echo $!; {then}");
        shell.args(["-c", &script]).env("NIX_BUILD_TOP", "/build").env("out", output);
        let mut child = shell.stdout(std::process::Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
        (child, line.trim().parse().expect("a number"))
    }

    fn exists(pid: i32) -> bool {
        processes().contains_key(&pid)
    }

    #[tokio::test]
    async fn an_orphan_is_ended_and_what_a_daemon_looks_after_is_not() {
        let store = StoreDir::default();
        let path = |name: &str| -> StorePath {
            format!("{:032}-orphan-{}-{name}", 0, std::process::id()).parse().expect("a path")
        };
        let (drv, output, other) = (path("x.drv"), path("x"), path("y"));
        let traces = Traces::of(&DaemonAddress::default(), &store, &drv, [&output].into_iter());
        assert_eq!(end(&traces).await, Ended::None);

        let mut shell = std::process::Command::new("/bin/sh");
        let (mut parent, orphan) = builder(&mut shell, &store.print(&output), "");
        parent.wait().expect("it was ours");
        let mut shell = std::process::Command::new("/bin/sh");
        let (mut parent, anothers) = builder(&mut shell, &store.print(&other), "");
        parent.wait().expect("it was ours");
        assert!(matches!(end(&traces).await, Ended::All(1..)));
        assert!(!exists(orphan) && exists(anothers));

        let mut shell = std::process::Command::new("/bin/sh");
        let (mut parent, persons) = builder(shell.env("IN_NIX_SHELL", "impure"), &store.print(&output), "");
        parent.wait().expect("it was ours");
        assert_eq!(find(&traces).len(), 0, "somebody works there");
        kill_process(Pid::from_raw(persons).expect("a number"), Signal::KILL).expect("it was there");

        // A shell by another name: what is below it has somebody who cares.
        let directory = tempfile::tempdir().expect("a directory");
        let daemon = directory.path().join("nix-daemon");
        std::os::unix::fs::symlink("/bin/sh", &daemon).expect("a link");
        let (mut daemon, child) =
            builder(&mut std::process::Command::new(daemon), &store.print(&output), "read x; wait");
        assert!(find(&traces).iter().any(|builder| builder.pid == child && builder.is_looked_after));
        daemon.kill().expect("it was ours");
        daemon.wait().expect("it was ours");
        assert!(matches!(end(&traces).await, Ended::All(1..)));
        assert!(!exists(child), "its daemon is dead: so it is an orphan");
        kill_process(Pid::from_raw(anothers).expect("a number"), Signal::KILL).expect("it was there");
    }
}
