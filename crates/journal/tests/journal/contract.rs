//! Any sequence of changes and openings against a plain list, on every kind of journal.

use std::sync::atomic::{AtomicUsize, Ordering};

use fleet_journal::{Entry, Journal, JournalError, Kind, Location, MemoryStore, Standby, open};
use fleet_testkit::{PostgresServer, short_temp_dir};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use crate::entries::{all, entry};

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Entry>),
    Replace(Vec<Entry>),
    TooLarge,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kept = (any::<u16>(), ".{0,12}", vec(any::<u8>(), 0..600)).prop_map(|(kind, key, body)| Entry {
        kind: Kind(kind),
        key,
        body: body.into(),
    });
    let batch = vec(kept, 0..6).boxed();
    let step = prop_oneof![
        6 => batch.clone().prop_map(Step::Append),
        2 => batch.prop_map(Step::Replace),
        1 => Just(Step::TooLarge),
        2 => Just(Step::Reopen),
    ];
    vec(step, 1..14)
}

/// Opens the same journal each time.
type Opener<'a> = &'a dyn Fn() -> Box<dyn Journal>;

fn follow(runtime: &Runtime, steps: Vec<Step>, open: Opener<'_>) {
    let (mut model, mut last_seq) = (Vec::new(), 0);
    let mut journal = open();
    runtime.block_on(async {
        for step in steps {
            match step {
                Step::Append(batch) => {
                    last_seq += batch.len() as u64;
                    assert_eq!(journal.append(&batch).await.expect("it appends"), last_seq);
                    model.extend(batch);
                }
                Step::Replace(entries) => {
                    journal.replace(&entries).await.expect("it replaces");
                    last_seq += entries.len() as u64;
                    model = entries;
                }
                Step::TooLarge => {
                    let large = Entry { key: "k".repeat((64 << 10) + 1), ..entry(1, 1) };
                    let refused = journal.append(&[entry(2, 2), large]).await;
                    assert!(matches!(refused, Err(JournalError::TooLarge { .. })), "{refused:?}");
                }
                Step::Reopen => {
                    let epoch = journal.epoch();
                    // Dropped before it is opened again.
                    journal = Box::new(MemoryStore::default().open());
                    journal = {
                        drop(journal);
                        tokio::task::block_in_place(open)
                    };
                    assert!(journal.epoch() > epoch);
                }
            }
            let (entries, report) = all(&mut *journal).await;
            assert_eq!((entries, report.last_seq), (model.clone(), last_seq));
            assert_eq!(report.warnings(), Vec::<String>::new());
        }
    });
}

fn check(cases: u32, fresh: impl Fn(usize) -> Box<dyn Fn() -> Box<dyn Journal>>) {
    let runtime = runtime();
    let count = AtomicUsize::new(0);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&steps(), |steps| {
        let opener = fresh(count.fetch_add(1, Ordering::Relaxed));
        follow(&runtime, steps, &opener);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

fn opener(location: Location) -> Box<dyn Fn() -> Box<dyn Journal>> {
    let runtime = runtime();
    Box::new(move || {
        let location = location.clone();
        let opened = runtime.block_on(open(&location, Standby::Wait));
        opened.expect("it opens")
    })
}

#[test]
fn in_memory_any_changes_and_openings_equal_a_list() {
    check(256, |_| {
        let store = MemoryStore::default();
        Box::new(move || Box::new(store.open()))
    });
}

#[test]
fn in_sqlite_any_changes_and_openings_equal_a_list() {
    let directory = short_temp_dir();
    let path = directory.path().to_owned();
    check(96, move |case| opener(Location::Sqlite(path.join(format!("{case}/journal.db")))));
}

#[test]
fn in_postgres_any_changes_and_openings_equal_a_list() {
    let server = PostgresServer::start();
    check(24, |case| {
        let location = crate::postgres::in_schema(&server, &format!("case_{case}"));
        opener(Location::Postgres(location))
    });
}

#[test]
fn an_earlier_opening_in_memory_is_fenced() {
    runtime().block_on(async {
        let store = MemoryStore::default();
        let mut earlier = store.open();
        earlier.append(&[entry(1, 1)]).await.expect("it appends");
        let mut later = store.open();
        let refused = earlier.append(&[entry(2, 1)]).await;
        assert!(matches!(refused, Err(JournalError::Fenced { epoch: 1 })), "{refused:?}");
        assert_eq!(all(&mut later).await.0, [entry(1, 1)]);
    });
}
