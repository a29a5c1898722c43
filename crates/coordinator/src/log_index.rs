//! Which derivations stood for which host in earlier runs: what `fleetctl logs HOST` looks up. Owns `journal/` of the
//! state directory, one file of JSON lines for each start, so that several embedded coordinators never write to the
//! same file; old files are removed when there are too many. It is an index and no state: nothing is restored from
//! it, and losing it loses a way to find logs, not a log.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use fleet_core::{Settled, Target};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Starts of the coordinator that are remembered.
const KEPT_FILES: usize = 200;
/// Longest line that is read back, bytes; what follows a longer one is not read.
const MAX_LINE: u64 = 1 << 20;

/// Why the index cannot be used.
#[derive(Debug, Error)]
#[error("cannot {verb} the index of logs {path}")]
pub struct IndexError {
    verb: &'static str,
    path: String,
    source: std::io::Error,
}

/// What is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(crate) enum Fact {
    /// A target ended; `drv` is where a person would look for a log.
    TargetSettled { run: String, host: String, side: String, status: String, drv: Option<String> },
}

impl Fact {
    /// The fact of a target's end.
    pub(crate) fn settled(run: &str, target: &Target, settled: &Settled) -> Self {
        let failed = settled.failure.as_ref().and_then(|failure| failure.drv.as_ref());
        Self::TargetSettled {
            run: run.to_owned(),
            host: target.host.name.to_string(),
            side: format!("{:?}", target.side),
            status: format!("{:?}", settled.status),
            drv: failed.or(settled.drv.as_ref()).map(ToString::to_string),
        }
    }
}

/// JSON lines in a directory.
#[derive(Debug)]
pub(crate) struct LogIndex {
    path: PathBuf,
    file: File,
}

impl LogIndex {
    /// Opens a new file named `start` in `directory`, which is created.
    pub(crate) fn open(directory: &Path, start: &str) -> Result<Self, IndexError> {
        let path = directory.join(format!("{start}.jsonl"));
        std::fs::create_dir_all(directory).map_err(failed("create", directory))?;
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed("open", &path))?;
        for old in files(directory)?.iter().skip(KEPT_FILES) {
            match std::fs::remove_file(old) {
                // Another coordinator that starts now prunes too.
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("prune", old)(error)),
                _ => {}
            }
        }
        Ok(Self { path, file })
    }

    /// Adds facts.
    pub(crate) fn append(&mut self, facts: &[Fact]) -> Result<(), IndexError> {
        let mut lines = Vec::new();
        for fact in facts {
            serde_json::to_writer(&mut lines, fact)
                .map_err(|error| failed("write", &self.path)(std::io::Error::from(error)))?;
            lines.push(b'\n');
        }
        self.file.write_all(&lines).map_err(failed("write", &self.path))
    }
}

/// What each start of the coordinator kept, newest start first, each in order. Read as it is asked for.
pub(crate) fn newest_first(directory: &Path) -> Result<impl Iterator<Item = Vec<Fact>>, IndexError> {
    Ok(files(directory)?.into_iter().filter_map(|path| File::open(path).ok()).map(read))
}

fn read(file: File) -> Vec<Fact> {
    let (mut file, mut line, mut facts) = (BufReader::new(file), Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = (&mut file).take(MAX_LINE).read_until(b'\n', &mut line);
        // A torn last line is what a killed process leaves; it holds no whole fact.
        if !read.is_ok_and(|read| read > 0) || line.last() != Some(&b'\n') {
            return facts;
        }
        facts.extend(serde_json::from_slice::<Fact>(&line).ok());
    }
}

/// Newest first.
fn files(directory: &Path) -> Result<Vec<PathBuf>, IndexError> {
    let entries = std::fs::read_dir(directory).map_err(failed("list", directory))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "jsonl")).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    Ok(files)
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> IndexError {
    let path = path.display().to_string();
    move |source| IndexError { verb, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(host: &str) -> Fact {
        let (run, side, status) = ("r1".into(), "After".into(), "Built".into());
        Fact::TargetSettled { run, host: host.into(), side, status, drv: None }
    }

    #[test]
    fn facts_survive_and_a_torn_line_hides_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let facts = [fact("a"), fact("b")];
        let mut index = LogIndex::open(directory.path(), "0001").expect("opens");
        index.append(&facts).expect("appends");
        index.file.write_all(b"{\"fact\":\"target_set").expect("tears");
        let kept: Vec<_> = newest_first(directory.path()).expect("loads").collect();
        assert_eq!(kept, [facts]);
    }

    #[test]
    fn bytes_that_are_no_text_and_endless_lines_are_survived() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut index = LogIndex::open(directory.path(), "0001").expect("opens");
        index.file.write_all(b"\xff\xfe\n").expect("writes");
        index.append(&[fact("a")]).expect("appends");
        index.file.write_all(&vec![b'x'; 3 << 20]).expect("writes");
        let kept: Vec<_> = newest_first(directory.path()).expect("loads").collect();
        assert_eq!(kept, [[fact("a")]]);
    }

    #[test]
    fn a_full_disk_is_named_with_the_index() {
        let file = OpenOptions::new().append(true).open("/dev/full").expect("opens");
        let mut index = LogIndex { path: "/state/journal/1.jsonl".into(), file };
        let error = index.append(&[fact("a")]).expect_err("full");
        assert_eq!(error.to_string(), "cannot write the index of logs /state/journal/1.jsonl");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("No space left"), "{cause}");
    }
}
