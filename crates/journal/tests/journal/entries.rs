//! Entries to append, and everything a journal holds.

use fleet_journal::{Entry, Journal, Kind, Report};

/// The entry with this number, which its body repeats up to `bytes`.
pub(crate) fn entry(number: u64, bytes: usize) -> Entry {
    let body: Vec<u8> = number.to_string().bytes().chain([b' ']).cycle().take(bytes).collect();
    Entry { kind: Kind(3), key: format!("run-{number}"), body: body.into() }
}

/// All entries, whose numbers must be consecutive and end with the report's last.
pub(crate) async fn all(journal: &mut dyn Journal) -> (Vec<Entry>, Report) {
    let mut seqs = Vec::new();
    let mut entries = Vec::new();
    let report = journal
        .load(&mut |loaded| {
            seqs.push(loaded.seq);
            entries.push(loaded.entry);
            Ok(())
        })
        .await
        .expect("it loads");
    let first = report.last_seq + 1 - entries.len() as u64;
    assert_eq!(seqs, (first..=report.last_seq).collect::<Vec<_>>());
    assert_eq!(report.entries, entries.len() as u64);
    (entries, report)
}
