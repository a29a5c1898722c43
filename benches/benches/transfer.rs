//! One worker's paths to another: ours beside `nix copy` over ssh-ng:// and over an HTTP cache, on loopback, with and
//! without a distance between the two.
//!
//! Run with `FLEET_TEST_NIX=$(scripts/ensure-nix) FLEET_BENCH_SSHD=$(scripts/ensure-sshd) cargo bench -p fleet-benches
//! --bench transfer [-- ROUNDS]`. Each contender has a real Nix daemon with a fresh store as its receiver. Prints
//! seconds, bytes on the wire, and how many times as much the others take; asserts nothing about time.
#![allow(clippy::print_stdout, clippy::cast_precision_loss, reason = "it prints, and divides byte counts")]

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fleet_benches::line::Line;
use fleet_benches::ssh::SshServer;
use fleet_benches::workers::Workers;
use fleet_testkit::{BinaryCache, DaemonOptions, NixDaemon};

const SMALL_PATHS: usize = 200;
const LARGE: usize = 400 << 20;
/// Of the large path's second version: so many places, and how much of each is new.
const CHANGES: usize = 20;
const CHANGED: usize = LARGE / 20 / CHANGES;
const DELAYS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(50)];

fn main() {
    let rounds = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(2);
    let sender = Sender::start();
    println!(
        "{SMALL_PATHS} small paths; {} MiB; the same with 5 % changed. Best of {rounds} rounds. Added delay: of each byte, \
         there and back.\n",
        LARGE >> 20
    );
    println!(
        "{:<10} {:<7} {:<11} {:>8} {:>12} {:>7} {:>7}",
        "delay", "what", "how", "s", "bytes", "time", "bytes"
    );
    for delay in DELAYS {
        let mut best: Vec<[Option<Copied>; 3]> = Vec::new();
        for _ in 0..rounds {
            for (at, contender) in sender.contenders.iter().enumerate() {
                let measured = measure(&sender, contender.as_ref(), delay);
                if best.len() <= at {
                    best.push([None; 3]);
                }
                for (best, measured) in best[at].iter_mut().zip(measured) {
                    *best = Some(best.map_or(measured, |earlier| earlier.min(measured)));
                }
            }
        }
        print(&sender, delay, &best);
    }
}

fn print(sender: &Sender, delay: Duration, best: &[[Option<Copied>; 3]]) {
    for (at, what) in ["small", "large", "changed"].into_iter().enumerate() {
        let ours = best[0][at];
        for (contender, copied) in sender.contenders.iter().zip(best) {
            let (Some(copied), Some(ours)) = (copied[at], ours) else { continue };
            println!(
                "{:<10} {what:<7} {:<11} {:>8.2} {:>12} {:>6.2}x {:>6.2}x",
                format!("{} ms", delay.as_millis()),
                contender.name(),
                copied.time.as_secs_f64(),
                copied.bytes,
                copied.time.as_secs_f64() / ours.time.as_secs_f64(),
                copied.bytes as f64 / ours.bytes as f64,
            );
        }
    }
}

/// One copy.
#[derive(Clone, Copy, Debug)]
struct Copied {
    time: Duration,
    bytes: u64,
}

impl Copied {
    fn min(self, other: Self) -> Self {
        if self.time <= other.time { self } else { other }
    }
}

/// A way of copying.
trait Contender {
    fn name(&self) -> &'static str;
    /// A line to where the receiver copies from.
    fn line(&self, delay: Duration) -> Line;
    /// Copies paths with their closures into the receiver's store.
    fn copy(&self, receiver: &NixDaemon, line: &Line, delay: Duration, paths: &[String]);
}

/// Small paths, then the large one, then its second version, into one fresh store.
fn measure(sender: &Sender, contender: &dyn Contender, delay: Duration) -> [Copied; 3] {
    let receiver = NixDaemon::start_default();
    let line = contender.line(delay);
    [&sender.small[..], &sender.large[..1], &sender.large[1..]].map(|paths| {
        line.take_passed();
        let began = Instant::now();
        contender.copy(&receiver, &line, delay, paths);
        let copied = Copied { time: began.elapsed(), bytes: line.take_passed() };
        receiver.nix_stdout(["path-info"].into_iter().chain(paths.iter().map(String::as_str)));
        copied
    })
}

/// Where everything comes from.
struct Sender {
    small: Vec<String>,
    /// Both versions.
    large: Vec<String>,
    contenders: Vec<Box<dyn Contender>>,
    daemon: NixDaemon,
}

impl Sender {
    fn start() -> Self {
        let daemon = NixDaemon::start(&DaemonOptions::default());
        let scratch = daemon.scratch();
        let add = |path: &Path| {
            let path = path.to_str().expect("a plain name");
            daemon.nix_stdout(["store", "add", "--mode", "nar", path])
        };
        let small = (0..SMALL_PATHS).map(|number| add(&write_small(&scratch, number))).collect();
        let large = ["data-1.0", "data-1.1"].map(|name| add(&write_large(&scratch, name))).to_vec();
        let mut sender = Self { small, large, contenders: Vec::new(), daemon };
        sender.contenders.push(Box::new(Ours(Workers::start(&sender.daemon))));
        sender.contenders.push(Box::new(HttpCache::start(&sender)));
        match std::env::var_os("FLEET_BENCH_SSHD").map(PathBuf::from) {
            None => {
                println!("without ssh-ng: FLEET_BENCH_SSHD names no sshd (scripts/ensure-sshd prints one)");
            }
            Some(sshd) => match SshServer::start(&sshd, &sender.daemon) {
                Ok(server) => sender.contenders.push(Box::new(SshNg(server))),
                Err(why) => println!("without ssh-ng: {why}"),
            },
        }
        sender
    }
}

/// A directory of a few files, as much configuration is.
fn write_small(scratch: &Path, number: usize) -> PathBuf {
    let directory = scratch.join(format!("small-{number}"));
    fs::create_dir(&directory).expect("a new directory");
    for file in 0..4 {
        let text = format!("{number} {file}\n").repeat(200 * (file + 1));
        fs::write(directory.join(format!("file-{file}")), text).expect("a file is written");
    }
    directory
}

/// Half noise and half what compresses well, a piece of each in turn. Versions differ in some places.
fn write_large(scratch: &Path, name: &str) -> PathBuf {
    let path = scratch.join(name);
    let mut file = BufWriter::new(fs::File::create(&path).expect("a file is made"));
    let is_second = name.ends_with("1.1");
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let mut other = Noise(0xD1B5_4A32_D192_ED03);
    let mut written = 0;
    while written < LARGE {
        let mut piece = noise.piece();
        let change = written / (LARGE / CHANGES);
        let is_changed = written - change * (LARGE / CHANGES) < CHANGED;
        if is_second && is_changed {
            piece = other.piece();
        }
        file.write_all(&piece).expect("a file is written");
        written += piece.len();
    }
    file.flush().expect("a file is written");
    path
}

/// A generator of Marsaglia's kind.
struct Noise(u64);

impl Noise {
    /// 8 KiB.
    fn piece(&mut self) -> Vec<u8> {
        let mut piece = Vec::with_capacity(8 << 10);
        while piece.len() < 4 << 10 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            piece.extend_from_slice(&self.0.to_le_bytes());
        }
        let line = format!("{:x} is a line of text like many others\n", self.0);
        piece.extend(line.bytes().cycle().take(4 << 10));
        piece
    }
}

/// Worker to worker.
struct Ours(Workers);

impl Contender for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn line(&self, delay: Duration) -> Line {
        Line::to(self.0.address(), delay)
    }

    fn copy(&self, receiver: &NixDaemon, line: &Line, delay: Duration, paths: &[String]) {
        self.0.copy(receiver, line.address(), 2 * delay, paths);
    }
}

/// `nix copy` over SSH.
struct SshNg(SshServer);

impl Contender for SshNg {
    fn name(&self) -> &'static str {
        "ssh-ng"
    }

    fn line(&self, delay: Duration) -> Line {
        Line::to(self.0.address(), delay)
    }

    fn copy(&self, receiver: &NixDaemon, line: &Line, _: Duration, paths: &[String]) {
        let mut copying = receiver.nix(["copy", "--no-check-sigs", "--from", &self.0.store_uri()]);
        copying.args(paths).env("NIX_SSHOPTS", self.0.options(line.address()));
        run(&mut copying);
    }
}

/// `nix copy` from a cache whose archives were compressed before.
struct HttpCache(BinaryCache);

impl HttpCache {
    fn start(sender: &Sender) -> Self {
        let cache = BinaryCache::start();
        let to = format!("file://{}?compression=zstd", cache.directory().display());
        let paths = sender.small.iter().chain(&sender.large).map(String::as_str);
        sender.daemon.nix_stdout(["copy", "--to", &to].into_iter().chain(paths));
        Self(cache)
    }
}

impl Contender for HttpCache {
    fn name(&self) -> &'static str {
        "http cache"
    }

    fn line(&self, delay: Duration) -> Line {
        let address = self.0.url();
        let address = address.trim_start_matches("http://").parse().expect("an address");
        Line::to(address, delay)
    }

    fn copy(&self, receiver: &NixDaemon, line: &Line, _: Duration, paths: &[String]) {
        let from = format!("http://{}", line.address());
        run(receiver.nix(["copy", "--no-check-sigs", "--from", &from]).args(paths));
    }
}

fn run(command: &mut std::process::Command) {
    let output = command.output().expect("the command starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
