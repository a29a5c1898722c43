use super::*;

fn writer(directory: &tempfile::TempDir) -> LogWriter {
    LogWriter::open(directory.path().to_owned()).expect("opens")
}

fn drv() -> DrvPath {
    DrvPath::from("a.drv")
}

fn only(writer: &LogWriter) -> KeptLog {
    let logs = kept(writer.directory(), "a.drv");
    let [log] = logs.as_slice() else { panic!("one log: {logs:?}") };
    log.clone()
}

async fn rest(mut reader: LogReader) -> (Vec<u8>, u64) {
    let (mut bytes, mut skipped) = (Vec::new(), 0);
    while let Some(pull) = reader.pull().await.expect("reads") {
        bytes.extend_from_slice(&pull.data);
        skipped += pull.skipped;
    }
    (bytes, skipped)
}

/// Dropping the last writer ends its threads; then everything is sealed.
async fn sealed(writer: LogWriter) {
    let directory = writer.directory().to_owned();
    let growing = writer.growing.clone();
    drop(writer);
    tokio::task::spawn_blocking(move || {
        while Arc::strong_count(&growing) > 1 || kept(&directory, "a.drv").iter().any(|log| !log.is_sealed())
        {
            std::thread::yield_now();
        }
    })
    .await
    .expect("waits");
}

#[tokio::test]
async fn a_log_is_kept_whole_and_found_by_its_derivation_only() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let writer = writer(&directory);
    let mut log = writer.file(&drv(), 2);
    for _ in 0..64 {
        writer.append(&mut log, &[b'x'; 1024]);
    }
    writer.flush().await;
    let log = only(&writer);
    assert_eq!(log.attempt, 2);
    let (bytes, _) = rest(writer.read(&log, 0, false).expect("opens")).await;
    assert_eq!(bytes.len(), 64 * 1024);
    for outside in ["../a.drv", "", ".", "..", "b.drv"] {
        assert!(kept(directory.path(), outside).is_empty(), "{outside:?}");
    }
}

#[tokio::test]
async fn an_ended_log_is_sealed_and_reads_the_same_from_any_offset() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let writer = writer(&directory);
    let mut log = writer.file(&drv(), 1);
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    content.chunks(50_000).for_each(|piece| writer.append(&mut log, piece));
    writer.close(&mut log);
    sealed(writer).await;
    let writer = self::writer(&directory);
    let log = only(&writer);
    assert!(log.is_sealed());
    let size = std::fs::metadata(&log.path).expect("a file").len();
    assert!(size < 300_000, "{size} bytes are not compressed");
    for from in [0, 1, 1 << 20, (1 << 20) + 1, 2_999_999, 3_000_000, 9_000_000] {
        let (bytes, _) = rest(writer.read(&log, from, true).expect("opens")).await;
        let from = usize::try_from(from).expect("small").min(content.len());
        assert!(bytes == content[from..], "from {from}");
    }
}

#[tokio::test]
async fn followers_see_everything_until_the_end_and_no_reader_holds_up_the_writer() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let writer = writer(&directory);
    let mut log = writer.file(&drv(), 1);
    writer.append(&mut log, b"first\n");
    writer.flush().await;
    let kept = only(&writer);
    let stuck = writer.read(&kept, 0, true).expect("opens");
    let followers: Vec<_> =
        (0..8).map(|_| tokio::spawn(rest(writer.read(&kept, 3, true).expect("opens")))).collect();
    for _ in 0..100 {
        writer.append(&mut log, b"more\n");
    }
    writer.close(&mut log);
    for follower in followers {
        let (bytes, skipped) = follower.await.expect("follows to the end");
        assert_eq!((bytes.len(), skipped), (3 + 500, 0));
    }
    // It was opened before the log was sealed, and reads it all the same.
    sealed(writer).await;
    assert_eq!(rest(stuck).await.0.len(), 6 + 500);
}

#[tokio::test]
async fn a_follower_that_is_left_behind_skips_with_a_mark() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let writer = writer(&directory);
    let mut log = writer.file(&drv(), 1);
    writer.append(&mut log, b"first\n");
    writer.flush().await;
    let mut reader = writer.read(&only(&writer), 0, true).expect("opens");
    reader.pull().await.expect("reads");
    // Nothing more comes, so it stands at the end.
    let waited = tokio::time::timeout(std::time::Duration::from_millis(100), reader.pull()).await;
    assert!(waited.is_err(), "{waited:?}");
    for _ in 0..20 {
        writer.append(&mut log, &vec![b'x'; 1 << 20]);
        writer.flush().await;
    }
    writer.close(&mut log);
    let (bytes, skipped) = rest(reader).await;
    assert!(skipped > 11 << 20, "{skipped}");
    assert_eq!(bytes.len() as u64 + skipped, 20 << 20);
}

#[tokio::test]
async fn a_log_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let writer = writer(&directory);
    let mut log = writer.file(&drv(), 3);
    writer.append(&mut log, b"before\n");
    writer.flush().await;
    let mut again = writer.reopen(&drv(), 3);
    assert_eq!(again.length(), 7);
    writer.append(&mut again, b"after\n");
    writer.flush().await;
    assert_eq!(std::fs::read(&only(&writer).path).expect("reads"), b"before\nafter\n");
    assert_eq!(writer.reopen(&drv(), 4).length(), 0, "another attempt has a log of its own");
}

#[tokio::test]
async fn an_attempt_that_printed_nothing_leaves_no_log() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let writer = writer(&directory);
    let mut log = writer.file(&drv(), 1);
    writer.close(&mut log);
    sealed(writer).await;
    assert!(kept(directory.path(), "a.drv").is_empty());
}

#[tokio::test]
async fn a_flood_is_bounded_in_bytes_and_what_is_lost_is_marked() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (orders, mut received) = mpsc::unbounded_channel();
    let (pending, growing) = (Arc::new(AtomicUsize::new(0)), Growing::default());
    let writer = LogWriter { directory: directory.path().to_owned(), orders, pending, growing };
    let mut log = writer.file(&drv(), 1);
    let line = vec![b'x'; 1 << 20];
    for _ in 0..1000 {
        writer.append(&mut log, &line);
    }
    assert!(writer.pending.load(Ordering::Relaxed) <= MAX_PENDING);
    assert_eq!(log.length(), 1000 << 20, "offsets count what was dropped");
    writer.close(&mut log);
    let mut last = None;
    while let Ok(order) = received.try_recv() {
        if let Order::Write { data, .. } = order {
            last = Some(data);
        }
    }
    let last = String::from_utf8(last.expect("a line")).expect("text");
    assert_eq!(last, format!("[fleet: {} bytes of log were dropped here]\n", (1000 - 16) << 20));
}

#[test]
fn the_oldest_logs_go_when_there_are_too_many_or_too_large_ones() {
    let directory = tempfile::tempdir().expect("temporary directory");
    for (age, drv) in ["new.drv", "middle.drv", "old.drv"].iter().enumerate() {
        let path = directory.path().join(drv);
        std::fs::create_dir(&path).expect("creates");
        std::fs::write(path.join("1.1.log"), [0; 100]).expect("writes");
        let then = SystemTime::now() - std::time::Duration::from_secs(60 * age as u64);
        std::fs::File::open(&path).expect("opens").set_modified(then).expect("sets its time");
    }
    let left = || {
        let names = std::fs::read_dir(directory.path()).expect("reads").flatten();
        let mut names: Vec<_> = names.map(|entry| entry.file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    files::prune(directory.path(), files::Bounds { derivations: 2, bytes: 1000 }).expect("prunes");
    assert_eq!(left(), ["middle.drv", "new.drv"]);
    files::prune(directory.path(), files::Bounds { derivations: 2, bytes: 150 }).expect("prunes");
    assert_eq!(left(), ["new.drv"]);
}
