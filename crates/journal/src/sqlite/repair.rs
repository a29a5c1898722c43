//! Repairs a damaged SQLite journal: what stands before the damage becomes the journal, the damaged files are moved
//! aside whole. Interrupted at any moment, it is finished by running it again; until then nothing opens the journal.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::chain::{Follower, Head, SCHEMA};
use crate::entry::{Entry, Loaded};
use crate::error::JournalError;
use crate::report::{Lost, RepairReport};
use crate::sqlite::files::{Files, exists, remove};
use crate::sqlite::inspect::{connect, inspect};
use crate::sqlite::lock::Lock;
use crate::sqlite::new;
use crate::sqlite::schema::check_versions;
use crate::sqlite::tables::{Rows, SELECT, read_head, unreadable};

/// Places for damaged files of one journal.
const MOST_ASIDE: u32 = 10_000;

/// Repairs the journal at `path`. A sound one is left as it is.
pub(crate) fn repair(path: &Path) -> Result<RepairReport, JournalError> {
    let files = Files::of(path);
    let lock = Lock::take(&files.lock)?;
    let place = match inspect(&files) {
        Ok(sound) if sound.schema < SCHEMA => return Ok(RepairReport::default()),
        Ok(sound) => return Ok(report(&read_head(&sound.connection)?, None)),
        Err(JournalError::Corrupt { place }) => place,
        Err(other) => return Err(other),
    };
    let until_seq = if exists(&files.repaired)? { None } else { salvage(&files, lock.witness.epoch)? };
    let aside = swap(&files)?;
    let head = read_head(&inspect(&files)?.connection)?;
    Ok(report(&head, Some(Lost { place, until_seq, aside })))
}

fn report(head: &Head, lost: Option<Lost>) -> RepairReport {
    RepairReport { kept: head.last_seq - head.base_seq, last_seq: head.last_seq, lost }
}

/// Makes `files.repaired` of what is sound. Tells the last number that the damaged journal knew of.
pub(super) fn salvage(files: &Files, known_epoch: u64) -> Result<Option<u64>, JournalError> {
    let known = Head::empty(0, known_epoch);
    let there = exists(&files.database)?;
    let connection = if there { unless_damaged(connect(files))? } else { None };
    let found = connection.as_ref().map(|connection| salvage_from(connection, files, &known)).transpose()?;
    if found.is_none() {
        new::make(files, known, &mut std::iter::empty())?;
    }
    drop(connection);
    new::put(&files.unfinished, &files.repaired, files)?;
    Ok(found.flatten().map(|head| head.last_seq))
}

/// Makes `files.unfinished`. Tells the damaged journal's head, if that is sound.
fn salvage_from(connection: &Connection, files: &Files, known: &Head) -> Result<Option<Head>, JournalError> {
    if unless_damaged(check_versions(connection))?.is_some_and(|schema| schema < SCHEMA) {
        return Err(JournalError::Unsupported("repairing a journal of an older program with this one"));
    }
    let found = unless_damaged(read_head(connection))?;
    match unless_damaged(connection.prepare(SELECT).map_err(unreadable))? {
        Some(mut select) => keep(files, found.as_ref(), known, Rows::of(&mut select)?)?,
        None => new::make(files, known.clone(), &mut std::iter::empty())?,
    }
    Ok(found)
}

/// Writes the entries up to the first that is lost or changed into `files.unfinished`.
fn keep(files: &Files, found: Option<&Head>, known: &Head, mut rows: Rows<'_>) -> Result<(), JournalError> {
    let mut first = unless_damaged(rows.next())?.flatten();
    // Without the head, the first entry tells where the history begins: its checksum starts from there.
    let begins = first.as_ref().map_or(0, |(loaded, _)| loaded.seq.saturating_sub(1));
    let base_seq = found.map_or(begins, |head| head.base_seq);
    let epoch = found.map_or(0, |head| head.epoch).max(known.epoch);
    let (format, opened_ms) = found.map_or((known.format, 0), |head| (head.format, head.opened_ms));
    let head = Head { format, opened_ms, ..Head::empty(base_seq, epoch) };
    let mut follower = Follower::after(base_seq);
    let mut failed = None;
    let mut sound = std::iter::from_fn(|| -> Option<Entry> {
        let next = first.take().map_or_else(|| rows.next(), |row| Ok(Some(row)));
        let next = next.transpose()?;
        let (loaded, sum): (Loaded, Vec<u8>) =
            unless_damaged(next).map_err(|error| failed = Some(error)).ok()??;
        follower.follow(&loaded, &sum).ok()?;
        Some(loaded.entry)
    });
    new::make(files, head, &mut sound)?;
    failed.map_or(Ok(()), Err)
}

/// None for what is damaged; other errors are no reason to throw anything away.
fn unless_damaged<T>(read: Result<T, JournalError>) -> Result<Option<T>, JournalError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(JournalError::Corrupt { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Moves the damaged files aside and the repaired one to its place.
fn swap(files: &Files) -> Result<Vec<PathBuf>, JournalError> {
    let aside = link_aside(files)?;
    files.sync_directory()?;
    // The log must be gone before another database stands beside it.
    remove(&files.wal)?;
    files.sync_directory()?;
    new::put(&files.repaired, &files.database, files)?;
    Ok(aside)
}

/// Gives the damaged files a second name, with which SQLite's own tools can look at them.
pub(super) fn link_aside(files: &Files) -> Result<Vec<PathBuf>, JournalError> {
    let damaged: Vec<_> =
        [(&files.database, ""), (&files.wal, "-wal")].into_iter().filter(|(path, _)| path.exists()).collect();
    let names = |number: u32| -> Vec<(PathBuf, PathBuf)> {
        let to = |suffix: &str| {
            let mut name = OsString::from(&files.database);
            name.push(format!(".damaged-{number}{suffix}"));
            PathBuf::from(name)
        };
        damaged.iter().map(|(from, suffix)| ((*from).clone(), to(suffix))).collect()
    };
    let free = |pairs: &[(PathBuf, PathBuf)]| pairs.iter().all(|(from, to)| !to.exists() || same(from, to));
    let pairs = (1..=MOST_ASIDE)
        .map(names)
        .find(|pairs| free(pairs))
        .ok_or(JournalError::Unsupported("keeping more damaged files here"))?;
    for (from, to) in pairs.iter().filter(|(from, to)| !same(from, to)) {
        // Not every file system has hard links.
        if fs::hard_link(from, to).is_err() {
            fs::copy(from, to).map_err(JournalError::io("copy", from))?;
        }
    }
    Ok(pairs.into_iter().map(|(_, to)| to).collect())
}

/// Whether two names are of one file: an interrupted repair was here.
fn same(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    inode(one).is_some_and(|found| inode(other) == Some(found))
}
