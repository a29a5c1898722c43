use super::*;
use crate::spool::queue::Queue;

const BOOT: &str = "boot-1";

fn logged(lease: u64, offset: u64, data: &[u8]) -> Message {
    let data = data.to_vec().into();
    Message::StepLogged(v1::StepLogged { lease, epoch: 9, drv: "d".into(), data, offset })
}

fn reported(lease: u64) -> Message {
    Message::StepReported(v1::StepReported {
        lease,
        epoch: 9,
        drv: "d".into(),
        ..v1::StepReported::default()
    })
}

fn finished(lease: u64) -> Message {
    Message::LeaseFinished(v1::LeaseFinished { lease, epoch: 9 })
}

fn open(directory: &Path) -> Spool {
    Spool::open(directory, BOOT, 1 << 20).expect("opens")
}

/// Everything that would be sent after a number.
fn pending(spool: &Spool, mut after: u64) -> Vec<(u64, Message)> {
    let mut found = Vec::new();
    while let Some(message) = spool.lock().next(after) {
        after = message.sequence;
        found.push((after, message.message.expect("a message")));
    }
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(directory).expect("reads").map(|entry| entry.expect("reads").path()).collect();
    files.sort();
    files
}

#[test]
fn what_was_not_acknowledged_survives_a_restart_and_the_rest_is_gone() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    assert!(
        spool.add(reported(1)) && spool.add(finished(1)) && spool.add(reported(2)) && spool.add(finished(2))
    );
    spool.acknowledge(2);
    assert_eq!(spool.leases(), [(2, 9)]);
    drop(spool);
    let spool = open(directory.path());
    assert_eq!(spool.leases(), [(2, 9)]);
    assert_eq!(pending(&spool, 0), [(3, reported(2)), (4, finished(2))]);
    spool.acknowledge(4);
    drop(spool);
    let spool = open(directory.path());
    assert_eq!((spool.leases().len(), spool.bytes()), (0, 0));
    assert!(spool.add(reported(3)));
    assert_eq!(pending(&spool, 0)[0].0, 5, "numbers are never used twice");
}

#[test]
fn a_lease_that_died_with_the_process_is_finished_and_its_results_are_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    assert!(spool.add(reported(7)) && spool.add(logged(7, 0, b"of the next step\n")));
    drop(spool);
    let spool = open(directory.path());
    let kept: Vec<_> = pending(&spool, 0).into_iter().map(|(_, message)| message).collect();
    assert_eq!(kept, [reported(7), logged(7, 0, b"of the next step\n"), finished(7)]);
}

#[test]
fn another_boot_of_the_machine_voids_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    open(directory.path()).add(reported(1));
    let spool = Spool::open(directory.path(), "boot-2", 1 << 20).expect("opens");
    assert_eq!(spool.leases(), []);
    assert!(spool.add(reported(2)));
    assert!(pending(&spool, 0)[0].0 >= 1);
}

#[test]
fn a_spool_cut_at_any_byte_keeps_what_is_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    assert!(spool.add(reported(1)) && spool.add(reported(2)));
    drop(spool);
    let [file] = &files(directory.path())[..] else { panic!("one file") };
    let whole = std::fs::read(file).expect("reads");
    let mut counts = Vec::new();
    for length in 0..whole.len() {
        std::fs::write(file, &whole[..length]).expect("writes");
        files(directory.path()).iter().filter(|other| *other != file).for_each(|other| {
            std::fs::remove_file(other).expect("removes");
        });
        let spool = open(directory.path());
        let reports =
            pending(&spool, 0).iter().filter(|(_, m)| matches!(m, Message::StepReported(_))).count();
        // And it goes on from there.
        assert!(spool.add(reported(3)));
        drop(spool);
        let leases = open(directory.path()).leases();
        assert!(leases.contains(&(3, 9)), "{leases:?} after a cut at {length}");
        counts.push(reports);
    }
    assert!(counts.is_sorted() && counts.last() == Some(&1), "{counts:?}");
}

#[test]
fn a_damaged_record_is_not_believed() {
    let directory = tempfile::tempdir().expect("a directory");
    open(directory.path()).add(reported(1));
    let [file] = &files(directory.path())[..] else { panic!("one file") };
    let mut bytes = std::fs::read(file).expect("reads");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(file, bytes).expect("writes");
    assert_eq!(open(directory.path()).leases(), []);
}

#[test]
fn a_spool_of_a_newer_program_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("00000000000000000001.spool");
    std::fs::write(&file, "fleet-spool 2 boot-1\nwhatever").expect("writes");
    let refused = Spool::open(directory.path(), BOOT, 1 << 20).expect_err("refused");
    assert!(refused.to_string().contains("version 2"), "{refused}");
    assert_eq!(std::fs::read(&file).expect("still there"), b"fleet-spool 2 boot-1\nwhatever");
}

#[test]
fn a_full_spool_leaves_out_logs_and_never_results() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = Spool::open(directory.path(), BOOT, 10_000).expect("opens");
    let kept = (0..100).filter(|number| spool.add(logged(1, number * 1000, &[b'x'; 1000]))).count();
    assert!((8..10).contains(&kept), "{kept}");
    assert!(spool.bytes() <= 10_000);
    assert!(spool.add(reported(1)) && spool.add(finished(1)));
    assert!(!spool.add(logged(2, 0, &[b'x'; 1000])));
    spool.acknowledge(u64::MAX - 1);
    assert!(spool.add(logged(2, 1000, &[b'x'; 1000])), "there is room again");
}

#[tokio::test]
async fn adjoining_log_chunks_travel_as_one_and_gaps_do_not() {
    let spool = Spool::until_sent();
    spool.add(logged(1, 0, b"one\n"));
    spool.add(logged(1, 4, b"two\n"));
    spool.add(logged(1, 100, b"after a gap\n"));
    spool.add(logged(2, 112, b"of another lease\n"));
    spool.add(reported(1));
    let sent = pending(&spool, 0);
    let expected = [
        (2, logged(1, 0, b"one\ntwo\n")),
        (3, logged(1, 100, b"after a gap\n")),
        (4, logged(2, 112, b"of another lease\n")),
        (5, reported(1)),
    ];
    assert_eq!(sent, expected);
    spool.sent(5);
    assert!(spool.leases().is_empty(), "in memory, sent is enough");
    spool.emptied().await;
}

#[tokio::test]
async fn a_forgotten_lease_is_never_offered_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    assert!(spool.add(reported(1)) && spool.add(reported(2)));
    spool.forget(1, 8);
    assert_eq!(spool.leases(), [(1, 9), (2, 9)], "of another epoch");
    spool.forget(1, 9);
    assert_eq!(spool.leases(), [(2, 9)]);
    drop(spool);
    assert_eq!(open(directory.path()).leases(), [(2, 9)]);
}

#[test]
fn files_whose_content_has_arrived_are_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut queue = Queue::load(directory.path(), BOOT, 1 << 30).expect("opens");
    for number in 0..400_u64 {
        assert!(queue.add(logged(1, number << 16, &vec![b'x'; 64 << 10])));
    }
    assert!(files(directory.path()).len() > 2, "several files");
    queue.acknowledge(399);
    assert_eq!(files(directory.path()).len(), 1);
    queue.acknowledge(400);
    let [left] = &files(directory.path())[..] else { panic!("one file") };
    assert!(std::fs::metadata(left).expect("there").len() < 100, "an empty one");
}

#[test]
fn a_disk_that_is_full_keeps_results_in_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    let spool = open(directory.path());
    spool.lock().fail_writes();
    assert!(spool.add(reported(1)));
    let chunk = vec![b'x'; 1 << 20];
    let kept = (0..10_u64).filter(|number| spool.add(logged(1, number << 20, &chunk))).count();
    assert!(kept < 10, "logs have a bound");
    assert!(spool.add(finished(1)));
    let sent = pending(&spool, 0);
    assert_eq!(sent.first().map(|(_, message)| message), Some(&reported(1)));
    assert_eq!(sent.last().map(|(_, message)| message), Some(&finished(1)));
}
