//! A real PostgreSQL server, several coordinators, and everything that can come between them.

use std::time::Duration;

use fleet_journal::{Entry, Journal, JournalError, Location, Standby, open};
use fleet_testkit::{Direction, FaultProxy, PostgresServer, Signal, send_signal};
use tokio_postgres::{Client, NoTls};

use crate::child::Holder;
use crate::entries::{all, entry};

/// A schema of the server's own, made for one journal.
pub(crate) fn in_schema(server: &PostgresServer, schema: &str) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        sql(server).await.batch_execute(&format!("CREATE SCHEMA {schema}")).await.expect("made");
    });
    format!("{} options='-c search_path={schema}'", server.location())
}

/// A connection of the test's own.
async fn sql(server: &PostgresServer) -> Client {
    let (client, connection) = tokio_postgres::connect(&server.location(), NoTls).await.expect("it connects");
    tokio::spawn(connection);
    client
}

async fn opened(server: &PostgresServer) -> Box<dyn Journal> {
    open(&Location::Postgres(server.location()), Standby::Wait).await.expect("it opens")
}

/// Waits, on the server, until `condition` holds.
async fn until(client: &Client, condition: &str) {
    loop {
        let row = client.query_one(&format!("SELECT {condition}"), &[]).await.expect("a condition");
        if row.get(0) {
            return;
        }
        client.batch_execute("SELECT pg_sleep(0.02)").await.expect("the server waits");
    }
}

const STANDBY_WAITS: &str = "EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)";
const END_HOLDER: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";

#[tokio::test]
async fn one_coordinator_is_active_and_others_are_refused_or_wait() {
    let server = PostgresServer::start();
    let mut active = opened(&server).await;
    assert_eq!(active.append(&[entry(1, 10)]).await.expect("it appends"), 1);
    let location = Location::Postgres(server.location());
    let refused = open(&location, Standby::Refuse).await.expect_err("it is held");
    let own = format!("the journal is in use by process {} on ", std::process::id());
    assert!(refused.to_string().starts_with(&own), "{refused}");
    let waiting = tokio::spawn(async move { open(&location, Standby::Wait).await });
    until(&sql(&server).await, STANDBY_WAITS).await;
    assert_eq!(active.append(&[entry(2, 10)]).await.expect("it appends"), 2);
    let epoch = active.epoch();
    drop(active);
    let mut next = waiting.await.expect("no panic").expect("it takes over");
    assert_eq!(all(&mut *next).await.0, [entry(1, 10), entry(2, 10)]);
    assert!(next.epoch() > epoch);
}

#[tokio::test]
async fn a_standby_takes_over_from_a_killed_active_with_everything_acknowledged() {
    let server = PostgresServer::start();
    let location = Location::Postgres(server.location());
    let mut active = Holder::obedient(&location, None);
    assert_eq!(active.order("append 1 3 100"), "kept 3");
    let standby = tokio::spawn(async move { open(&location, Standby::Wait).await });
    until(&sql(&server).await, STANDBY_WAITS).await;
    assert_eq!(active.order("append 4 1 100"), "kept 4");
    active.kill();
    let mut standby = standby.await.expect("no panic").expect("it takes over");
    assert_eq!(all(&mut *standby).await.0, (1..=4).map(|number| entry(number, 100)).collect::<Vec<_>>());
    assert_eq!((standby.append(&[entry(5, 1)]).await.expect("it appends"), standby.epoch()), (5, 2));
}

#[tokio::test]
async fn a_stale_active_is_fenced_and_changes_nothing() {
    let server = PostgresServer::start();
    let mut stale = opened(&server).await;
    stale.append(&[entry(1, 10)]).await.expect("it appends");
    let location = Location::Postgres(server.location());
    let standby = tokio::spawn(async move { open(&location, Standby::Wait).await });
    let client = sql(&server).await;
    until(&client, STANDBY_WAITS).await;
    client.execute(END_HOLDER, &[]).await.expect("the session ends");
    let mut active = standby.await.expect("no panic").expect("it takes over");
    let refused = stale.append(&[entry(2, 10)]).await;
    assert!(matches!(refused, Err(JournalError::Fenced { epoch: 1 })), "{refused:?}");
    let refused = stale.replace(&[]).await;
    assert!(matches!(refused, Err(JournalError::Poisoned)), "{refused:?}");
    assert_eq!(all(&mut *active).await.0, [entry(1, 10)]);
}

#[tokio::test]
async fn an_active_that_lost_its_lock_unnoticed_is_fenced_by_the_epoch_alone() {
    let server = PostgresServer::start();
    let mut stale = opened(&server).await;
    stale.append(&[entry(1, 10)]).await.expect("it appends");
    // Its session lives; another coordinator took over all the same, as after a failover that lost the lock.
    let client = sql(&server).await;
    client.batch_execute("CREATE TABLE kept AS TABLE fleet_journal_head").await.expect("copied");
    let other = in_other_lock_space(&server).await;
    assert_eq!(other.epoch(), 2);
    for change in ["append", "replace"] {
        let refused = match change {
            "append" => stale.append(&[entry(2, 10)]).await.map(drop),
            _ => stale.replace(&[entry(2, 10)]).await,
        };
        assert!(
            matches!(refused, Err(JournalError::Fenced { epoch: 1 } | JournalError::Poisoned)),
            "{refused:?}"
        );
    }
    let rows = client.query_one("SELECT count(*) FROM fleet_journal_entries", &[]).await.expect("counted");
    assert_eq!(rows.get::<_, i64>(0), 1);
}

/// Opens the journal past the lock of whoever holds it: the lock is named by the schema, the tables are found in the
/// next one of the path.
async fn in_other_lock_space(server: &PostgresServer) -> Box<dyn Journal> {
    sql(server).await.batch_execute("CREATE SCHEMA other").await.expect("made");
    let location = format!("{} options='-c search_path=other,public'", server.location());
    open(&Location::Postgres(location), Standby::Refuse).await.expect("it opens")
}

#[tokio::test]
async fn a_server_restart_loses_and_doubles_nothing_and_standbys_go_on_waiting() {
    let mut server = PostgresServer::start();
    let mut active = opened(&server).await;
    active.append(&[entry(1, 10)]).await.expect("it appends");
    let location = Location::Postgres(server.location());
    let standby = tokio::spawn(async move { open(&location, Standby::Wait).await });
    until(&sql(&server).await, STANDBY_WAITS).await;
    for number in [2, 3] {
        if number == 2 {
            server.stop();
        } else {
            server.kill();
        }
        server.start_again();
        // Whoever of the two is first has the lock now; both are right.
        match active.append(&[entry(number, 10)]).await {
            Ok(seq) => assert_eq!(seq, number),
            Err(JournalError::Fenced { .. }) => {
                drop(active);
                active = standby.await.expect("no panic").expect("it takes over");
                let held = all(&mut *active).await.0;
                assert_eq!(held, (1..number).map(|number| entry(number, 10)).collect::<Vec<_>>());
                return;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    until(&sql(&server).await, STANDBY_WAITS).await;
    drop(active);
    let mut next = standby.await.expect("no panic").expect("it takes over");
    assert_eq!(all(&mut *next).await.0, [entry(1, 10), entry(2, 10), entry(3, 10)]);
}

#[tokio::test]
async fn an_active_alone_goes_on_after_a_server_restart() {
    let mut server = PostgresServer::start();
    let mut active = opened(&server).await;
    active.append(&[entry(1, 10)]).await.expect("it appends");
    server.kill();
    server.start_again();
    assert_eq!(active.append(&[entry(2, 10)]).await.expect("it appends"), 2);
    assert_eq!(active.epoch(), 1);
    assert_eq!(all(&mut *active).await.0, [entry(1, 10), entry(2, 10)]);
}

fn through(server: &PostgresServer, proxy: &FaultProxy) -> Location {
    assert_ne!(server.address(), proxy.address());
    Location::Postgres(format!("host=127.0.0.1 port={} user=fleet dbname=postgres", proxy.address().port()))
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_and_not_repeated() {
    let server = PostgresServer::start();
    let proxy = FaultProxy::start(server.address());
    let mut journal = open(&through(&server, &proxy), Standby::Refuse).await.expect("it opens");
    journal.append(&[entry(1, 10)]).await.expect("it appends");
    proxy.silence(Direction::Downstream);
    let client = sql(&server).await;
    let cut = async {
        until(&client, "last_seq = 3 FROM fleet_journal_head").await;
        proxy.cut();
        proxy.heal();
    };
    let batch = [entry(2, 10), entry(3, 10)];
    let (kept, ()) = tokio::join!(journal.append(&batch), cut);
    assert_eq!(kept.expect("it was committed"), 3);
    assert_eq!(all(&mut *journal).await.0, [entry(1, 10), entry(2, 10), entry(3, 10)]);
    assert_eq!(journal.append(&[entry(4, 10)]).await.expect("it appends"), 4);
    proxy.silence(Direction::Downstream);
    let cut = async {
        until(&client, "base_seq = 4 FROM fleet_journal_head").await;
        proxy.cut();
        proxy.heal();
    };
    let (kept, ()) = tokio::join!(journal.replace(&[]), cut);
    kept.expect("it was committed");
    assert_eq!(all(&mut *journal).await.0, Vec::<Entry>::new());
    assert_eq!(journal.append(&[entry(5, 10)]).await.expect("it appends"), 5);
}

#[tokio::test]
async fn a_change_that_never_arrived_is_made_on_the_next_connection_once() {
    let server = PostgresServer::start();
    let proxy = FaultProxy::start(server.address());
    let mut journal = open(&through(&server, &proxy), Standby::Refuse).await.expect("it opens");
    journal.append(&[entry(1, 10)]).await.expect("it appends");
    proxy.break_after(Direction::Upstream, 30_000);
    let heal = async {
        // The journal notices and comes back.
        until(&sql(&server).await, "NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')").await;
        proxy.heal();
    };
    let batch = [entry(2, 100_000)];
    let (kept, ()) = tokio::join!(journal.append(&batch), heal);
    assert_eq!(kept.expect("it is committed"), 2);
    assert_eq!(all(&mut *journal).await.0, [entry(1, 10), entry(2, 100_000)]);
}

#[tokio::test]
async fn a_server_that_stays_away_stops_the_journal() {
    let mut server = PostgresServer::start();
    let mut journal = opened(&server).await;
    server.stop();
    // The patience passes as fast as the machine can count.
    tokio::time::pause();
    let refused = journal.append(&[entry(1, 10)]).await;
    assert!(matches!(refused, Err(JournalError::Database { .. })), "{refused:?}");
    let refused = journal.append(&[entry(1, 10)]).await;
    assert!(matches!(refused, Err(JournalError::Poisoned)), "{refused:?}");
}

#[tokio::test]
async fn a_stopped_active_is_left_behind_and_fenced_when_it_wakes_up() {
    let server = PostgresServer::start();
    let location =
        Location::Postgres(format!("{} options='-c idle_session_timeout=1500'", server.location()));
    let mut active = Holder::obedient(&location, None);
    assert_eq!(active.order("append 1 1 10"), "kept 1");
    let standby = tokio::spawn({
        let location = location.clone();
        async move { open(&location, Standby::Wait).await }
    });
    until(&sql(&server).await, STANDBY_WAITS).await;
    send_signal(active.pid(), Signal::STOP);
    let mut standby = standby.await.expect("no panic").expect("it takes over");
    assert_eq!(standby.append(&[entry(2, 10)]).await.expect("it appends"), 2);
    active.send("append 3 1 10");
    send_signal(active.pid(), Signal::CONT);
    assert_eq!(active.hear().as_deref(), Some("Fenced { epoch: 1 }"));
    assert_eq!(all(&mut *standby).await.0, [entry(1, 10), entry(2, 10)]);
}

#[tokio::test]
async fn a_running_active_keeps_its_session_however_little_it_has_to_say() {
    let server = PostgresServer::start();
    let location = Location::Postgres(format!("{} options='-c idle_session_timeout=900'", server.location()));
    let mut active = open(&location, Standby::Refuse).await.expect("it opens");
    let client = sql(&server).await;
    let session = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'";
    let before: i32 = client.query_one(session, &[]).await.expect("one").get(0);
    client.batch_execute("SELECT pg_sleep(2)").await.expect("the server waits");
    let after: i32 = client.query_one(session, &[]).await.expect("one").get(0);
    assert_eq!(before, after);
    active.append(&[entry(1, 1)]).await.expect("it appends");
}

#[tokio::test]
async fn a_changed_row_is_damage_and_named() {
    let server = PostgresServer::start();
    let mut journal = opened(&server).await;
    journal.append(&[entry(1, 10), entry(2, 10), entry(3, 10)]).await.expect("it appends");
    let client = sql(&server).await;
    for (damage, entry) in [
        ("UPDATE fleet_journal_entries SET body = 'x' WHERE seq = 2", 2),
        ("UPDATE fleet_journal_entries SET kind = 70000 WHERE seq = 2", 2),
        ("DELETE FROM fleet_journal_entries WHERE seq = 3", 3),
        ("DELETE FROM fleet_journal_entries WHERE seq = 1", 1),
    ] {
        client.batch_execute("CREATE TABLE kept AS TABLE fleet_journal_entries").await.expect("kept");
        client.batch_execute(damage).await.expect(damage);
        drop(journal);
        journal = opened(&server).await;
        let error = journal.load(&mut |_| Ok(())).await.expect_err(damage).to_string();
        assert!(error.contains(&format!("table fleet_journal_entries, entry {entry};")), "{damage}: {error}");
        let mend =
            "TRUNCATE fleet_journal_entries; INSERT INTO fleet_journal_entries TABLE kept; DROP TABLE kept";
        client.batch_execute(mend).await.expect("mended");
    }
    drop(journal);
    client.batch_execute("UPDATE fleet_journal_head SET epoch = 1").await.expect("damaged");
    let error = open(&Location::Postgres(server.location()), Standby::Wait).await.expect_err("damaged");
    assert!(matches!(error, JournalError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn what_a_newer_program_wrote_is_refused_and_left_alone() {
    let server = PostgresServer::start();
    drop(opened(&server).await);
    let client = sql(&server).await;
    let whole = "SELECT head::text FROM fleet_journal_head AS head";
    for newer in ["schema = 3", "schema = 2, format = 9"] {
        client.batch_execute(&format!("UPDATE fleet_journal_head SET {newer}")).await.expect("written");
        let before: String = client.query_one(whole, &[]).await.expect("one").get(0);
        let error = open(&Location::Postgres(server.location()), Standby::Wait).await.expect_err("newer");
        assert!(matches!(error, JournalError::Newer { .. }), "{error}");
        assert_eq!(client.query_one(whole, &[]).await.expect("one").get::<_, String>(0), before);
    }
}

#[tokio::test]
async fn a_full_disk_of_the_server_keeps_nothing_and_later_changes_succeed() {
    let server = PostgresServer::start();
    let mut journal = opened(&server).await;
    let client = sql(&server).await;
    let full = "
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER full_disk AFTER INSERT ON fleet_journal_entries FOR EACH ROW EXECUTE FUNCTION full_disk()";
    client.batch_execute(full).await.expect("full");
    let refused = journal.append(&[entry(1, 10)]).await;
    assert!(matches!(refused, Err(JournalError::Full)), "{refused:?}");
    client.batch_execute("DROP TRIGGER full_disk ON fleet_journal_entries").await.expect("room");
    assert_eq!(journal.append(&[entry(2, 10)]).await.expect("it appends"), 1);
    assert_eq!(all(&mut *journal).await.0, [entry(2, 10)]);
}

#[tokio::test]
async fn a_standby_that_gave_up_does_not_get_the_lock() {
    let server = PostgresServer::start();
    let active = opened(&server).await;
    let location = Location::Postgres(server.location());
    let client = sql(&server).await;
    let waiting = tokio::spawn({
        let location = location.clone();
        async move { open(&location, Standby::Wait).await }
    });
    until(&client, STANDBY_WAITS).await;
    waiting.abort();
    drop(active);
    let opened = tokio::time::timeout(Duration::from_secs(20), open(&location, Standby::Wait)).await;
    assert_eq!(opened.expect("soon").expect("it opens").epoch(), 2);
}
