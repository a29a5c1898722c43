//! Lines that one thread reads and others wait for.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A growing list of lines, shared by its clones.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Lines {
    /// No lines yet.
    pub fn new() -> Lines {
        Lines::default()
    }

    /// Reads lines until their end, or until `go_on` refuses one, which is not kept.
    pub fn read_from(&self, source: impl Read, mut go_on: impl FnMut(&str) -> bool) {
        let mut source = BufReader::new(source);
        let mut bytes = Vec::new();
        while source.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
            let line = String::from_utf8_lossy(&bytes);
            let line = line.strip_suffix('\n').unwrap_or(&line);
            if !go_on(line) {
                return;
            }
            self.seen().push(line.to_owned());
            self.shared.grown.notify_all();
            bytes.clear();
        }
    }

    /// Everything read so far.
    pub fn all(&self) -> Vec<String> {
        self.seen().clone()
    }

    /// The first line that `wanted` accepts, waiting for it until `patience` runs out.
    pub fn wait_for(&self, patience: Duration, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut seen = self.seen();
        loop {
            if let Some(line) = seen.iter().find(|line| wanted(line)) {
                return Some(line.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            seen = self.shared.grown.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn seen(&self) -> MutexGuard<'_, Vec<String>> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
