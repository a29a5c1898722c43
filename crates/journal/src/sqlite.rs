//! A journal in an SQLite file. Owns the thread that owns the connection: commands go to it one by one, so nothing
//! blocks the runtime and nothing is written by two.

mod tables;

use std::path::Path;
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::entry::{Entry, Loaded, check_sizes};
use crate::error::JournalError;
use crate::report::Report;
use crate::{Journal, Standby};
use tables::Tables;

/// Entries that travel from the thread at a time.
const CHUNK: usize = 256;
/// Chunks on their way.
const CHUNKS_AHEAD: usize = 4;

/// An open SQLite journal.
#[derive(Debug)]
pub(crate) struct Sqlite {
    epoch: u64,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Append(Vec<Entry>, oneshot::Sender<Result<u64, JournalError>>),
    Replace(Vec<Entry>, oneshot::Sender<Result<(), JournalError>>),
    Load(mpsc::Sender<Vec<Loaded>>, oneshot::Sender<Result<Report, JournalError>>),
}

impl Sqlite {
    pub(crate) async fn open(path: &Path, _standby: Standby) -> Result<Self, JournalError> {
        let (commands, inbox) = mpsc::channel(1);
        let (opened, opening) = oneshot::channel();
        let path = path.to_owned();
        let thread = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn({
                let path = path.clone();
                move || match Tables::open(&path) {
                    Ok(tables) => {
                        if opened.send(Ok(tables.epoch())).is_ok() {
                            serve(tables, inbox);
                        }
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            })
            .map_err(JournalError::io("start a thread for", &path))?;
        let epoch = opening.await.unwrap_or(Err(JournalError::Poisoned))?;
        Ok(Self { epoch, commands: Some(commands), thread: Some(thread) })
    }

    async fn send<T>(
        &self,
        command: Command,
        reply: oneshot::Receiver<Result<T, JournalError>>,
    ) -> Result<T, JournalError> {
        let commands = self.commands.as_ref().ok_or(JournalError::Poisoned)?;
        commands.send(command).await.map_err(|_| JournalError::Poisoned)?;
        reply.await.unwrap_or(Err(JournalError::Poisoned))
    }
}

fn serve(mut tables: Tables, mut inbox: mpsc::Receiver<Command>) {
    let mut poisoned = false;
    while let Some(command) = inbox.blocking_recv() {
        // Whoever asked may be gone; what was done stays done.
        match command {
            _ if poisoned => drop(command),
            Command::Append(batch, reply) => {
                let done = tables.append(&batch);
                poisoned = done.as_ref().is_err_and(|error| !error.leaves_sound());
                let _ = reply.send(done);
            }
            Command::Replace(entries, reply) => {
                let done = tables.replace(&entries);
                poisoned = done.as_ref().is_err_and(|error| !error.leaves_sound());
                let _ = reply.send(done);
            }
            Command::Load(chunks, reply) => {
                let _ = reply.send(load(&mut tables, &chunks));
            }
        }
    }
}

fn load(tables: &mut Tables, chunks: &mpsc::Sender<Vec<Loaded>>) -> Result<Report, JournalError> {
    let mut chunk = Vec::with_capacity(CHUNK);
    let report = tables.walk(&mut |loaded| {
        chunk.push(loaded);
        if chunk.len() == CHUNK {
            chunks.blocking_send(std::mem::take(&mut chunk)).map_err(|_| JournalError::Poisoned)?;
        }
        Ok(())
    })?;
    chunks.blocking_send(chunk).map_err(|_| JournalError::Poisoned)?;
    Ok(report)
}

#[async_trait]
impl Journal for Sqlite {
    async fn append(&mut self, batch: &[Entry]) -> Result<u64, JournalError> {
        check_sizes(batch)?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Append(batch.to_vec(), reply), answer).await
    }

    async fn load(
        &mut self,
        each: &mut (dyn FnMut(Loaded) -> Result<(), JournalError> + Send),
    ) -> Result<Report, JournalError> {
        let (chunks, mut arriving) = mpsc::channel(CHUNKS_AHEAD);
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or(JournalError::Poisoned)?;
        commands.send(Command::Load(chunks, reply)).await.map_err(|_| JournalError::Poisoned)?;
        while let Some(chunk) = arriving.recv().await {
            for loaded in chunk {
                each(loaded)?;
            }
        }
        answer.await.unwrap_or(Err(JournalError::Poisoned))
    }

    async fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        check_sizes(entries)?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Replace(entries.to_vec(), reply), answer).await
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        self.commands = None;
        // The lock is let go when the thread ends: whoever opens next must find it free.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
