//! Processes that are not our children: finding those that belong to a daemon, ending them, waiting for
//! their end.
//!
//! Nix gives each connection and each builder a session of its own, so that the daemon's process group does
//! not hold them; they are found by what ties them to the daemon's directory. Never matches by name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Sends a signal; a process that is gone already is no error.
pub fn send_signal(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends a process at once.
pub fn kill_hard(pid: u32) {
    send_signal(pid, Signal::KILL);
}

/// Whether the process exists and is no zombie.
pub fn is_running(pid: u32) -> bool {
    stat_fields(pid).is_some_and(|fields| !matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

/// Waits for the end of a process, whoever's child it is; false when `patience` ran out first.
pub fn wait_until_gone(pid: u32, patience: Duration) -> bool {
    let Some(handle) = pid_of(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return true;
    };
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("a patience of less than centuries");
        let mut watched = [PollFd::new(&handle, PollFlags::IN)];
        match poll(&mut watched, Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) => {}
        }
    }
}

/// The most memory that the process has held so far, its children not counted.
pub fn peak_memory_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Processes started with `directory` in their environment, clients too, and all their descendants.
pub(crate) fn family_of(directory: &Path) -> BTreeSet<u32> {
    let needle = directory.as_os_str().as_encoded_bytes();
    let parents = parents();
    let roots = parents.keys().copied().filter(|&pid| pid != std::process::id());
    let roots = roots.filter(|&pid| mentions(pid, "environ", needle)).collect();
    with_descendants(roots, &parents)
}

/// A process and all its descendants.
pub(crate) fn tree_of(root: u32) -> BTreeSet<u32> {
    with_descendants(BTreeSet::from([root]), &parents())
}

fn with_descendants(mut family: BTreeSet<u32>, parents: &BTreeMap<u32, u32>) -> BTreeSet<u32> {
    loop {
        let children = parents.iter().filter(|(_, parent)| family.contains(parent)).map(|(&pid, _)| pid);
        let children: Vec<_> = children.filter(|pid| !family.contains(pid)).collect();
        if children.is_empty() {
            return family;
        }
        family.extend(children);
    }
}

/// Builders in the sandboxes of the daemon that lives in `directory`, orphaned ones too: what is mounted there comes
/// from it. How its path begins depends on the file system; its name is unique.
pub(crate) fn sandboxed_from(directory: &Path) -> BTreeSet<u32> {
    let name = directory.file_name().unwrap_or_default().as_encoded_bytes();
    let ours = fs::read_link("/proc/self/ns/mnt").ok();
    parents()
        .into_keys()
        .filter(|&pid| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() != ours)
        .filter(|&pid| is_running(pid) && mentions(pid, "mountinfo", name))
        .collect()
}

fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, stat_fields(pid)?.get(1)?.parse().ok()?))).collect()
}

/// The fields of /proc/PID/stat after the program's name: state, parent, and so on.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    Some(after_name.split_whitespace().map(str::to_owned).collect())
}

fn mentions(pid: u32, file: &str, needle: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/{file}"))
        .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}
