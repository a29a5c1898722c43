//! Disks that are full, disks that fail, and processes that die at each of their writes. A small library in front of the system's makes them so, for one process
//! and one moment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fleet_journal::{Entry, Location, Standby, open};
use fleet_testkit::short_temp_dir;
use tempfile::TempDir;

use crate::child::Holder;
use crate::entries::{all, entry};

/// While `full` is there, writes fail beyond as many bytes as it says; while `failing` is, syncs beyond as many. While
/// `dying` is, the process ends before so many writes, cuts, syncs, renames, links and removals more.
const BAD_DISK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static long told(const char *name) {
    char path[4096];
    long value = 0;
    snprintf(path, sizeof path, "%s/%s", getenv("BAD_DISK"), name);
    FILE *file = fopen(path, "r");
    if (!file) return -1;
    if (fscanf(file, "%ld", &value) != 1) value = 0;
    fclose(file);
    return value;
}

static long written, synced, done;

static void maybe_die(void) {
    long allowed = told("dying");
    if (allowed < 0) done = 0;
    else if (done++ >= allowed) kill(getpid(), SIGKILL);
}

#define WRITE(name, offset_type)                                                            \
    ssize_t name(int fd, const void *bytes, size_t count, offset_type at) {                 \
        ssize_t (*real)(int, const void *, size_t, offset_type) = dlsym(RTLD_NEXT, #name);  \
        maybe_die();                                                                        \
        long room = told("full");                                                           \
        if (room < 0) { written = 0; return real(fd, bytes, count, at); }                   \
        if (written + (long)count > room) { errno = ENOSPC; return -1; }                    \
        written += count;                                                                   \
        return real(fd, bytes, count, at);                                                  \
    }
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)

#define SYNC(name)                                                                          \
    int name(int fd) {                                                                      \
        int (*real)(int) = dlsym(RTLD_NEXT, #name);                                         \
        maybe_die();                                                                        \
        long allowed = told("failing");                                                     \
        if (allowed < 0) synced = 0;                                                        \
        else if (synced++ >= allowed) { errno = EIO; return -1; }                           \
        return real(fd);                                                                    \
    }
SYNC(fsync)
SYNC(fdatasync)

#define DO(name, parameters, arguments)                                                     \
    int name parameters {                                                                   \
        int (*real) parameters = dlsym(RTLD_NEXT, #name);                                   \
        maybe_die();                                                                        \
        return real arguments;                                                              \
    }
DO(ftruncate, (int fd, off_t length), (fd, length))
DO(ftruncate64, (int fd, off64_t length), (fd, length))
DO(rename, (const char *from, const char *to), (from, to))
DO(link, (const char *from, const char *to), (from, to))
DO(linkat, (int one, const char *from, int two, const char *to, int flags), (one, from, two, to, flags))
DO(unlink, (const char *path), (path))
"#;

/// A directory with a journal and a disk that can be told to misbehave.
struct BadDisk {
    directory: TempDir,
    library: PathBuf,
}

impl BadDisk {
    fn new() -> BadDisk {
        let directory = short_temp_dir();
        let (source, library) = (directory.path().join("bad.c"), directory.path().join("bad.so"));
        fs::write(&source, BAD_DISK).expect("the source is written");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-w", "-o"]).args([&library, &source]).arg("-ldl");
        let compiled = cc.output().expect("a C compiler, which SQLite needs as well");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        BadDisk { directory, library }
    }

    fn location(&self) -> Location {
        Location::Sqlite(self.path().join("journal.db"))
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn holder(&self) -> Holder {
        Holder::obedient(&self.location(), Some((&self.library, self.path())))
    }

    /// There is room for so many bytes more.
    fn fill(&self, room: usize) {
        fs::write(self.path().join("full"), room.to_string()).expect("it is told");
    }

    fn empty(&self) {
        fs::remove_file(self.path().join("full")).expect("it was full");
    }

    /// After so many syncs nothing reaches the disk any more, and whoever asks is told.
    fn fail_after(&self, syncs: usize) {
        fs::write(self.path().join("failing"), syncs.to_string()).expect("it is told");
    }

    fn mend(&self) {
        fs::remove_file(self.path().join("failing")).expect("it was failing");
    }

    /// The process ends before so many steps more.
    fn die_after(&self, steps: usize) {
        fs::write(self.path().join("dying"), steps.to_string()).expect("it is told");
    }

    fn forgive(&self) {
        fs::remove_file(self.path().join("dying")).expect("it was dying");
    }

    async fn entries(&self) -> Vec<Entry> {
        let mut journal = open(&self.location(), Standby::Refuse).await.expect("it opens");
        let (entries, report) = all(&mut *journal).await;
        assert_eq!(report.warnings(), Vec::<String>::new());
        entries
    }
}

#[tokio::test]
async fn a_full_disk_keeps_nothing_of_a_batch_and_later_ones_succeed() {
    let disk = BadDisk::new();
    let mut holder = disk.holder();
    assert_eq!(holder.order("append 1 2 100"), "kept 2");
    for room in [0, 20, 5_000, 20_000] {
        disk.fill(room);
        assert_eq!(holder.order("append 100 40 2000"), "Full", "with room for {room} bytes");
        assert_eq!(holder.order("replace 100 40 2000"), "Full", "with room for {room} bytes");
        disk.empty();
    }
    assert_eq!(holder.order("append 3 1 100"), "kept 3");
    // Killed, so that the log is read as the failures and the batch after them left it.
    holder.kill();
    assert_eq!(disk.entries().await, [entry(1, 100), entry(2, 100), entry(3, 100)]);
}

#[tokio::test]
async fn batches_that_failed_one_over_the_other_are_never_taken_for_damage() {
    let disk = BadDisk::new();
    let mut holder = disk.holder();
    for (number, rooms) in [(1, [90_000, 40_000]), (2, [60_000, 20_000]), (3, [30_000, 9_000])] {
        for room in rooms {
            disk.fill(room);
            assert_eq!(holder.order("append 100 100 2000"), "Full");
            disk.empty();
        }
        assert_eq!(holder.order(&format!("append {number} 1 100")), format!("kept {number}"));
    }
    holder.kill();
    assert_eq!(disk.entries().await, [entry(1, 100), entry(2, 100), entry(3, 100)]);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_until_the_journal_is_opened_again() {
    let disk = BadDisk::new();
    let mut holder = disk.holder();
    assert_eq!(holder.order("append 1 1 100"), "kept 1");
    disk.fail_after(0);
    let refused = holder.order("append 2 1 100");
    assert!(refused.starts_with("Database"), "{refused}");
    disk.mend();
    // The disk is well again, but what became of the second entry is not known: the journal must not go on.
    assert_eq!(holder.order("append 3 1 100"), "Poisoned");
    assert_eq!(holder.order("replace 3 1 100"), "Poisoned");
    holder.kill();
    let entries = disk.entries().await;
    assert!([1, 2].contains(&entries.len()) && entries[0] == entry(1, 100), "{entries:?}");
}

#[tokio::test]
async fn a_sync_that_fails_while_the_log_goes_into_the_database_stops_the_journal() {
    let disk = BadDisk::new();
    let mut holder = disk.holder();
    // The new log's header and the batch are synced first, then what the long log brings into the database.
    disk.fail_after(2);
    let refused = holder.order("append 1 100 60000");
    assert!(refused.starts_with("Database"), "{refused}");
    assert_eq!(holder.order("append 200 1 100"), "Poisoned");
    disk.mend();
    holder.kill();
    assert_eq!(disk.entries().await.len(), 100);
}

#[tokio::test]
async fn a_process_that_dies_at_any_write_leaves_what_it_acknowledged_or_one_change_more() {
    let orders =
        ["append 1 2 900", "append 3 1 900", "replace 7 2 900", "append 9 1 90000", "replace 10 0 0"];
    let numbers: [&[u64]; 6] = [&[], &[1, 2], &[1, 2, 3], &[7, 8], &[7, 8, 9], &[]];
    let disk = BadDisk::new();
    let mut points = 0;
    for steps in 0.. {
        let Location::Sqlite(journal) = disk.location() else { unreachable!("it is a file") };
        for left in ["", "-wal", ".lock", ".unfinished", ".unfinished-wal", ".unfinished-journal"] {
            let _ = fs::remove_file(format!("{}{left}", journal.display()));
        }
        disk.die_after(steps);
        let mut acknowledged = 0;
        let mut alive = false;
        if let Some(mut holder) = Holder::try_start(&disk.location(), Some((&disk.library, disk.path()))) {
            alive = orders.iter().all(|order| {
                let kept = holder.try_order(order).is_some_and(|said| said.starts_with("kept"));
                acknowledged += usize::from(kept);
                kept
            });
            disk.forgive();
            holder.kill();
        } else {
            disk.forgive();
        }
        let mut opened = open(&disk.location(), Standby::Refuse).await.expect("it opens");
        let found: Vec<_> = all(&mut *opened).await.0.iter().map(|entry| entry.key.clone()).collect();
        let expected: Vec<_> =
            numbers.map(|numbers| numbers.iter().map(|n| format!("run-{n}")).collect::<Vec<_>>()).into();
        let next = (acknowledged + 1).min(orders.len());
        assert!(
            found == expected[acknowledged] || found == expected[next],
            "dead after {steps} steps, {acknowledged} acknowledged: {found:?}"
        );
        if alive {
            break;
        }
        points += 1;
    }
    assert!(points > 30, "{points}");
}
