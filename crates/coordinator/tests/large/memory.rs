//! How much memory the coordinator has at most while something is done, as its kernel counts it.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use tokio::net::UnixStream;

use crate::running::Running;

/// What it may have more than when it was idle.
const GROWTH_KIB: u64 = 64 << 10;

pub(crate) struct Memory {
    process: PathBuf,
    idle_kib: u64,
}

impl Memory {
    /// From now on: it is idle.
    pub(crate) async fn of(running: &Running) -> Self {
        let socket = UnixStream::connect(running.socket()).await.expect("it listens");
        // Who bound the socket.
        let id = socket.peer_cred().ok().and_then(|peer| peer.pid()).expect("it has an id");
        let mut memory = Self { process: format!("/proc/{id}").into(), idle_kib: 0 };
        memory.idle_kib = memory.read("VmRSS:");
        memory
    }

    /// Does it, and fails if that took too much.
    pub(crate) async fn during<T>(&self, what: &str, doing: impl Future<Output = T>) -> T {
        // The peak begins again at what it has.
        std::fs::write(self.process.join("clear_refs"), "5").expect("the kernel counts pages");
        let began = Instant::now();
        let done = doing.await;
        let grown = self.read("VmHWM:").saturating_sub(self.idle_kib);
        let seconds = began.elapsed().as_secs_f64();
        let figures =
            format!("{what}: {grown} KiB above the {} KiB of idling, {seconds:.1} s", self.idle_kib);
        // Nobody may listen.
        let _ = writeln!(std::io::stderr(), "{figures}");
        assert!(grown < GROWTH_KIB, "{what} takes {grown} KiB more than idling, of at most {GROWTH_KIB}");
        done
    }

    fn read(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(self.process.join("status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is counted");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}
