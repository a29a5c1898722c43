//! Keeps the journal short: when no run lives and it has grown, the little that must be remembered replaces it, and
//! the core begins anew from that. Both then know the same, as after a restart.

use fleet_core::{Effect, Event, Fleet};
use fleet_journal::{Entry, JournalError};
use fleet_nix::StoreDir;
use fleet_paths::Table;

use super::Shell;
use super::known::MAX_KNOWN;
use super::round::Round;
use super::sessions::Rejoin;
use crate::derivations::{Derivations, MAX_BYTES};
use crate::kept;
use crate::rpc::status;

/// Entries that are not worth it.
const FEW: usize = 50_000;

/// The table that these records make.
fn remembered(records: Vec<fleet_paths::Record>) -> Table {
    let mut known = Table::new(StoreDir::default(), MAX_KNOWN);
    for record in records {
        known.apply(record);
    }
    known
}

impl Shell {
    /// Compacts, if it is worth it and nothing is going on. A full disk is no reason to stop: there is another time.
    pub(super) async fn compact_when_idle(&mut self) -> Result<(), JournalError> {
        if self.appended < FEW {
            return Ok(());
        }
        self.compact().await
    }

    pub(super) async fn compact(&mut self) -> Result<(), JournalError> {
        let Some(records) = self.fleet.condense() else { return Ok(()) };
        let mut entries: Vec<Entry> = records.iter().map(kept::core).collect();
        let identities = self.registry.condense(fleet_identity::unix_now());
        entries.extend(identities.iter().map(kept::identity));
        for (run, state) in self.runs.all() {
            entries.push(state.kept(run, state.request.clone()));
            entries.extend(state.feed.all().iter().map(|event| kept::event(&state.feed.origin().run, event)));
        }
        let known = self.known.snapshot();
        entries.extend(known.iter().map(kept::path));
        entries.extend(self.roots.condense().iter().map(kept::root));
        let Ok(fleet) = Fleet::restore(self.settings.fleet.clone(), records) else {
            tracing::error!("the core cannot be condensed; its whole history stays");
            self.appended = 0;
            return Ok(());
        };
        match self.journal.replace(&entries).await {
            Ok(()) => tracing::info!(from = self.appended, to = entries.len(), "the journal was compacted"),
            Err(error @ (JournalError::Full | JournalError::TooLarge { .. })) => {
                tracing::warn!(%error, "the journal is not compacted");
                self.appended = 0;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.appended = 0;
        self.fleet = fleet;
        self.known = remembered(known);
        self.begin_anew().await
    }

    /// The core meets its workers again, who notice nothing.
    async fn begin_anew(&mut self) -> Result<(), JournalError> {
        let mut round = Round::default();
        self.derivations.begin_anew();
        let now = self.clock.now();
        let mut effects = self.fleet.apply(now, Event::Restarted { epoch_floor: fleet_core::Epoch(0) });
        for Rejoin { worker, session, hello } in self.sessions.rejoins() {
            effects.extend(
                self.fleet.apply(now, Event::WorkerJoined { worker, session, hello, holds: Vec::new() }),
            );
        }
        // They know how they stand.
        effects.retain(|effect| !matches!(effect, Effect::Send(..)));
        self.absorb(effects, &mut round);
        if self.derivations.bytes() > MAX_BYTES / 2 {
            self.derivations = Derivations::new(MAX_BYTES);
            for Rejoin { session, .. } in self.sessions.rejoins() {
                self.end_session(session, status::tidied(), &mut round);
            }
        }
        self.finish(round, || false).await
    }
}
