use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use tempfile::TempDir;

use super::files::Files;
use super::lock::Lock;
use super::store::Store;
use super::{repair, schema, wal};
use crate::chain::{Head, Sum};
use crate::{Entry, JournalError, Kind, Report};

const NOW: u64 = 1_800_000_000_000;

/// A journal in a directory of its own.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: fleet_testkit::short_temp_dir() }
    }

    /// With the smallest pages SQLite has, so that trying every byte is quick.
    fn with_small_pages() -> Self {
        let place = Self::new();
        let connection = Connection::open(place.path()).unwrap();
        connection.execute_batch("PRAGMA page_size = 512").unwrap();
        schema::create(&connection, &Head::empty(0, 0)).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        place
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("journal.db")
    }

    fn files(&self) -> Files {
        Files::of(&self.path())
    }

    fn open(&self) -> Result<Store, JournalError> {
        self.open_at(NOW)
    }

    fn open_at(&self, now_ms: u64) -> Result<Store, JournalError> {
        let files = self.files();
        Store::open(files.clone(), Lock::take(&files.lock)?, now_ms)
    }

    /// The database and its log.
    fn image(&self) -> Image {
        let files = self.files();
        Image { database: fs::read(&files.database).unwrap(), wal: fs::read(&files.wal).unwrap_or_default() }
    }

    fn put(&self, image: &Image) {
        let files = self.files();
        fs::write(&files.database, &image.database).unwrap();
        fs::write(&files.wal, &image.wal).unwrap();
        let _ = fs::remove_file(&files.lock);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Image {
    database: Vec<u8>,
    wal: Vec<u8>,
}

fn entry(number: u64, bytes: usize) -> Entry {
    let byte = u8::try_from(number % 251).unwrap();
    Entry { kind: Kind(7), key: format!("run-{number}"), body: vec![byte; bytes].into() }
}

/// What the store gives, which must be consecutive.
fn all(store: &mut Store) -> (Vec<Entry>, Report) {
    let (mut entries, mut last) = (Vec::new(), None);
    let report = store
        .load(&mut |loaded| {
            assert!(last.is_none_or(|last| loaded.seq == last + 1));
            last = Some(loaded.seq);
            entries.push(loaded.entry);
            Ok(())
        })
        .unwrap();
    assert_eq!(report.last_seq, last.unwrap_or(report.last_seq));
    (entries, report)
}

/// A journal as a crash leaves it: batches of 1, 2, … entries in the log; the length of the log after each.
fn crashed(place: &Place, batches: u64, bytes: usize) -> (Image, Vec<Entry>, BTreeMap<usize, usize>) {
    let mut store = place.open().unwrap();
    let mut entries = Vec::new();
    let mut acknowledged = BTreeMap::from([(0, 0)]);
    for batch in 1..=batches {
        let batch: Vec<_> = (0..batch).map(|at| entry(entries.len() as u64 + at, bytes)).collect();
        store.append(&batch).unwrap();
        entries.extend(batch);
        acknowledged.insert(place.image().wal.len(), entries.len());
    }
    (place.image(), entries, acknowledged)
}

#[test]
fn a_log_cut_at_any_byte_gives_what_was_whole_and_says_what_was_not() {
    let place = Place::with_small_pages();
    let (image, entries, acknowledged) = crashed(&place, 3, 60);
    for cut in 0..=image.wal.len() {
        place.put(&Image { wal: image.wal[..cut].to_vec(), ..image.clone() });
        let (&whole, &count) = acknowledged.range(..=cut).next_back().unwrap();
        let mut store = place.open().unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let (loaded, report) = all(&mut store);
        assert_eq!(loaded, entries[..count], "cut at {cut}");
        // A log of a header alone is whole: it is written before the first batch.
        let torn = (cut != whole && !(whole == 0 && cut == 32)).then_some((cut - whole) as u64);
        let dropped =
            report.torn.map(|torn| torn.bytes + torn.at - if whole == 0 { 0 } else { whole as u64 });
        assert_eq!(dropped, torn, "cut at {cut}: {report:?}");
        assert_eq!(report.warnings().len(), usize::from(torn.is_some()));
        if cut % 16 > 0 {
            continue;
        }
        assert_eq!(store.append(&[entry(99, 10)]).unwrap(), count as u64 + 1);
        store.close();
        let (loaded, report) = all(&mut place.open().unwrap());
        assert_eq!((loaded.len(), report.torn), (count + 1, None), "cut at {cut}");
    }
}

#[test]
fn a_flipped_bit_in_the_log_is_damage_unless_only_the_last_batch_can_be_lost() {
    let place = Place::with_small_pages();
    let (image, entries, acknowledged) = crashed(&place, 3, 60);
    let (&last_batch, &before_last) = acknowledged.range(..image.wal.len()).next_back().unwrap();
    let mut refused = 0;
    for at in 0..image.wal.len() {
        let mut flipped = image.clone();
        flipped.wal[at] ^= 1 << (at % 8);
        place.put(&flipped);
        match place.open() {
            Err(JournalError::Corrupt { place: named }) => {
                assert!(named.contains("journal.db-wal at byte "), "{named}");
                assert_eq!(place.image(), flipped, "nothing is written, flipped at {at}");
                refused += 1;
            }
            Err(other) => panic!("flipped at {at}: {other}"),
            Ok(mut store) => {
                let (loaded, report) = all(&mut store);
                assert!(at >= last_batch, "flipped at {at}, in an acknowledged batch that another followed");
                assert_eq!(loaded, entries[..before_last], "flipped at {at}");
                assert!(report.torn.is_some_and(|torn| torn.bytes > 0));
            }
        }
    }
    assert!(refused >= last_batch);
}

#[test]
fn a_flipped_bit_in_the_database_is_refused_or_harmless() {
    let place = Place::with_small_pages();
    let mut store = place.open().unwrap();
    let entries: Vec<_> = (0..12).map(|number| entry(number, 60)).collect();
    store.append(&entries).unwrap();
    store.close();
    let image = place.image();
    assert!(image.wal.is_empty());
    let mut refused = 0;
    for at in 0..image.database.len() {
        let mut flipped = image.clone();
        flipped.database[at] ^= 1 << (at % 8);
        place.put(&flipped);
        match place.open() {
            Err(error) => {
                assert!(
                    matches!(error, JournalError::Corrupt { .. } | JournalError::Newer { .. }),
                    "flipped at {at}: {error:?}"
                );
                assert_eq!(place.image(), flipped, "nothing is written, flipped at {at}");
                refused += 1;
            }
            Ok(mut store) => {
                let (loaded, report) = all(&mut store);
                assert_eq!((loaded, store.epoch()), (entries.clone(), 2), "flipped at {at}");
                assert!(report.warnings().is_empty(), "flipped at {at}: {report:?}");
            }
        }
    }
    let kept_bytes: usize =
        entries.iter().map(|entry| entry.key.len() + entry.body.len() + size_of::<Sum>()).sum();
    assert!(refused > kept_bytes, "{refused} refused: the rest is unused space");
}

#[test]
fn a_lost_page_in_the_log_is_damage_when_a_batch_follows() {
    let frame = 24 + 512;
    // Entries of many to a page, of one to a page, and of several pages each.
    for bytes in [60, 400, 2_000] {
        let place = Place::with_small_pages();
        let (image, entries, acknowledged) = crashed(&place, 5, bytes);
        let last_batch = *acknowledged.range(..image.wal.len()).next_back().unwrap().0;
        for start in (32..image.wal.len()).step_by(frame) {
            let mut lost = image.clone();
            lost.wal[start..start + frame].fill(0);
            place.put(&lost);
            match place.open() {
                Err(JournalError::Corrupt { .. }) => assert!(start < last_batch),
                Err(other) => panic!("{other}"),
                Ok(mut store) => {
                    assert!(start >= last_batch, "the frame at {start} was acknowledged, entries of {bytes}");
                    assert!(entries.starts_with(&all(&mut store).0));
                }
            }
        }
    }
}

#[test]
fn what_stands_behind_the_log_of_an_earlier_round_is_no_damage() {
    let place = Place::with_small_pages();
    let (image, entries, _) = crashed(&place, 3, 60);
    let other = Place::with_small_pages();
    let (earlier, _, _) = crashed(&other, 5, 60);
    let mut mixed = image.clone();
    mixed.wal.extend_from_slice(&earlier.wal[image.wal.len()..]);
    place.put(&mixed);
    assert_eq!(all(&mut place.open().unwrap()).0, entries);
}

#[test]
fn a_log_without_its_database_is_refused() {
    let place = Place::new();
    crashed(&place, 2, 60);
    fs::remove_file(place.path()).unwrap();
    assert!(matches!(place.open(), Err(JournalError::Corrupt { .. })));
    assert!(!place.path().exists());
}

#[test]
fn repair_keeps_what_stands_before_damage_in_the_log() {
    let place = Place::with_small_pages();
    let (mut image, entries, acknowledged) = crashed(&place, 4, 60);
    let second_batch = *acknowledged.keys().nth(1).unwrap();
    image.wal[second_batch + 300] ^= 4;
    place.put(&image);
    assert!(matches!(place.open(), Err(JournalError::Corrupt { .. })));
    let report = repair(&place.path()).unwrap();
    let lost = report.lost.as_ref().expect("something is lost");
    assert_eq!((report.kept, report.last_seq), (1, 1));
    assert!(lost.place.contains("-wal at byte"), "{report}");
    assert_eq!(fs::read(&lost.aside[0]).unwrap(), image.database);
    assert_eq!(fs::read(&lost.aside[1]).unwrap(), image.wal);
    let (loaded, opened) = all(&mut place.open().unwrap());
    assert_eq!(loaded, entries[..1]);
    assert!(opened.torn.is_none());
    let again = repair(&place.path()).unwrap();
    assert_eq!((again.kept, again.lost), (1, None), "a sound journal is left alone");
}

#[test]
fn repair_keeps_what_stands_before_damage_in_the_database() {
    let place = Place::new();
    let mut store = place.open().unwrap();
    let entries: Vec<_> = (0..200).map(|number| entry(number, 500)).collect();
    store.append(&entries).unwrap();
    let epoch = store.epoch();
    store.close();
    let mut image = place.image();
    let body = vec![120; 500];
    let at = image.database.windows(500).position(|window| window == body).expect("the body of entry 121");
    image.database[at + 17] ^= 1;
    place.put(&image);
    let Err(JournalError::Corrupt { place: named }) = place.open() else { panic!("it must be refused") };
    assert!(named.ends_with("journal.db: entry 121"), "{named}");
    let report = repair(&place.path()).unwrap();
    assert_eq!((report.kept, report.last_seq), (120, 120));
    let lost = report.lost.as_ref().expect("something is lost");
    assert_eq!(lost.until_seq, Some(200));
    assert!(report.to_string().contains("lost: entries 121 to 200"), "{report}");
    let mut store = place.open().unwrap();
    assert_eq!(all(&mut store).0, entries[..120]);
    assert!(store.epoch() > epoch);
}

#[test]
fn repair_survives_every_flipped_byte_and_invents_nothing() {
    let place = Place::with_small_pages();
    let mut store = place.open().unwrap();
    let entries: Vec<_> = (0..12).map(|number| entry(number, 60)).collect();
    store.append(&entries).unwrap();
    store.close();
    let image = place.image();
    for at in (0..image.database.len()).step_by(7) {
        let mut flipped = image.clone();
        flipped.database[at] ^= 1 << (at % 8);
        place.put(&flipped);
        match repair(&place.path()) {
            Ok(_) => {
                let kept =
                    all(&mut place.open().unwrap_or_else(|error| panic!("flipped at {at}: {error}"))).0;
                assert!(entries.starts_with(&kept), "flipped at {at}");
            }
            Err(error) => assert!(matches!(error, JournalError::Newer { .. }), "flipped at {at}: {error}"),
        }
    }
}

#[test]
fn an_interrupted_repair_is_finished_by_the_next_and_nothing_opens_before() {
    let place = Place::with_small_pages();
    let (mut image, entries, acknowledged) = crashed(&place, 4, 60);
    image.wal[acknowledged.keys().nth(2).unwrap() + 300] ^= 4;
    for stage in 0..3 {
        for old in fs::read_dir(place.directory.path()).unwrap() {
            fs::remove_file(old.unwrap().path()).unwrap();
        }
        place.put(&image);
        let files = place.files();
        repair::salvage(&files, 0).unwrap();
        if stage > 0 {
            repair::link_aside(&files).unwrap();
        }
        if stage > 1 {
            fs::remove_file(&files.wal).unwrap();
        }
        assert!(matches!(place.open(), Err(JournalError::Corrupt { .. })), "stage {stage}");
        let report = repair(&place.path()).unwrap();
        let aside: Vec<_> = report.lost.unwrap().aside.iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(aside[0], image.database, "stage {stage}");
        assert_eq!(all(&mut place.open().unwrap()).0, entries[..3], "stage {stage}");
        assert_eq!(repair(&place.path()).unwrap().lost, None, "stage {stage}");
        let damaged = place.directory.path().join("journal.db.damaged-1-wal");
        assert_eq!(fs::read(damaged).unwrap(), image.wal, "stage {stage}");
    }
}

#[test]
fn an_older_layout_is_migrated_with_everything_in_it() {
    let place = Place::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1.sqlite");
    fs::copy(fixture, place.path()).unwrap();
    let mut store = place.open().unwrap();
    let (entries, report) = all(&mut store);
    let expected: Vec<_> = (0..6)
        .map(|number: u16| Entry {
            kind: Kind(number),
            key: format!("run-{number}"),
            body: vec![u8::try_from(number).unwrap(); usize::from(number) * 7].into(),
        })
        .collect();
    assert_eq!(entries, expected);
    assert_eq!((report.migrated_from, report.last_seq, store.epoch()), (Some(1), 6, 4));
    assert_eq!(store.append(&[entry(7, 10)]).unwrap(), 7);
    store.close();
    let (entries, report) = all(&mut place.open().unwrap());
    assert_eq!((entries.len(), report.migrated_from), (7, None));
}

#[test]
fn what_a_newer_program_wrote_is_refused_before_a_byte_changes() {
    for newer in ["schema = 3", "format = 2"] {
        for checkpointed in [true, false] {
            let place = Place::new();
            let (image, _, _) = crashed(&place, 3, 60);
            place.put(&image);
            let connection = super::inspect::connect(&place.files()).unwrap();
            connection.execute_batch(&format!("UPDATE head SET {newer}")).unwrap();
            if checkpointed {
                connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            }
            drop(connection);
            let before = place.image();
            assert_eq!(before.wal.is_empty(), checkpointed);
            let error = place.open().expect_err("it must be refused");
            assert!(matches!(error, JournalError::Newer { .. }), "{error:?}");
            assert_eq!(place.image(), before, "{newer}");
            assert!(matches!(repair(&place.path()), Err(JournalError::Newer { .. })));
            assert_eq!(place.image(), before, "{newer}");
        }
    }
}

#[test]
fn a_second_coordinator_is_refused_and_told_who_holds_the_journal() {
    let place = Place::new();
    let store = place.open().unwrap();
    let error = place.open().expect_err("it is locked");
    let own = format!("the journal is in use by process {} on ", std::process::id());
    assert!(error.to_string().starts_with(&own), "{error}");
    // The database is locked as well, for the case that somebody removes the lock file.
    fs::remove_file(place.files().lock).unwrap();
    assert!(matches!(place.open(), Err(JournalError::Locked { .. })));
    assert!(matches!(repair(&place.path()), Err(JournalError::Locked { .. })));
    drop(store);
    place.open().unwrap();
}

#[test]
fn a_backup_put_back_never_gives_an_epoch_again() {
    let place = Place::new();
    let mut store = place.open().unwrap();
    store.append(&[entry(1, 10)]).unwrap();
    store.close();
    let backup = place.image();
    for _ in 0..3 {
        place.open().unwrap().close();
    }
    fs::write(place.path(), &backup.database).unwrap();
    let mut store = place.open().unwrap();
    let (entries, report) = all(&mut store);
    assert_eq!(entries.len(), 1);
    let restored = report.restored.expect("it is noticed");
    assert_eq!((restored.found_epoch, restored.known_epoch, store.epoch()), (1, 4, 5));
    assert!(report.warnings()[0].contains("older than this place has seen"));
    store.close();
    assert_eq!(all(&mut place.open().unwrap()).1.restored, None);
}

#[test]
fn a_wall_clock_that_went_back_is_noticed() {
    let place = Place::new();
    place.open_at(NOW).unwrap().close();
    let mut store = place.open_at(NOW - 3_600_000).unwrap();
    let report = all(&mut store).1;
    assert_eq!(report.clock_back_ms, Some(3_600_000));
    assert_eq!(report.warnings(), ["the wall clock stands 3600 s before the journal's last opening"]);
    assert_eq!(store.epoch(), 2);
    store.close();
    assert_eq!(all(&mut place.open_at(NOW).unwrap()).1.clock_back_ms, None);
}

#[test]
fn a_long_log_goes_into_the_database_while_the_journal_is_open() {
    let place = Place::new();
    let mut store = place.open().unwrap();
    for number in 0..12 {
        store.append(&[entry(number, 1 << 20)]).unwrap();
        assert!(place.image().wal.len() < 6 << 20);
    }
    let image = place.image();
    assert!(image.database.len() > 8 << 20);
    drop(store);
    place.put(&image);
    assert_eq!(all(&mut place.open().unwrap()).0.len(), 12);
}

#[test]
fn a_log_with_the_words_in_the_other_order_is_read_too() {
    // A log of one frame as a big-endian machine writes it, checksums and all.
    let mut log = Vec::new();
    for word in [0x377f_0683_u32, 3_007_000, 512, 0, 1, 2] {
        log.extend(word.to_be_bytes());
    }
    let mut sums = plain_checksum([0, 0], &log);
    log.extend(sums.iter().flat_map(|sum| sum.to_be_bytes()));
    let head: Vec<u8> = [1_u32, 1].iter().flat_map(|word| word.to_be_bytes()).collect();
    let page: Vec<u8> = (0..512_u32).map(|byte| u8::try_from(byte % 256).unwrap()).collect();
    sums = plain_checksum(plain_checksum(sums, &head), &page);
    log.extend(&head);
    log.extend([1_u32, 2, sums[0], sums[1]].iter().flat_map(|word| word.to_be_bytes()));
    log.extend(&page);
    let length = log.len() as u64;
    assert_eq!(wal::read(&mut log.as_slice(), length).unwrap(), wal::Wal::Whole);
}

fn plain_checksum([mut first, mut second]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    for pair in bytes.chunks(8) {
        first = first.wrapping_add(u32::from_be_bytes(pair[..4].try_into().unwrap())).wrapping_add(second);
        second = second.wrapping_add(u32::from_be_bytes(pair[4..].try_into().unwrap())).wrapping_add(first);
    }
    [first, second]
}
