//! One file of the spool: a header line, then records with a length and a checksum each. Reads and appends them;
//! does not know what they say. A record that was cut short, or is damaged, ends its file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::SpoolError;

/// Version 1. Another one is of another program.
const MAGIC: &str = "fleet-spool ";
const VERSION: &str = "1";
/// Length, checksum.
const FRAME: usize = 4 + CHECKSUM;
const CHECKSUM: usize = 8;
/// Longer records are damage.
const MAX_RECORD: usize = 32 << 20;

/// A file of records, open for both.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    file: File,
    len: u64,
}

/// What a file held.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) segment: Segment,
    /// Where each stands, and its bytes.
    pub(super) records: Vec<(u64, Vec<u8>)>,
    /// Bytes at the end that are no record.
    pub(super) torn: u64,
}

impl Segment {
    /// Makes an empty file; one of this name must not exist.
    pub(super) fn create(path: PathBuf, boot_id: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let header = format!("{MAGIC}{VERSION} {boot_id}\n");
        if let Err(error) = file.write_all(header.as_bytes()) {
            // A file without a whole header would not be read again.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self { path, file, len: header.len() as u64 })
    }

    /// Reads a file of this boot of the machine; none for one of an earlier boot, or without a header.
    pub(super) fn load(path: &Path, boot_id: &str) -> Result<Option<Loaded>, SpoolError> {
        let failed = |source| SpoolError::File { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(failed)?;
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let header = String::from_utf8_lossy(&bytes[..end]);
        let Some((version, boot)) = header.strip_prefix(MAGIC).and_then(|rest| rest.split_once(' ')) else {
            return Ok(None);
        };
        if version != VERSION {
            return Err(SpoolError::Version { path: path.to_owned(), version: version.to_owned() });
        }
        if boot != boot_id {
            return Ok(None);
        }
        let mut at = end + 1;
        let mut records = Vec::new();
        while let Some(record) = record_at(&bytes[at..]) {
            records.push((at as u64, record.to_vec()));
            at += FRAME + record.len();
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        // What comes next must not run into remains.
        file.set_len(at as u64).map_err(failed)?;
        let segment = Self { path: path.to_owned(), file, len: at as u64 };
        Ok(Some(Loaded { segment, records, torn: (bytes.len() - at) as u64 }))
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Adds a record and says where it stands. What a full disk cut short is taken back.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<u64> {
        let length = u32::try_from(record.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut frame = Vec::with_capacity(FRAME + record.len());
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&checksum(record));
        frame.extend_from_slice(record);
        let at = self.len;
        if let Err(error) = self.file.write_all_at(&frame, at) {
            let _ = self.file.set_len(at);
            return Err(error);
        }
        self.len += frame.len() as u64;
        Ok(at)
    }

    /// The record that stands at a place.
    pub(super) fn read(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut frame = [0; FRAME];
        self.file.read_exact_at(&mut frame, at)?;
        let (length, sum) = frame.split_at(4);
        let length = u32::from_le_bytes(length.try_into().map_err(|_| io::ErrorKind::InvalidData)?) as usize;
        if length > MAX_RECORD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut record = vec![0; length];
        self.file.read_exact_at(&mut record, at + FRAME as u64)?;
        if checksum(&record) == sum { Ok(record) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Deletes the file.
    pub(super) fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a file of the spool cannot be removed");
        }
    }
}

fn record_at(bytes: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    if length > MAX_RECORD {
        return None;
    }
    let record = bytes.get(FRAME..FRAME + length)?;
    (checksum(record) == bytes[4..FRAME]).then_some(record)
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.copy_from_slice(&blake3::hash(record).as_bytes()[..CHECKSUM]);
    sum
}
