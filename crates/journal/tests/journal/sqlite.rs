//! An SQLite journal shared by processes, and calls that are given up half way.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use fleet_journal::{JournalError, Loaded, Location, Standby, open, repair};
use fleet_testkit::short_temp_dir;

use crate::child::Holder;
use crate::entries::{all, entry};

#[tokio::test]
async fn another_process_is_named_and_its_death_lets_a_standby_in() {
    let directory = short_temp_dir();
    let location = Location::Sqlite(directory.path().join("state/journal.db"));
    let mut holder = Holder::obedient(&location, None);
    assert_eq!(holder.order("append 1 1 10"), "kept 1");
    let refused = open(&location, Standby::Refuse).await.expect_err("it is held").to_string();
    assert!(
        refused.starts_with(&format!("the journal is in use by process {} on ", holder.pid())),
        "{refused}"
    );
    assert!(matches!(repair(&location), Err(JournalError::Locked { .. })));
    let mut standby = pin!(open(&location, Standby::Wait));
    assert!(standby.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    holder.kill();
    let mut journal = standby.await.expect("it takes over");
    assert_eq!(all(&mut *journal).await.0, [entry(1, 10)]);
    assert_eq!(journal.epoch(), 2);
}

#[tokio::test]
async fn a_change_that_was_given_up_leaves_the_journal_in_doubt_and_whole() {
    let directory = short_temp_dir();
    let location = Location::Sqlite(directory.path().join("journal.db"));
    let mut journal = open(&location, Standby::Refuse).await.expect("it opens");
    let mut kept = Vec::new();
    let given_up = loop {
        let number = kept.len() as u64;
        let batch = [entry(number, 10), entry(number + 1, 10)];
        // On a busy machine the journal may be done before it is asked.
        let polled = journal.append(&batch).as_mut().poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(done) => assert_eq!(done.expect("it appends"), number + 2),
            Poll::Pending => break batch,
        }
        kept.extend(batch);
    };
    let refused = journal.append(&[entry(3, 10)]).await;
    assert!(matches!(refused, Err(JournalError::Poisoned)), "{refused:?}");
    drop(journal);
    let mut journal = open(&location, Standby::Refuse).await.expect("it opens");
    let entries = all(&mut *journal).await.0;
    let whole = [&kept[..], &given_up[..]].concat();
    assert!(entries == kept || entries == whole, "{entries:?}");
}

#[tokio::test]
async fn a_reader_that_fails_ends_the_loading_and_changes_nothing() {
    let directory = short_temp_dir();
    let location = Location::Sqlite(directory.path().join("journal.db"));
    let mut journal = open(&location, Standby::Refuse).await.expect("it opens");
    let entries: Vec<_> = (0..2_000).map(|number| entry(number, 3_000)).collect();
    journal.append(&entries).await.expect("it appends");
    let mut seen = 0;
    let mut refuse = |loaded: Loaded| {
        seen += 1;
        Err(JournalError::Unreadable { seq: loaded.seq, why: "not for me".to_owned() })
    };
    let failed = journal.load(&mut refuse).await.expect_err("its reader failed");
    assert_eq!(failed.to_string(), "entry 1 cannot be read: not for me");
    assert_eq!(seen, 1);
    drop(journal);
    let mut journal = open(&location, Standby::Refuse).await.expect("it opens");
    assert_eq!(all(&mut *journal).await.0, entries);
}
