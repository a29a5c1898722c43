//! What builders say from inside the sandbox: a pipe that the sandbox shows as `/journal`.
//!
//! A builder that writes its name there tells a test, without any polling, that it runs now, and leaves
//! independent evidence of how often it ran.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The last line of every journal, written by its owner to end the reading thread.
const END: &str = "\u{4}end of journal";

/// Lines that builders wrote, in the order in which they arrived.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    lines: Arc<Lines>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Lines {
    seen: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Journal {
    pub(crate) fn start(path: &Path) -> Journal {
        let made = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success(), "mkfifo {} failed", path.display());
        // Build users of a multi-user daemon write here too.
        std::fs::set_permissions(path, Permissions::from_mode(0o666)).expect("the journal's mode");
        // Open for both: no writer ever waits for a reader, no reader ever sees an end.
        let pipe = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("the journal opens");
        let lines = Arc::new(Lines::default());
        let reader = thread::spawn({
            let lines = Arc::clone(&lines);
            move || read_lines(pipe, &lines)
        });
        Journal {
            path: path.to_owned(),
            lines,
            reader: Some(reader),
        }
    }

    /// Everything written so far.
    pub fn lines(&self) -> Vec<String> {
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
            seen = self
                .lines
                .grown
                .wait_timeout(seen, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn seen(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let told = OpenOptions::new().read(true).write(true).open(&self.path);
        if let (Ok(mut pipe), Some(reader)) = (told, self.reader.take())
            && writeln!(pipe, "{END}").is_ok()
        {
            let _ = reader.join();
        }
    }
}

fn read_lines(pipe: File, lines: &Lines) {
    for line in BufReader::new(pipe).lines() {
        match line {
            Ok(line) if line == END => return,
            Ok(line) => {
                lines
                    .seen
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(line);
                lines.grown.notify_all();
            }
            Err(_) => return,
        }
    }
}
