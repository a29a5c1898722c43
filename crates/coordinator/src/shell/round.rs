//! What one round of inputs comes to: entries for the journal, and what is done when they are durable. Owns only the
//! order; nothing here does anything by itself.

use std::collections::VecDeque;
use std::sync::Arc;

use fleet_core::{Event, Session};
use fleet_identity::Registry;
use fleet_journal::Entry;
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::Reply;
use super::sessions::Connected;
use crate::feed::Feed;
use crate::log_index::Fact;

/// One round.
#[derive(Default)]
pub(super) struct Round {
    pub(super) entries: Vec<Entry>,
    pub(super) deeds: Vec<Deed>,
    caused: VecDeque<Event>,
}

/// One thing that others see, or that makes room for them.
pub(super) enum Deed {
    /// An event of a run, for all who watch it.
    Show(Arc<Feed>, v1::RunEvent),
    /// A log line, for those who watch with logs.
    Pass(Arc<Feed>, v1::StepLog),
    /// Where logs are found later.
    Index(Fact),
    /// To a worker.
    Say(Session, ToWorker),
    /// The end of a session that is out of the table already.
    Cut(Box<Connected>, Status),
    /// The end of a session that its worker closed.
    Close(Box<Connected>),
    /// A worker's message was taken in; the number is for its acknowledgement.
    Heard(Session, u64, OwnedSemaphorePermit),
    /// Who may come in from now on.
    Publish(Arc<Registry>),
    /// An answer, or why there is none.
    Answer(Answer),
}

/// Gives an answer, or the reason why it cannot be given.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Status>) + Send>;

impl Round {
    pub(super) fn keep(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub(super) fn then(&mut self, deed: Deed) {
        self.deeds.push(deed);
    }

    /// Answers when all of this is durable. A peer that no longer waits is no error.
    pub(super) fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Status>) {
        let give = move |durable: Result<(), Status>| drop(reply.send(durable.and(answer)));
        self.deeds.push(Deed::Answer(Box::new(give)));
    }

    /// Something to be applied after the event at hand.
    pub(super) fn cause(&mut self, event: Event) {
        self.caused.push_back(event);
    }

    pub(super) fn take_caused(&mut self) -> Option<Event> {
        self.caused.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.deeds.is_empty()
    }
}
