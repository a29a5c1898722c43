//! What must outlive the process: one small interface, and the file behind it. Owns `journal/` of the state
//! directory: one file of JSON lines for each start, so that several embedded coordinators never write to
//! the same file. Old files are removed when there are too many.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use fleet_core::{Decision, Effect, Event, LeasedStep, Notice, Record};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Starts of the coordinator that are remembered.
const KEPT_FILES: usize = 200;
/// Longest line that is read back, bytes; what follows a longer one is not read.
const MAX_LINE: u64 = 1 << 20;

/// Why the journal cannot be used.
#[derive(Debug, Error)]
#[error("cannot {verb} the journal {path}")]
pub struct JournalError {
    verb: &'static str,
    path: String,
    source: std::io::Error,
}

impl JournalError {
    #[cfg(test)]
    pub(crate) fn new(verb: &'static str, path: &Path, source: std::io::Error) -> Self {
        failed(verb, path)(source)
    }
}

/// Facts that survive.
pub(crate) trait Journal: Send {
    /// Makes a batch durable before it returns.
    fn append(&mut self, batch: &[Fact]) -> Result<(), JournalError>;
}

/// A record with the names people use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub(crate) enum Fact {
    /// A run began.
    RunSubmitted { run: String },
    /// A target ended; `drv` is where a person would look for a log.
    TargetSettled { run: String, host: String, side: String, status: String, drv: Option<String> },
    /// An attempt began.
    AttemptStarted { drv: String, attempt: u32 },
    /// An attempt ended.
    AttemptEnded { drv: String, attempt: u32, status: String },
    /// A run ended.
    RunFinished { run: String, outcome: String },
}

impl Fact {
    /// The facts that an effect makes; `run_name` names runs.
    pub(crate) fn of(effect: &Effect, run_name: impl Fn(fleet_core::RunId) -> String) -> Vec<Self> {
        match effect {
            Effect::Append(Record::Happened { event: Event::RunSubmitted { run, .. }, .. }) => {
                vec![Self::RunSubmitted { run: run_name(*run) }]
            }
            Effect::Append(Record::Decided(Decision::LeaseGranted { steps, .. })) => {
                let began =
                    |step: &LeasedStep| Self::AttemptStarted { drv: step.drv.to_string(), attempt: step.attempt };
                steps.iter().map(began).collect()
            }
            Effect::Notify(run, notice) => Self::of_notice(run_name(*run), notice).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn of_notice(run: String, notice: &Notice) -> Option<Self> {
        Some(match notice {
            Notice::StepFinished { drv, attempt, status, .. } if *attempt > 0 => {
                Self::AttemptEnded { drv: drv.to_string(), attempt: *attempt, status: format!("{status:?}") }
            }
            Notice::TargetSettled { target, settled } => {
                let failed = settled.failure.as_ref().and_then(|failure| failure.drv.as_ref());
                Self::TargetSettled {
                    run,
                    host: target.host.name.to_string(),
                    side: format!("{:?}", target.side),
                    status: format!("{:?}", settled.status),
                    drv: failed.or(settled.drv.as_ref()).map(ToString::to_string),
                }
            }
            Notice::Finished(finished) => {
                Self::RunFinished { run, outcome: format!("{:?}", finished.outcome) }
            }
            _ => return None,
        })
    }
}

/// JSON lines in a directory.
#[derive(Debug)]
pub(crate) struct FileJournal {
    path: PathBuf,
    file: File,
}

impl FileJournal {
    /// Opens a new file named `start` in `directory`, which is created.
    pub(crate) fn open(directory: &Path, start: &str) -> Result<Self, JournalError> {
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
}

impl Journal for FileJournal {
    fn append(&mut self, batch: &[Fact]) -> Result<(), JournalError> {
        let mut lines = Vec::new();
        for fact in batch {
            serde_json::to_writer(&mut lines, fact)
                .map_err(|error| failed("write", &self.path)(std::io::Error::from(error)))?;
            lines.push(b'\n');
        }
        self.file.write_all(&lines).map_err(failed("write", &self.path))?;
        // An embedded coordinator has nothing to re-adopt, so only what people look up later must reach the disk.
        if batch.iter().any(|fact| matches!(fact, Fact::RunFinished { .. })) {
            self.file.sync_data().map_err(failed("sync", &self.path))?;
        }
        Ok(())
    }
}

/// What each start of the coordinator kept, newest start first, each in order. Read as it is asked for.
pub(crate) fn newest_first(directory: &Path) -> Result<impl Iterator<Item = Vec<Fact>>, JournalError> {
    Ok(files(directory)?.into_iter().filter_map(|path| File::open(path).ok()).map(read))
}

fn read(file: File) -> Vec<Fact> {
    let (mut file, mut line, mut facts) = (BufReader::new(file), Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = (&mut file).take(MAX_LINE).read_until(b'\n', &mut line);
        // A torn last line is what a killed process leaves; it holds no finished fact.
        if !read.is_ok_and(|read| read > 0) || line.last() != Some(&b'\n') {
            return facts;
        }
        facts.extend(serde_json::from_slice::<Fact>(&line).ok());
    }
}

/// Newest first.
fn files(directory: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let entries = std::fs::read_dir(directory).map_err(failed("list", directory))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "jsonl")).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    Ok(files)
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> JournalError {
    let path = path.display().to_string();
    move |source| JournalError { verb, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_and_a_torn_line_hides_nothing() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let facts = [
            Fact::RunSubmitted { run: "r1".into() },
            Fact::RunFinished { run: "r1".into(), outcome: "Succeeded".into() },
        ];
        let mut journal = FileJournal::open(directory.path(), "0001").expect("opens");
        journal.append(&facts).expect("appends");
        journal.file.write_all(b"{\"fact\":\"run_sub").expect("tears");
        let kept: Vec<_> = newest_first(directory.path()).expect("loads").collect();
        assert_eq!(kept, [facts]);
    }

    #[test]
    fn bytes_that_are_no_text_and_endless_lines_are_survived() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let fact = Fact::RunSubmitted { run: "r1".into() };
        let mut journal = FileJournal::open(directory.path(), "0001").expect("opens");
        journal.file.write_all(b"\xff\xfe\n").expect("writes");
        journal.append(std::slice::from_ref(&fact)).expect("appends");
        journal.file.write_all(&vec![b'x'; 3 << 20]).expect("writes");
        let kept: Vec<_> = newest_first(directory.path()).expect("loads").collect();
        assert_eq!(kept, [[fact]]);
    }

    #[test]
    fn a_full_disk_is_named_with_the_journal() {
        let file = OpenOptions::new().append(true).open("/dev/full").expect("opens");
        let mut journal = FileJournal { path: "/state/journal/1.jsonl".into(), file };
        let error = journal.append(&[Fact::RunSubmitted { run: "r1".into() }]).expect_err("full");
        assert_eq!(error.to_string(), "cannot write the journal /state/journal/1.jsonl");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("No space left"), "{cause}");
    }
}
