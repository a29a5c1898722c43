//! Another process that holds a journal: this test program, started again with orders in its environment.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use fleet_journal::{Entry, Journal, Location, Standby, open};
use tokio::runtime::Runtime;

use crate::entries::{all, entry};

const LOCATION: &str = "FLEET_JOURNAL_CHILD";
const SAYS: &str = "journal: ";

/// A process that opened a journal.
pub(crate) struct Holder {
    child: Child,
    orders: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    /// Starts it and waits until it has opened the journal; `bad_disk` is a library that comes before the system's, and
    /// where it is told what to do.
    pub(crate) fn start(location: &Location, role: &str, bad_disk: Option<(&Path, &Path)>) -> Holder {
        let mut holder = Holder::spawn(location, role, bad_disk);
        assert_eq!(holder.hear().as_deref(), Some("open"));
        holder
    }

    /// One that does what [`Holder::order`] says.
    pub(crate) fn obedient(location: &Location, bad_disk: Option<(&Path, &Path)>) -> Holder {
        Holder::start(location, "child::obeys", bad_disk)
    }

    /// As [`Holder::obedient`], for one that may die before it has opened the journal.
    pub(crate) fn try_start(location: &Location, bad_disk: Option<(&Path, &Path)>) -> Option<Holder> {
        let mut holder = Holder::spawn(location, "child::obeys", bad_disk);
        (holder.hear().as_deref() == Some("open")).then_some(holder)
    }

    fn spawn(location: &Location, role: &str, bad_disk: Option<(&Path, &Path)>) -> Holder {
        let location = match location {
            Location::Sqlite(path) => format!("sqlite {}", path.display()),
            Location::Postgres(location) => format!("postgres {location}"),
            Location::Memory => unreachable!("nothing to share"),
        };
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", role, "--nocapture"]).env(LOCATION, location);
        if let Some((library, told)) = bad_disk {
            command.env("LD_PRELOAD", library).env("BAD_DISK", told);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let orders = child.stdin.take().expect("stdin is a pipe");
        let says = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
        Holder { child, orders, says }
    }

    /// `append NUMBER COUNT BYTES` or `replace NUMBER COUNT BYTES`; what came of it.
    pub(crate) fn order(&mut self, order: &str) -> String {
        self.try_order(order).expect("it answers")
    }

    /// As [`Holder::order`]; none when it is dead before it answers.
    pub(crate) fn try_order(&mut self, order: &str) -> Option<String> {
        writeln!(self.orders, "{order}").ok()?;
        self.hear()
    }

    pub(crate) fn send(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("it listens");
    }

    /// Its next words; none when it has ended.
    pub(crate) fn hear(&mut self) -> Option<String> {
        loop {
            let line = self.says.next()?.expect("words");
            // The test runner talks as well, without ending its lines.
            if let Some((_, words)) = line.split_once(SAYS) {
                return Some(words.to_owned());
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it and hears what it had said before.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("a child of ours");
        std::iter::from_fn(|| self.hear()).collect()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(words: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{SAYS}{words}").and_then(|()| out.flush()).expect("the parent listens");
}

/// What the parent asked for; none when this program runs as a test.
fn opened() -> Option<(Runtime, Box<dyn Journal>)> {
    let location = std::env::var(LOCATION).ok()?;
    let location = match location.split_once(' ')? {
        ("sqlite", path) => Location::Sqlite(path.into()),
        (_, location) => Location::Postgres(location.to_owned()),
    };
    let runtime = Runtime::new().expect("a runtime");
    let journal = runtime.block_on(open(&location, Standby::Wait)).expect("it opens");
    say("open");
    Some((runtime, journal))
}

#[test]
fn obeys() {
    let Some((runtime, mut journal)) = opened() else { return };
    for order in std::io::stdin().lines() {
        let order = order.expect("an order");
        let mut words = order.split(' ');
        let verb = words.next().expect("a verb");
        let [number, count, bytes] =
            [(); 3].map(|()| words.next().expect("a word").parse::<u64>().expect("a number"));
        let bytes = usize::try_from(bytes).expect("a size");
        let entries: Vec<_> = (number..number + count).map(|number| entry(number, bytes)).collect();
        let done = runtime.block_on(async {
            match verb {
                "append" => journal.append(&entries).await,
                _ => journal.replace(&entries).await.map(|()| 0),
            }
        });
        match done {
            Ok(seq) => say(&format!("kept {seq}")),
            Err(error) => say(&format!("{error:?}")),
        }
    }
}

/// Entries of the steps of [`works`]: mostly appended, now and then in place of everything before.
pub(crate) fn step(number: u64) -> (bool, Vec<Entry>) {
    let replaces = number % 5 == 4;
    let sizes = [700, 1_400, 2_100].into_iter().take(1 + 2 * usize::from(number.is_multiple_of(2)));
    (replaces, sizes.map(|bytes| entry(number, bytes)).collect())
}

/// What the journal holds after steps up to `last`.
pub(crate) fn history(last: u64) -> Vec<Entry> {
    let first = (0..=last).rev().find(|&number| step(number).0).unwrap_or(0);
    (first..=last).flat_map(|number| step(number).1).collect()
}

/// The step that the last entry belongs to.
pub(crate) fn last_step(entries: &[Entry]) -> Option<u64> {
    entries.last().map(|entry| entry.key.trim_start_matches("run-").parse().expect("a step"))
}

#[test]
fn works() {
    let Some((runtime, mut journal)) = opened() else { return };
    runtime.block_on(async {
        let (entries, _) = all(&mut *journal).await;
        for number in last_step(&entries).map_or(0, |last| last + 1).. {
            let (replaces, entries) = step(number);
            if replaces {
                journal.replace(&entries).await.expect("it replaces");
            } else {
                journal.append(&entries).await.expect("it appends");
            }
            say(&format!("done {number}"));
        }
    });
}
