//! The chunks of trees that were packed before, named by their NAR hash: an input that the coordinator has already
//! need not even be read again. A cache and no more: whatever is wrong with an entry, it is as if there were none.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fleet_wire::v1;
use prost::Message;

/// Entries that are kept: the newest.
const MAX_KNOWN: usize = 128;
/// Of one entry: a tree of 100 GB.
const MAX_BYTES: u64 = 64 << 20;

/// What is known of one tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) nar_size: u64,
    pub(super) manifest: v1::Manifest,
}

/// Looks one up.
pub(super) fn read(directory: &Path, nar_hash: [u8; 32]) -> Option<Known> {
    let path = path(directory, nar_hash);
    if fs::metadata(&path).ok()?.len() > MAX_BYTES {
        return None;
    }
    let entry = v1::SourceInput::decode(&*fs::read(&path).ok()?).ok()?;
    let manifest = entry.manifest?;
    let size: u64 = manifest.chunks.iter().map(|chunk| u64::from(chunk.size)).sum();
    let whole = entry.nar_hash[..] == nar_hash && size == entry.nar_size;
    if whole && let Ok(file) = fs::File::options().append(true).open(&path) {
        // What is used stays longest; if not, it is only packed again.
        let _ = file.set_modified(SystemTime::now());
    }
    whole.then_some(Known { nar_size: entry.nar_size, manifest })
}

/// Remembers one, and forgets the oldest. A failure costs no more than packing again.
pub(super) fn write(directory: &Path, nar_hash: [u8; 32], known: &Known) {
    let entry = v1::SourceInput {
        name: String::new(),
        nar_hash: nar_hash.to_vec().into(),
        nar_size: known.nar_size,
        manifest: Some(known.manifest.clone()),
    };
    let bytes = entry.encode_to_vec();
    if bytes.len() as u64 > MAX_BYTES || fs::create_dir_all(directory).is_err() {
        return;
    }
    let written = tempfile::NamedTempFile::new_in(directory).and_then(|file| {
        fs::write(file.path(), bytes)?;
        file.persist(path(directory, nar_hash)).map_err(|error| error.error)
    });
    if let Err(error) = written {
        tracing::debug!(%error, "the chunks of an input are not remembered");
    }
    forget_oldest(directory);
}

fn path(directory: &Path, nar_hash: [u8; 32]) -> PathBuf {
    let hex = nar_hash.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    directory.join(hex)
}

fn forget_oldest(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut found: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    found.sort();
    let surplus = found.len().saturating_sub(MAX_KNOWN);
    for (_, path) in &found[..surplus] {
        // Another process may have been faster.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(size: u32) -> Known {
        let chunk = v1::ChunkRef { digest: vec![7; 32].into(), size };
        Known { nar_size: size.into(), manifest: v1::Manifest { chunks: vec![chunk] } }
    }

    #[test]
    fn what_is_damaged_or_another_tree_is_as_if_it_were_not_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let (at, hash) = (directory.path(), [1; 32]);
        assert_eq!(read(at, hash), None);
        write(at, hash, &known(9));
        assert_eq!(read(at, hash), Some(known(9)));
        fs::copy(path(at, hash), path(at, [2; 32])).expect("copied");
        assert_eq!(read(at, [2; 32]), None);
        write(at, hash, &Known { nar_size: 10, ..known(9) });
        assert_eq!(read(at, hash), None);
        fs::write(path(at, hash), "rubbish").expect("written");
        assert_eq!(read(at, hash), None);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let number = |n: usize| [u8::try_from(n).expect("small"); 32];
        for n in 0..MAX_KNOWN + 2 {
            write(directory.path(), number(n), &known(1));
            let file =
                fs::File::options().append(true).open(path(directory.path(), number(n))).expect("opened");
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n as u64);
            file.set_modified(at).expect("dated");
        }
        write(directory.path(), number(200), &known(1));
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), MAX_KNOWN);
        assert!(read(directory.path(), number(0)).is_none() && read(directory.path(), number(200)).is_some());
    }
}
