//! One archive of 10 GiB from worker to worker: how fast, and how much memory both ends in this process take for it.
//!
//! Run with `FLEET_TEST_NIX=$(scripts/ensure-nix) cargo bench -p fleet-benches --bench large [-- GIB]`. The stores are
//! on a disk with room for twice that. The bound is reading the sender's file once.
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "it prints, and divides byte counts")]

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use fleet_benches::workers::Workers;
use fleet_testkit::{DaemonOptions, NixDaemon};

/// A stretch of noise each, in a file of holes.
const NOISE_EVERY: u64 = 64 << 20;

fn main() {
    let gib: u64 = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(10);
    let place = tempfile::tempdir_in("/var/tmp").expect("a directory on a disk");
    let daemon = |name: &str| {
        let root = place.path().join(name);
        NixDaemon::start(&DaemonOptions { root: Some(root), ..DaemonOptions::default() })
    };
    let (sender, receiver) = (daemon("sender"), daemon("receiver"));
    let file = place.path().join("large");
    write(&file, gib << 30);
    let began = Instant::now();
    read(&file);
    let bound = began.elapsed();
    let path = sender.nix_stdout(["store", "add", "--mode", "nar", file.to_str().expect("a plain name")]);
    let workers = Workers::start(&sender);
    let before = memory("VmRSS");
    fs::write("/proc/self/clear_refs", "5").expect("the peak is forgotten");
    let began = Instant::now();
    let fetched = workers.copy(&receiver, workers.address(), Duration::ZERO, std::slice::from_ref(&path));
    let took = began.elapsed();
    receiver.nix_stdout(["path-info", &path]);
    println!(
        "{gib} GiB in {:.1} s, {:.1} times reading it once; {:.1} MiB on the wire; both ends together took {:.1} MiB \
         above the {:.1} MiB they had",
        took.as_secs_f64(),
        took.as_secs_f64() / bound.as_secs_f64(),
        fetched.from_peers as f64 / f64::from(1 << 20),
        (memory("VmHWM") - before) as f64 / 1024.0,
        before as f64 / 1024.0,
    );
}

fn write(path: &Path, length: u64) {
    let mut file = fs::File::create(path).expect("a file is made");
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for at in (0..length).step_by(usize::try_from(NOISE_EVERY).expect("it fits")) {
        file.seek(SeekFrom::Start(at)).expect("a place in the file");
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let noise: Vec<u8> = noise.take(64 << 10).flatten().collect();
        file.write_all(&noise).expect("a file is written");
    }
    file.set_len(length).expect("a file is written");
}

fn read(path: &Path) {
    let mut file = fs::File::open(path).expect("it was written");
    let mut buffer = vec![0; 1 << 20];
    while file.read(&mut buffer).expect("it is read") > 0 {}
}

/// A line of this process's status, KiB.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux says");
    let line = status.lines().find(|line| line.starts_with(name)).expect("it is among it");
    line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
}
