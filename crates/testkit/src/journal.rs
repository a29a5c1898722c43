//! What builders say from inside the sandbox: a pipe that the sandbox shows as `/journal`.
//!
//! A builder that writes its name there tells a test, without any polling, that it runs now, and leaves
//! independent evidence of how often it ran.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lines::Lines;

/// The last line of every journal, written by its owner to end the reading thread.
const END: &str = "\u{4}end of journal";

/// Lines that builders wrote, in the order in which they arrived.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    lines: Lines,
    reader: Option<JoinHandle<()>>,
}

impl Journal {
    pub(crate) fn start(path: &Path) -> Journal {
        let made = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success(), "mkfifo {} failed", path.display());
        // Build users of a multi-user daemon write here too.
        fs::set_permissions(path, Permissions::from_mode(0o666)).expect("the journal's mode");
        // Open for both: no writer ever waits for a reader, no reader ever sees an end.
        let pipe = OpenOptions::new().read(true).write(true).open(path).expect("the journal opens");
        let lines = Lines::new();
        let reader = thread::spawn({
            let lines = lines.clone();
            move || lines.read_from(pipe, |line| line != END)
        });
        Journal { path: path.to_owned(), lines, reader: Some(reader) }
    }

    /// Everything written so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.all()
    }

    /// The first line that `wanted` accepts, waiting for it until `patience` runs out.
    pub fn wait_for(&self, patience: Duration, wanted: impl Fn(&str) -> bool) -> Option<String> {
        self.lines.wait_for(patience, wanted)
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
