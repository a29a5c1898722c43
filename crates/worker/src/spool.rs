//! What the worker says of its leases, kept until the coordinator has acknowledged it: on disk, so that it outlives
//! the session and this process, or in memory until it is sent.
//!
//! Owns the sequence numbers. Bounded: when it is full, or the disk is, log chunks are left out (their offsets show the
//! gap), results never. Never waits: a build goes on whatever becomes of its log.

mod queue;
mod segment;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use thiserror::Error;
use tokio::sync::Notify;

use queue::Queue;

/// Why what an earlier start left cannot be used.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// The directory cannot be made or read.
    #[error("the spool {} cannot be used", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Written by a newer program.
    #[error("{} is a spool of version {version}, which is unknown here: run the newer fleet-worker, or remove it", path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// As it says.
        version: String,
    },
}

/// Messages that are to arrive, in order.
#[derive(Debug)]
pub(crate) struct Spool {
    queue: Mutex<Queue>,
    changed: Notify,
}

impl Spool {
    /// In memory, and only until it is sent: for a session that has no successor.
    pub(crate) fn until_sent() -> Self {
        Self { queue: Mutex::new(Queue::in_memory()), changed: Notify::new() }
    }

    /// In a directory, with what an earlier start of this boot left there. Leases that start did not finish are
    /// over: nobody works on them.
    pub(crate) fn open(directory: &Path, boot_id: &str, limit: u64) -> Result<Self, SpoolError> {
        let mut queue = Queue::load(directory, boot_id, limit)?;
        for (lease, epoch) in queue.unfinished() {
            queue.add(Message::LeaseFinished(v1::LeaseFinished { lease, epoch }));
        }
        Ok(Self { queue: Mutex::new(queue), changed: Notify::new() })
    }

    /// Keeps a message; false for a log chunk that found no room.
    pub(crate) fn add(&self, message: Message) -> bool {
        let kept = self.lock().add(message);
        self.changed.notify_waiters();
        kept
    }

    /// The first message after a sequence number, adjoining log chunks as one. Waits for it.
    pub(crate) async fn next(&self, after: u64) -> v1::WorkerMessage {
        loop {
            let changed = self.changed.notified();
            if let Some(message) = self.lock().next(after) {
                return message;
            }
            changed.await;
        }
    }

    /// A message was handed over. That is enough where no acknowledgement comes.
    pub(crate) fn sent(&self, sequence: u64) {
        let mut queue = self.lock();
        if queue.ends_when_sent() {
            queue.acknowledge(sequence);
            drop(queue);
            self.changed.notify_waiters();
        }
    }

    /// Everything up to this number has arrived.
    pub(crate) fn acknowledge(&self, through: u64) {
        self.lock().acknowledge(through);
        self.changed.notify_waiters();
    }

    /// What is kept of a lease matters to nobody any more.
    /// 0 is any epoch.
    pub(crate) fn forget(&self, lease: u64, epoch: u64) {
        self.lock().forget(lease, epoch);
        self.changed.notify_waiters();
    }

    /// Leases with messages that have not arrived.
    pub(crate) fn leases(&self) -> Vec<(u64, u64)> {
        self.lock().leases()
    }

    /// Bytes kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    /// Waits until everything has arrived.
    pub(crate) async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lease that a message is about.
fn lease_of(message: &Message) -> Option<(u64, u64)> {
    match message {
        Message::StepBegun(said) => Some((said.lease, said.epoch)),
        Message::StepLogged(said) => Some((said.lease, said.epoch)),
        Message::StepReported(said) => Some((said.lease, said.epoch)),
        Message::LeaseFinished(said) => Some((said.lease, said.epoch)),
        _ => None,
    }
}
