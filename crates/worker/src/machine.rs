//! How this machine is: load, pressure, memory, disks, by what its kernel tells. What it does not tell is 0.

use std::path::{Path, PathBuf};

use fleet_wire::v1;

/// Directories whose disks matter.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) store: PathBuf,
    pub(crate) build: PathBuf,
}

/// Room on the disk of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) total: u64,
    pub(crate) free: u64,
    /// Files that can still be made; none where that has no bound.
    pub(crate) free_files: Option<u64>,
    pub(crate) is_read_only: bool,
}

/// Names one start of this machine.
pub(crate) fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Everything but what only the worker knows of itself.
pub(crate) fn read(places: &Places) -> v1::Heartbeat {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let pressure = |what: &str| some_avg10(&text(&format!("/proc/pressure/{what}")));
    let memory = text("/proc/meminfo");
    let (store, build) = (disk(&places.store), disk(&places.build));
    v1::Heartbeat {
        load1: first_number(&text("/proc/loadavg")),
        cpu_pressure: pressure("cpu"),
        memory_pressure: pressure("memory"),
        io_pressure: pressure("io"),
        memory_total: kibibytes(&memory, "MemTotal:"),
        memory_available: kibibytes(&memory, "MemAvailable:"),
        store_total: store.map_or(0, |disk| disk.total),
        store_free: store.map_or(0, |disk| disk.free),
        build_total: build.map_or(0, |disk| disk.total),
        build_free: build.map_or(0, |disk| disk.free),
        ..v1::Heartbeat::default()
    }
}

/// Room for a directory; that of the nearest one above it when it does not exist yet.
pub(crate) fn disk(directory: &Path) -> Option<Disk> {
    let existing = directory.ancestors().find(|ancestor| ancestor.exists())?;
    let system = rustix::fs::statvfs(existing).ok()?;
    Some(Disk {
        total: system.f_blocks.saturating_mul(system.f_frsize),
        free: system.f_bavail.saturating_mul(system.f_frsize),
        free_files: (system.f_files > 0).then_some(system.f_favail),
        is_read_only: system.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY),
    })
}

/// Processes that the kernel has killed for want of memory since it started.
pub(crate) fn oom_kills() -> u64 {
    field(&std::fs::read_to_string("/proc/vmstat").unwrap_or_default(), "oom_kill ")
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// The share of the last 10 s in which something waited, percent.
fn some_avg10(text: &str) -> f64 {
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let average =
        some.and_then(|line| line.split_whitespace().find_map(|field| field.strip_prefix("avg10=")));
    average.and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn kibibytes(text: &str, name: &str) -> u64 {
    field(text, name).saturating_mul(1024)
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read_and_strange_ones_are_zero() {
        let pressure =
            "some avg10=1.53 avg60=0.87 avg300=0.73 total=58\nfull avg10=0.0 avg60=0 avg300=0 total=9\n";
        assert!((some_avg10(pressure) - 1.53).abs() < 1e-9);
        assert_eq!(kibibytes("MemTotal:       16384 kB\nMemFree: 1 kB\n", "MemTotal:"), 16 << 20);
        assert_eq!(field("oom_kill_disable 7\noom_kill 3\n", "oom_kill "), 3);
        assert!((first_number("0.11 0.19 0.97 1/200 3") - 0.11).abs() < 1e-9);
        for strange in ["", "some", "some avg10=x", "MemTotal:", "MemTotal: many kB"] {
            assert!(some_avg10(strange).abs() < 1e-9);
            assert_eq!(kibibytes(strange, "MemTotal:"), 0);
        }
    }

    #[test]
    fn a_directory_that_is_not_there_yet_has_the_room_of_what_is_above_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let there = disk(directory.path()).expect("a disk");
        let not_there = disk(&directory.path().join("a/b")).expect("a disk");
        assert_eq!((there.total, there.is_read_only), (not_there.total, false));
        assert!(there.total > 0);
    }
}
