//! A journal in PostgreSQL, for several coordinators: one is active, the others wait or are refused. Owns the
//! session that holds the journal's lock, and the head as the last commit left it.
//!
//! Two guards keep a past active from writing: the server lets nobody else have the lock while its session lives,
//! and every change is made only where the head still has the epoch of whoever makes it. A lost connection leaves
//! open whether the last change was committed: it is made again on a new one, once the lock is ours again, where it has
//! no effect if the first was.

mod session;
mod tables;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use tokio::time::{Instant, sleep, timeout};

use crate::chain::{Broken, Follower, Head};
use crate::clock::now_ms;
use crate::entry::{Entry, Loaded, check_sizes};
use crate::error::JournalError;
use crate::report::Report;
use crate::{Journal, Standby};
use session::Session;
use tables::{Change, Failure, failed};

/// How long the server may be away or silent before the journal gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a lost server, or the lock of a session that is ending, is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// An open PostgreSQL journal.
#[derive(Debug)]
pub(crate) struct Postgres {
    config: tokio_postgres::Config,
    session: Session,
    head: Head,
    report: Report,
    /// A change was begun and its end not seen, as when a future is dropped.
    in_doubt: bool,
}

impl Postgres {
    pub(crate) async fn open(location: &str, standby: Standby) -> Result<Self, JournalError> {
        let config = session::configured(location)?;
        let mut session = Session::connect(&config).await.map_err(failed("reach"))?;
        session.check_server().await?;
        while !session.try_lock().await.map_err(failed("lock"))? {
            if standby == Standby::Refuse {
                return Err(JournalError::Locked { by: session.holder().await });
            }
            // A standby outlives a restart of the server; it was there once, so its address is right.
            while session.wait_for_lock().await.is_err() {
                session = reconnect(&config).await;
            }
        }
        let found = tables::take_over(&session, now_ms()).await?;
        Ok(Self { config, session, head: found.head, report: found.report, in_doubt: false })
    }

    async fn commit(&mut self, change: Change<'_>) -> Result<(), JournalError> {
        if self.in_doubt {
            return Err(JournalError::Poisoned);
        }
        self.in_doubt = true;
        let done = self.commit_for_certain(&change).await;
        self.in_doubt = done.as_ref().is_err_and(|error| !error.leaves_sound());
        done.map(|()| self.head = change.head)
    }

    async fn commit_for_certain(&mut self, change: &Change<'_>) -> Result<(), JournalError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match answered(tables::write(&self.session, &self.head, change)).await {
                Ok(true) => return Ok(()),
                // The head is not the one we left: this is the second try, and the first was committed after all.
                Ok(false) => return self.check_committed(&change.head).await,
                Err(Failure::Known(error)) => return Err(error),
                Err(Failure::Lost(error)) if Instant::now() >= deadline => return Err(error),
                Err(Failure::Lost(_)) => self.resume(deadline).await?,
            }
        }
    }

    /// Looks whether the head is `new`.
    async fn check_committed(&self, new: &Head) -> Result<(), JournalError> {
        let found = tables::head(&self.session).await.map_err(Failure::into_error)?;
        if found == *new {
            Ok(())
        } else if found.epoch != self.head.epoch {
            Err(self.fenced())
        } else {
            Err(JournalError::Corrupt { place: "table fleet_journal_head is not as it was left".to_owned() })
        }
    }

    /// Gets a new session with the lock, unless another coordinator took over in between.
    async fn resume(&mut self, deadline: Instant) -> Result<(), JournalError> {
        loop {
            let error = match self.try_to_resume().await {
                Ok(None) => JournalError::Locked { by: "a session that has not ended yet".to_owned() },
                Ok(Some(session)) => {
                    self.session = session;
                    return Ok(());
                }
                Err(Failure::Known(error)) => return Err(error),
                Err(Failure::Lost(error)) => error,
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            sleep(TRY_AGAIN).await;
        }
    }

    async fn try_to_resume(&self) -> Result<Option<Session>, Failure> {
        let session =
            answered(async { Session::connect(&self.config).await.map_err(Failure::of("reach")) }).await?;
        let found = answered(tables::head(&session)).await?;
        if found.epoch != self.head.epoch {
            return Err(Failure::Known(self.fenced()));
        }
        let locked = answered(async { session.try_lock().await.map_err(Failure::of("lock")) }).await?;
        Ok(locked.then_some(session))
    }

    fn fenced(&self) -> JournalError {
        JournalError::Fenced { epoch: self.head.epoch }
    }

    /// A chain that breaks while it is read is damage, unless another coordinator replaced the history meanwhile.
    async fn broken(&self, Broken { seq }: Broken) -> JournalError {
        match tables::head(&self.session).await {
            Ok(head) if head.epoch != self.head.epoch => self.fenced(),
            _ => JournalError::Corrupt { place: format!("table fleet_journal_entries, entry {seq}") },
        }
    }
}

/// A new session, however long that takes.
async fn reconnect(config: &tokio_postgres::Config) -> Session {
    loop {
        if let Ok(session) = Session::connect(config).await {
            return session;
        }
        sleep(TRY_AGAIN).await;
    }
}

/// A server that says nothing for too long is as good as lost.
async fn answered<T>(question: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(PATIENCE, question).await.unwrap_or_else(|_| Err(Failure::silent()))
}

#[async_trait]
impl Journal for Postgres {
    async fn append(&mut self, batch: &[Entry]) -> Result<u64, JournalError> {
        check_sizes(batch)?;
        if !batch.is_empty() {
            self.commit(Change::of(&self.head, batch, false)).await?;
        }
        Ok(self.head.last_seq)
    }

    async fn load(
        &mut self,
        each: &mut (dyn FnMut(Loaded) -> Result<(), JournalError> + Send),
    ) -> Result<Report, JournalError> {
        if self.in_doubt {
            return Err(JournalError::Poisoned);
        }
        self.in_doubt = true;
        let mut follower = Follower::after(self.head.base_seq);
        {
            let mut rows = pin!(tables::select(&self.session).await?);
            while let Some(row) = rows.try_next().await.map_err(failed("read"))? {
                let Some((loaded, sum)) = tables::loaded(&row) else {
                    return Err(self.broken(follower.expected()).await);
                };
                if let Err(broken) = follower.follow(&loaded, sum) {
                    return Err(self.broken(broken).await);
                }
                each(loaded)?;
            }
        }
        if let Err(broken) = follower.finish(&self.head) {
            return Err(self.broken(broken).await);
        }
        self.in_doubt = false;
        let (base_seq, last_seq) = (self.head.base_seq, self.head.last_seq);
        Ok(Report { entries: last_seq - base_seq, last_seq, ..self.report.clone() })
    }

    async fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        check_sizes(entries)?;
        self.commit(Change::of(&self.head, entries, true)).await?;
        self.report.format = self.head.format;
        Ok(())
    }

    fn epoch(&self) -> u64 {
        self.head.epoch
    }
}
