//! What every journal promises, on each kind of it.

use fleet_journal::{Entry, Journal, Kind, Loaded, Location, Standby, open};

fn entry(number: u16) -> Entry {
    Entry { kind: Kind(number), key: format!("run {number}"), body: format!("body {number}").into() }
}

async fn all(journal: &mut dyn Journal) -> Vec<Loaded> {
    let mut all = Vec::new();
    journal
        .load(&mut |loaded| {
            all.push(loaded);
            Ok(())
        })
        .await
        .expect("it loads");
    all
}

#[tokio::test]
async fn what_was_appended_is_loaded_in_order_after_opening_again() {
    let directory = fleet_testkit::short_temp_dir();
    let location = Location::Sqlite(directory.path().join("journal.db"));
    let mut journal = open(&location, Standby::Refuse).await.expect("it opens");
    assert_eq!(journal.append(&[entry(1), entry(2)]).await.expect("it appends"), 2);
    assert_eq!(journal.append(&[entry(3)]).await.expect("it appends"), 3);
    let before = journal.epoch();
    drop(journal);
    let mut journal = open(&location, Standby::Refuse).await.expect("it opens");
    assert!(journal.epoch() > before);
    let expected: Vec<_> =
        (1..=3).map(|seq| Loaded { seq, entry: entry(u16::try_from(seq).unwrap()) }).collect();
    assert_eq!(all(&mut *journal).await, expected);
}
