//! Processes killed while they write.

use fleet_journal::{Location, Standby, open};
use fleet_testkit::{PostgresServer, short_temp_dir};

use crate::child::{Holder, history, last_step};
use crate::entries::all;

/// Kills a process that appends and replaces after each of `patience` acknowledged steps, and looks at what is there.
async fn kill_again_and_again(location: &Location, patience: impl Iterator<Item = usize>) {
    let mut done = None;
    for steps in patience {
        let mut holder = Holder::start(location, "child::works", None);
        let mut heard: Vec<_> = (0..steps).map(|_| holder.hear().expect("it works")).collect();
        heard.extend(holder.kill());
        let told =
            heard.last().map(|words| words.trim_start_matches("done ").parse::<u64>().expect("a number"));
        done = told.or(done);
        let mut journal = open(location, Standby::Wait).await.expect("it opens");
        let (entries, _) = all(&mut *journal).await;
        let last = last_step(&entries);
        assert!(last >= done, "acknowledged up to {done:?}, found {last:?}");
        assert!(last <= Some(done.map_or(0, |done| done + 1)), "one step at most was not acknowledged");
        assert_eq!(entries, last.map(history).unwrap_or_default());
        done = last;
    }
    assert!(done > Some(20));
}

#[tokio::test]
async fn what_was_acknowledged_in_sqlite_survives_kills_and_a_history_is_old_or_new() {
    let directory = short_temp_dir();
    let location = Location::Sqlite(directory.path().join("journal.db"));
    kill_again_and_again(&location, (0..30).map(|round| round * 7 % 5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_in_postgres_survives_kills_and_a_history_is_old_or_new() {
    let server = PostgresServer::start();
    kill_again_and_again(&Location::Postgres(server.location()), (0..15).map(|round| round * 7 % 5)).await;
}
