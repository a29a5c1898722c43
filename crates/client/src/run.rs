//! One run from the flake to its record: pack, start or reach a coordinator, submit, watch.
//!
//! Owns the order of these and nothing else.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::contact::{Contact, News};
use crate::embed::{self, EmbedConfig, Embedded};
use crate::error::CliError;
use crate::exit_code::Exit;
use crate::interruption::Manner;
use crate::options::RunOptions;
use crate::prepare::{Preparation, Prepared, prepare};
use crate::progress::Display;
use crate::remote::Connection;
use crate::report::{Record, Sides};
use crate::signals::Signals;
use crate::source::Location;
use crate::source::inputs::Reach;
use crate::submit::Submission;
use crate::watch::{self, CANCEL_WITHIN, TICK, Watch, Watched};

/// How long a coordinator in this process may hold an answer back.
const IN_PROCESS_PATIENCE: Duration = Duration::from_secs(5);
/// News of contact that wait to be shown.
const NEWS: usize = 8;

/// A run that is over.
#[derive(Debug)]
pub struct Finished {
    /// Its name.
    pub run: String,
    /// What it said.
    pub record: Record,
    /// What was compared.
    pub sides: Sides,
    /// Whether the user asked it to stop.
    pub stopped: bool,
}

/// How a command that submits or watches a run ended.
#[derive(Debug)]
pub enum Ended {
    /// With the run.
    Finished(Box<Finished>),
    /// The run was submitted, and nobody was to wait for it.
    Submitted(String),
    /// The user left; the run goes on.
    Detached(String),
}

/// A coordinator elsewhere, and how we deal with it.
#[derive(Clone, Debug)]
pub struct There {
    /// The way to it.
    pub connection: Connection,
    /// How long to keep trying without contact.
    pub reconnect_for: Duration,
    /// What signals mean.
    pub manner: Manner,
    /// Submit, and leave.
    pub detach: bool,
}

/// Runs it in this process. A cancelled run is an error of its own kind only when it had no time to say so itself.
pub async fn run_here<W: Write>(
    options: &RunOptions,
    embed: EmbedConfig,
    location: &Location,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<Ended, CliError> {
    let (sender, mut news) = mpsc::channel(NEWS);
    let preparing = prepare_and_start(options, embed, location, &sender);
    let (prepared, embedded) = hearing(Box::pin(preparing), &mut news, display, signals).await?;
    let there = There {
        connection: Connection::in_memory(embedded.channel.clone()),
        reconnect_for: IN_PROCESS_PATIENCE,
        manner: Manner::InProcess,
        detach: false,
    };
    let ended = submit_and_watch(options, prepared, &there, display, signals).await;
    // Here, nobody is out of reach.
    let ended = ended.map_err(|error| match error.exit() {
        Exit::Unreachable => error.exiting(Exit::Error),
        _ => error,
    });
    if ended.as_ref().is_err_and(CliError::is_cancelled) {
        // Dropping the connections ends builders and evaluators; nobody waits for that.
        return ended;
    }
    tokio::select! {
        () = embedded.shutdown() => {}
        _ = signals.next() => {}
    }
    ended
}

/// Runs it on a coordinator elsewhere; `cache_dir` is where trees are packed.
pub async fn run_there<W: Write>(
    options: &RunOptions,
    there: &There,
    location: &Location,
    cache_dir: &Path,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<Ended, CliError> {
    let (sender, mut news) = mpsc::channel(NEWS);
    let preparation = Preparation::below(cache_dir, Reach::Elsewhere);
    let preparing = prepare(options, location, &preparation, &sender);
    let prepared = hearing(Box::pin(preparing), &mut news, display, signals).await?;
    submit_and_watch(options, prepared, there, display, signals).await
}

/// Waits for what comes before a run, and shows what it says; until the user stops it.
async fn hearing<T, W: Write>(
    work: impl Future<Output = Result<T, CliError>>,
    news: &mut mpsc::Receiver<News>,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<T, CliError> {
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            Some(news) = news.recv() => display.news(&news),
            _ = signals.next() => return Err(CliError::cancelled()),
        }
    };
    while let Ok(news) = news.try_recv() {
        display.news(&news);
    }
    done
}

/// Packing and starting need nothing of each other.
async fn prepare_and_start(
    options: &RunOptions,
    embed: EmbedConfig,
    location: &Location,
    news: &mpsc::Sender<News>,
) -> Result<(Prepared, Embedded), CliError> {
    let preparation = Preparation::below(&embed.cache_dir, Reach::Here);
    let preparing = prepare(options, location, &preparation, news);
    let (packed, embedded) = tokio::join!(preparing, embed::start(embed));
    // What is wrong with the flake is nearer to the user than what is wrong with the daemon.
    match (packed, embedded) {
        (Ok(packed), Ok(embedded)) => Ok((packed, embedded)),
        (Err(error), Ok(embedded)) => {
            embedded.shutdown().await;
            Err(error)
        }
        (Err(error), Err(_)) => Err(error),
        (Ok(_), Err(error)) => Err(error.into()),
    }
}

async fn submit_and_watch<W: Write>(
    options: &RunOptions,
    mut prepared: Prepared,
    there: &There,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<Ended, CliError> {
    for note in std::mem::take(&mut prepared.notes) {
        display.note(&note);
    }
    let run =
        submit(&Submission::new(options, &prepared, &there.connection), there, display, signals).await?;
    if there.detach {
        return Ok(Ended::Submitted(run));
    }
    let sides = prepared.sides();
    // The coordinator has every chunk: the packed trees can go.
    drop(prepared);
    watch_run(run, sides, options.print_build_logs, there, display, signals).await
}

/// Watches a run that is there, ours or another's.
pub async fn watch_run<W: Write>(
    run: String,
    sides: Sides,
    logs: bool,
    there: &There,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<Ended, CliError> {
    let watch = Watch {
        connection: there.connection.clone(),
        run,
        logs,
        reconnect_for: there.reconnect_for,
        manner: there.manner,
    };
    let watched = watch.to_the_end(display, signals).await?;
    let run = watch.run;
    match watched {
        Watched::Ended { record, stopped } => {
            Ok(Ended::Finished(Box::new(Finished { run, record: *record, sides, stopped })))
        }
        Watched::Detached => Ok(Ended::Detached(run)),
        Watched::Quit { .. } if there.manner == Manner::InProcess => Err(CliError::cancelled()),
        Watched::Quit { told: true } => Err(CliError::cancelled_unseen(&run)),
        Watched::Quit { told: false } => Err(CliError::cancelled_unheard(&run)),
    }
}

/// Submits while the display lives on. An interrupt while the answer is under way must not leave a run behind.
async fn submit<W: Write>(
    submission: &Submission<'_>,
    there: &There,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<String, CliError> {
    let (sender, mut news) = mpsc::channel(NEWS);
    let mut ticks = tokio::time::interval(TICK);
    // What a coordinator in this process cannot take now, such as for want of room, it cannot take in a moment.
    let patience = if there.manner == Manner::InProcess { Duration::ZERO } else { there.reconnect_for };
    let submitting = submission.submit(Contact::new(patience), &sender);
    tokio::pin!(submitting);
    loop {
        tokio::select! {
            run = &mut submitting => {
                while let Ok(news) = news.try_recv() {
                    display.news(&news);
                }
                return run;
            }
            Some(news) = news.recv() => display.news(&news),
            _ = ticks.tick() => display.tick(),
            _ = signals.next() => break,
        }
    }
    if there.manner == Manner::InProcess || !submission.may_be_known() {
        return Err(CliError::cancelled());
    }
    display.note("stopping; press Ctrl-C again to quit at once");
    let withdraw = async {
        let run = submitting.await?;
        let told = watch::cancel(there.connection.clone(), run.clone()).await;
        told.map_err(|_| CliError::cancelled_unheard(&run))
    };
    tokio::select! {
        withdrawn = tokio::time::timeout(CANCEL_WITHIN, withdraw) => match withdrawn {
            Ok(withdrawn) => withdrawn.and(Err(CliError::cancelled())),
            Err(_) => Err(CliError::cancelled_unknown()),
        },
        _ = signals.next() => Err(CliError::cancelled_unknown()),
    }
}
