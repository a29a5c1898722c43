//! The spool's content: an index in memory, records in files. One caller at a time; never waits.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use prost::Message as _;

use super::segment::Segment;
use super::{SpoolError, lease_of};

/// A file that has grown to this is followed by another.
const SEGMENT: u64 = 8 << 20;
/// A file whose content has arrived is replaced when it is larger.
const WORTH_REPLACING: u64 = 256 << 10;
/// What may wait in memory when there is no disk, or no room on it, bytes of log.
const MEMORY: u64 = 4 << 20;
/// Log chunks that may wait: each costs some memory.
const MAX_CHUNKS: usize = 200_000;
/// Bytes of adjoining log chunks that are sent as one.
const MERGED: usize = 64 << 10;

const MESSAGE: u8 = 1;
const ACKNOWLEDGED: u8 = 2;
const FORGOTTEN: u8 = 3;

#[derive(Debug)]
pub(super) struct Queue {
    files: Option<Files>,
    entries: VecDeque<Entry>,
    next: u64,
    bytes: u64,
    in_memory: u64,
    chunks: usize,
    limit: u64,
}

#[derive(Debug)]
struct Files {
    directory: PathBuf,
    boot_id: String,
    /// By the first sequence number that may stand in it. The last one grows.
    segments: BTreeMap<u64, Segment>,
    is_failing: bool,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    lease: u64,
    epoch: u64,
    kind: Kind,
    size: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Log,
    End,
    Other,
}

#[derive(Debug)]
enum Place {
    Memory(Bytes),
    File { segment: u64, at: u64 },
}

impl Queue {
    pub(super) fn in_memory() -> Self {
        let entries = VecDeque::new();
        Self { files: None, entries, next: 1, bytes: 0, in_memory: 0, chunks: 0, limit: MEMORY }
    }

    pub(super) fn load(directory: &Path, boot_id: &str, limit: u64) -> Result<Self, SpoolError> {
        let failed = |source| SpoolError::File { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let (directory, boot_id) = (directory.to_owned(), boot_id.to_owned());
        let mut files = Files { directory, boot_id, segments: BTreeMap::new(), is_failing: false };
        let mut queue = Self { limit, ..Self::in_memory() };
        for (first, path) in files.found()? {
            queue.next = queue.next.max(first);
            let Some(loaded) = Segment::load(&path, &files.boot_id)? else {
                // Of an earlier boot of this machine: its leases are void.
                std::fs::remove_file(&path).map_err(failed)?;
                continue;
            };
            if loaded.torn > 0 {
                tracing::warn!(path = %path.display(), bytes = loaded.torn, "the spool's end was cut short");
            }
            for (at, record) in loaded.records {
                queue.recall(first, at, &record);
            }
            files.segments.insert(first, loaded.segment);
        }
        files.open_segment(queue.next).map_err(failed)?;
        queue.files = Some(files);
        queue.remove_finished_segments();
        Ok(queue)
    }

    pub(super) fn ends_when_sent(&self) -> bool {
        self.files.is_none()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn leases(&self) -> Vec<(u64, u64)> {
        let leases: BTreeSet<_> = self.entries.iter().map(|entry| (entry.lease, entry.epoch)).collect();
        leases.into_iter().collect()
    }

    /// Leases whose end is not among what is kept of them.
    pub(super) fn unfinished(&self) -> Vec<(u64, u64)> {
        let ended: HashSet<u64> =
            self.entries.iter().filter(|entry| entry.kind == Kind::End).map(|entry| entry.lease).collect();
        self.leases().into_iter().filter(|(lease, _)| !ended.contains(lease)).collect()
    }

    pub(super) fn add(&mut self, message: Message) -> bool {
        let Some((lease, epoch)) = lease_of(&message) else {
            return false;
        };
        let kind = Kind::of(&message);
        let sequence = self.next;
        let message = v1::WorkerMessage { sequence, message: Some(message) };
        let mut record = Vec::with_capacity(message.encoded_len() + 1);
        record.push(MESSAGE);
        message.encode_raw(&mut record);
        let size = record.len() as u64;
        if kind == Kind::Log && (self.bytes + size > self.limit || self.chunks >= MAX_CHUNKS) {
            return false;
        }
        let written = self.files.as_mut().and_then(|files| files.append(sequence, &record));
        let place = match written {
            Some(place) => place,
            None if kind == Kind::Log && self.in_memory + size > MEMORY => return false,
            None => Place::Memory(record.into()),
        };
        self.next += 1;
        self.push(Entry { sequence, lease, epoch, kind, size, place });
        true
    }

    pub(super) fn next(&mut self, after: u64) -> Option<v1::WorkerMessage> {
        let mut index = self.entries.partition_point(|entry| entry.sequence <= after);
        let mut message = loop {
            let entry = self.entries.get(index)?;
            if let Some(message) = self.read(entry) {
                break message;
            }
            tracing::error!(lease = entry.lease, "a message in the spool cannot be read: it is left out");
            index += 1;
        };
        let v1::WorkerMessage { sequence, message: Some(Message::StepLogged(log)) } = &mut message else {
            return Some(message);
        };
        let mut data = Vec::from(std::mem::take(&mut log.data));
        for entry in self.entries.range(index + 1..) {
            let adjoins = entry.kind == Kind::Log && entry.lease == log.lease;
            let fits = usize::try_from(entry.size).is_ok_and(|size| data.len() + size <= MERGED);
            let more = if adjoins && fits { self.read(entry) } else { None };
            match more.and_then(|more| more.message) {
                Some(Message::StepLogged(more))
                    if more.drv == log.drv && more.offset == log.offset + data.len() as u64 =>
                {
                    data.extend_from_slice(&more.data);
                    *sequence = entry.sequence;
                }
                _ => break,
            }
        }
        log.data = data.into();
        Some(message)
    }

    pub(super) fn acknowledge(&mut self, through: u64) {
        let mut any = false;
        while self.entries.front().is_some_and(|entry| entry.sequence <= through) {
            if let Some(entry) = self.entries.pop_front() {
                self.uncount(&entry);
                any = true;
            }
        }
        if any {
            self.settle(ACKNOWLEDGED, through);
        }
    }

    pub(super) fn forget(&mut self, lease: u64, epoch: u64) {
        let concerns = |entry: &Entry| entry.lease == lease && (epoch == 0 || entry.epoch == epoch);
        let before = self.entries.len();
        let (kept, gone): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.entries).into_iter().partition(|entry| !concerns(entry));
        self.entries = kept;
        for entry in &gone {
            self.uncount(entry);
        }
        if self.entries.len() < before {
            self.settle(FORGOTTEN, lease);
        }
    }

    /// As a full disk does.
    #[cfg(test)]
    pub(super) fn fail_writes(&mut self) {
        let files = self.files.as_mut().expect("a spool on disk");
        files.segments.clear();
        files.directory = files.directory.join("not/there");
    }

    /// Notes what needs no longer be kept. Without room for the note it is said again one day, which harms nobody.
    fn settle(&mut self, kind: u8, number: u64) {
        let next = self.next;
        if let Some(files) = &mut self.files {
            let mut record = vec![kind];
            record.extend_from_slice(&number.to_le_bytes());
            files.append(next, &record);
        }
        self.remove_finished_segments();
    }

    /// What an earlier start wrote at this place.
    fn recall(&mut self, segment: u64, at: u64, record: &[u8]) {
        let number = || record.get(1..9)?.try_into().ok().map(u64::from_le_bytes);
        match record.first() {
            Some(&MESSAGE) => {
                let Ok(message) = v1::WorkerMessage::decode(&record[1..]) else {
                    return;
                };
                let (sequence, size) = (message.sequence, record.len() as u64);
                self.next = self.next.max(sequence + 1);
                if let Some(message) = message.message
                    && let Some((lease, epoch)) = lease_of(&message)
                {
                    let (kind, place) = (Kind::of(&message), Place::File { segment, at });
                    self.push(Entry { sequence, lease, epoch, kind, size, place });
                }
            }
            Some(&ACKNOWLEDGED) => {
                if let Some(through) = number() {
                    self.next = self.next.max(through + 1);
                    self.acknowledge(through);
                }
            }
            Some(&FORGOTTEN) => number().into_iter().for_each(|lease| self.forget(lease, 0)),
            _ => {}
        }
    }

    fn read(&self, entry: &Entry) -> Option<v1::WorkerMessage> {
        let record = match &entry.place {
            Place::Memory(record) => record.clone(),
            Place::File { segment, at } => {
                let segment = self.files.as_ref()?.segments.get(segment)?;
                segment.read(*at).ok()?.into()
            }
        };
        v1::WorkerMessage::decode(record.get(1..)?).ok()
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.size;
        self.in_memory += entry.in_memory();
        self.chunks += usize::from(entry.kind == Kind::Log);
        self.entries.push_back(entry);
    }

    fn uncount(&mut self, entry: &Entry) {
        self.bytes -= entry.size;
        self.in_memory -= entry.in_memory();
        self.chunks -= usize::from(entry.kind == Kind::Log);
    }

    /// Entries stand in the order of their files: what lies before the first entry's file has arrived.
    fn remove_finished_segments(&mut self) {
        let needed = self.entries.iter().find_map(|entry| match entry.place {
            Place::File { segment, .. } => Some(segment),
            Place::Memory(_) => None,
        });
        if let Some(files) = &mut self.files {
            files.keep_from(needed, self.next);
        }
    }
}

impl Files {
    fn found(&self) -> Result<BTreeMap<u64, PathBuf>, SpoolError> {
        let failed = |source| SpoolError::File { path: self.directory.clone(), source };
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = name.strip_suffix(".spool").and_then(|number| number.parse().ok());
            if let Some(number) = number {
                found.insert(number, path);
            }
        }
        Ok(found)
    }

    fn open_segment(&mut self, first: u64) -> std::io::Result<()> {
        if !self.segments.contains_key(&first) {
            let path = self.directory.join(format!("{first:020}.spool"));
            self.segments.insert(first, Segment::create(path, &self.boot_id)?);
        }
        Ok(())
    }

    fn append(&mut self, sequence: u64, record: &[u8]) -> Option<Place> {
        let written = self.try_append(sequence, record);
        match &written {
            Err(error) if !self.is_failing => {
                tracing::warn!(directory = %self.directory.display(), %error, "the spool cannot be written: \
                    results wait in memory, logs may have gaps");
            }
            _ => {}
        }
        self.is_failing = written.is_err();
        written.ok()
    }

    fn try_append(&mut self, sequence: u64, record: &[u8]) -> std::io::Result<Place> {
        if self.segments.last_key_value().is_none_or(|(_, segment)| segment.len() > SEGMENT) {
            self.open_segment(sequence)?;
        }
        let mut last = self.segments.last_entry().ok_or(std::io::ErrorKind::NotFound)?;
        let at = last.get_mut().append(record)?;
        Ok(Place::File { segment: *last.key(), at })
    }

    /// Removes the files before `needed`; without one, every file but the one that will grow.
    fn keep_from(&mut self, needed: Option<u64>, next: u64) {
        let Some((&last, segment)) = self.segments.last_key_value() else {
            return;
        };
        // Its last message may carry the number before `next`: the next file's name keeps the count.
        let replaced = needed.is_none() && segment.len() > WORTH_REPLACING && self.open_segment(next).is_ok();
        let keep = needed.unwrap_or(if replaced { next } else { last });
        let kept = self.segments.split_off(&keep);
        std::mem::replace(&mut self.segments, kept).into_values().for_each(Segment::remove);
    }
}

impl Kind {
    fn of(message: &Message) -> Self {
        match message {
            Message::StepLogged(_) => Self::Log,
            Message::LeaseFinished(_) => Self::End,
            _ => Self::Other,
        }
    }
}

impl Entry {
    fn in_memory(&self) -> u64 {
        match &self.place {
            Place::Memory(record) => record.len() as u64,
            Place::File { .. } => 0,
        }
    }
}
