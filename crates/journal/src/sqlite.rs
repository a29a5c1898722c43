//! A journal in an SQLite file. Owns the thread that owns the connection: commands go to it one by one, so nothing
//! blocks the runtime and nothing is written by two.

mod files;
mod inspect;
mod lock;
mod new;
mod repair;
mod schema;
mod store;
mod tables;
mod wal;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::clock::now_ms;
use crate::entry::{Entry, Loaded, check_sizes};
use crate::error::JournalError;
use crate::report::Report;
use crate::{Journal, Standby};
use files::Files;
use lock::Lock;
pub(crate) use repair::repair;
use store::Store;

/// Entries, and bytes of bodies, that travel from the thread at a time; one body may be larger.
const CHUNK_ENTRIES: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;
/// Chunks on their way.
const CHUNKS_AHEAD: usize = 2;
/// How often a standby looks whether the lock is free.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// An open SQLite journal.
#[derive(Debug)]
pub(crate) struct Sqlite {
    epoch: u64,
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    /// A command was sent and its end not seen, as when a future is dropped.
    in_doubt: bool,
}

type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

enum Command {
    Append(Vec<Entry>, Reply<u64>),
    Replace(Vec<Entry>, Reply<()>),
    Load(mpsc::Sender<Vec<Loaded>>, Reply<Report>),
}

impl Sqlite {
    pub(crate) async fn open(path: &Path, standby: Standby) -> Result<Self, JournalError> {
        let files = Files::of(path);
        files.make_directory()?;
        let lock = take_lock(&files, standby).await?;
        let (commands, inbox) = mpsc::channel(1);
        let (opened, opening) = oneshot::channel();
        let serve_all = move || match Store::open(files, lock, now_ms()) {
            Ok(store) => {
                if opened.send(Ok(store.epoch())).is_ok() {
                    serve(store, inbox);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(serve_all);
        let thread = thread.map_err(JournalError::io("start a thread for", path))?;
        let mut opened = Self { epoch: 0, commands: Some(commands), thread: Some(thread), in_doubt: false };
        opened.epoch = opening.await.unwrap_or(Err(JournalError::Poisoned))?;
        Ok(opened)
    }

    /// Sends a command and waits for its end.
    async fn ask<T>(
        &mut self,
        command: Command,
        answer: oneshot::Receiver<Result<T, JournalError>>,
    ) -> Result<T, JournalError> {
        self.begin(command).await?;
        let answer = answer.await;
        self.in_doubt = false;
        answer.unwrap_or(Err(JournalError::Poisoned))
    }

    async fn begin(&mut self, command: Command) -> Result<(), JournalError> {
        let commands = self.commands.as_ref().filter(|_| !self.in_doubt).ok_or(JournalError::Poisoned)?;
        self.in_doubt = true;
        commands.send(command).await.map_err(|_| JournalError::Poisoned)
    }
}

/// Waits for the lock without holding up anything: the waiting can be given up at any moment.
async fn take_lock(files: &Files, standby: Standby) -> Result<Lock, JournalError> {
    loop {
        match Lock::take(&files.lock) {
            Err(JournalError::Locked { .. }) if standby == Standby::Wait => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            taken => return taken,
        }
    }
}

fn serve(mut store: Store, mut inbox: mpsc::Receiver<Command>) {
    while let Some(command) = inbox.blocking_recv() {
        // Whoever asked may be gone; what was done stays done.
        let sound = match command {
            Command::Append(batch, reply) => answer(store.append(&batch), reply),
            Command::Replace(entries, reply) => answer(store.replace(&entries), reply),
            Command::Load(chunks, reply) => answer(load(&mut store, &chunks), reply),
        };
        if !sound {
            // Nothing is written after a failure, not by closing either; and nobody is left to take commands.
            return;
        }
    }
    store.close();
}

fn answer<T>(done: Result<T, JournalError>, reply: Reply<T>) -> bool {
    let sound = done.as_ref().map_or_else(JournalError::leaves_sound, |_| true);
    let _ = reply.send(done);
    sound
}

fn load(store: &mut Store, chunks: &mpsc::Sender<Vec<Loaded>>) -> Result<Report, JournalError> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    let report = store.load(&mut |loaded| {
        bytes += loaded.entry.body.len();
        chunk.push(loaded);
        if chunk.len() == CHUNK_ENTRIES || bytes >= CHUNK_BYTES {
            bytes = 0;
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
        self.ask(Command::Append(batch.to_vec(), reply), answer).await
    }

    async fn load(
        &mut self,
        each: &mut (dyn FnMut(Loaded) -> Result<(), JournalError> + Send),
    ) -> Result<Report, JournalError> {
        let (chunks, mut arriving) = mpsc::channel(CHUNKS_AHEAD);
        let (reply, answer) = oneshot::channel();
        self.begin(Command::Load(chunks, reply)).await?;
        while let Some(chunk) = arriving.recv().await {
            for loaded in chunk {
                each(loaded)?;
            }
        }
        let report = answer.await;
        self.in_doubt = false;
        report.unwrap_or(Err(JournalError::Poisoned))
    }

    async fn replace(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        check_sizes(entries)?;
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Replace(entries.to_vec(), reply), answer).await
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
