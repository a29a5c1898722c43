//! From a round to what is seen of it. Owns the order: durable first. A full disk holds the round back, and with it
//! everything after it, until there is room; any other failure of the journal ends the shell.

use std::time::Duration;

use fleet_core::{Event, Record, Session};
use fleet_journal::{Entry, JournalError};
use tokio::sync::mpsc::error::TrySendError;
use tonic::Status;

use super::Shell;
use super::round::{Deed, Round};
use crate::kept;
use crate::rpc::status;

/// How soon a full disk is tried again.
const FULL_AGAIN: Duration = Duration::from_millis(500);

impl Shell {
    /// Makes a round durable and does what it asks, and the same for what follows from that.
    pub(super) async fn finish(
        &mut self,
        round: Round,
        stopping: impl Fn() -> bool,
    ) -> Result<(), JournalError> {
        let mut round = round;
        while !round.is_empty() {
            if let Err(error) = self.append(&round.entries, &stopping).await {
                let status = status::not_durable(&error);
                for deed in round.deeds {
                    if let Deed::Answer(give) = deed {
                        give(Err(status.clone()));
                    }
                }
                return Err(error);
            }
            round = self.perform(round.deeds);
        }
        Ok(())
    }

    /// Until the batch is kept, nothing else is: what the core already knows of it must not get ahead of the disk.
    async fn append(&mut self, entries: &[Entry], stopping: &impl Fn() -> bool) -> Result<(), JournalError> {
        if entries.is_empty() {
            return Ok(());
        }
        loop {
            match self.journal.append(entries).await {
                Ok(_) => break,
                Err(error @ JournalError::Full) if !stopping() => {
                    if self.read_only.send_if_modified(|why| {
                        let first = why.is_empty();
                        *why = error.to_string();
                        first
                    }) {
                        tracing::error!(%error, "nothing new is taken until there is room");
                    }
                    tokio::time::sleep(FULL_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
        if !self.read_only.borrow().is_empty() {
            tracing::info!("the journal has room again");
            self.read_only.send_replace(String::new());
        }
        self.appended += entries.len();
        Ok(())
    }

    fn perform(&mut self, deeds: Vec<Deed>) -> Round {
        let mut broken: Vec<(Session, Status)> = Vec::new();
        for deed in deeds {
            match deed {
                Deed::Show(feed, event) => feed.show(event),
                Deed::Pass(feed, log) => feed.pass(log),
                Deed::Index(fact) => {
                    if let Err(error) = self.index.append(&[fact]) {
                        tracing::warn!("{}", fleet_telemetry::with_causes(&error));
                    }
                }
                Deed::Say(session, message) => match self.sessions.say(session, message) {
                    Some(Err(TrySendError::Full(_))) => broken.push((session, status::not_taken())),
                    Some(Err(TrySendError::Closed(_))) => broken.push((session, status::broken())),
                    Some(Ok(())) | None => {}
                },
                Deed::Cut(connected, why) => connected.end(Err(why)),
                Deed::Close(connected) => connected.end(Ok(())),
                Deed::Heard(session, sequence, permit) => {
                    if let Some(outbound) = self.sessions.outbound(session).filter(|_| sequence > 0) {
                        self.acks.owe(session, outbound, sequence);
                    }
                    drop(permit);
                }
                Deed::Publish(registry) => drop(self.durable_registry.send_replace(registry)),
                Deed::Answer(give) => give(Ok(())),
            }
        }
        let mut round = Round::default();
        for (session, why) in broken {
            self.end_session(session, why, &mut round);
        }
        round
    }

    /// The core's record becomes an entry. Definitions of steps follow from the derivations that were kept before.
    pub(super) fn record(&mut self, record: Record, round: &mut Round) {
        let mut record = record;
        if let Record::Happened { event: Event::EvalReported { report, .. }, .. } = &mut record
            && let Some(evaluated) = super::inbound::evaluated(report)
        {
            self.derivations.told(&evaluated.wanted);
            evaluated.new_steps.clear();
        }
        round.keep(kept::core(&record));
    }
}
