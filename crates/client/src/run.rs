//! One run from the flake to its record: pack, start, upload, submit, follow, and stop when the user says so.
//!
//! Owns the order of these and nothing else.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use fleet_diff::SideLabel;
use fleet_wire::v1::{self, runs_client::RunsClient};
use tonic::Status;
use tonic::transport::Channel;

use crate::embed::{self, EmbedConfig, Embedded};
use crate::error::CliError;
use crate::failure;
use crate::follow::Follower;
use crate::options::RunOptions;
use crate::progress::Display;
use crate::report::{Record, Sides};
use crate::signals::Signals;
use crate::source::{self, Location, PackedSource};
use crate::upload;

/// How long a cancelled run may take to end before we leave without it.
const CANCEL_WITHIN: Duration = Duration::from_secs(10);
/// How often the display is refreshed.
const TICK: Duration = Duration::from_millis(125);

/// A run that is over.
#[derive(Debug)]
pub struct Finished {
    /// Its id.
    pub run: String,
    /// What it said.
    pub record: Record,
    /// What was compared.
    pub sides: Sides,
    /// Whether the user asked it to stop.
    pub stopped: bool,
}

/// Runs it. A cancelled run is an error of its own kind only when it had no time to say so itself.
pub async fn run<W: Write>(
    options: &RunOptions,
    embed: EmbedConfig,
    location: &Location,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<Finished, CliError> {
    let (mut prepared, embedded) = {
        let prepare = prepare(options, embed, location);
        tokio::pin!(prepare);
        tokio::select! {
            prepared = &mut prepare => prepared?,
            () = signals.requested() => return Err(CliError::cancelled()),
        }
    };
    for note in std::mem::take(&mut prepared.notes) {
        display.note(&note);
    }
    let ended = submit_and_follow(options, prepared, &embedded.channel, display, signals).await;
    if matches!(ended, Ok(None)) {
        // Dropping the connections ends builders and evaluators; nobody waits for that.
        return Err(CliError::cancelled());
    }
    tokio::select! {
        () = embedded.shutdown() => {}
        () = signals.requested() => {}
    }
    ended?.ok_or_else(CliError::cancelled)
}

struct Prepared {
    after: PackedSource,
    before: Option<PackedSource>,
    notes: Vec<String>,
}

/// Packing and starting need nothing of each other.
async fn prepare(
    options: &RunOptions,
    embed: EmbedConfig,
    location: &Location,
) -> Result<(Prepared, Embedded), CliError> {
    let spools = embed.cache_dir.join("spool");
    let packing = {
        let (options, location) = (options.clone(), location.clone());
        tokio::task::spawn_blocking(move || pack(&options, &location, &spools))
    };
    let (packed, embedded) = tokio::join!(packing, embed::start(embed));
    let packed = packed.map_err(|_| CliError::new("packing the flake was interrupted"))?;
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

fn pack(options: &RunOptions, location: &Location, spools: &Path) -> Result<Prepared, CliError> {
    source::sweep_spools(spools);
    let mut after = source::pack_current(&options.flake, location, spools)?;
    let base = options.base.as_deref();
    let mut before = base.map(|rev| source::pack_base(&options.flake, location, rev, spools)).transpose()?;
    let mut notes = std::mem::take(&mut after.notes);
    if before.as_ref().is_some_and(|before| before.is_same_source(&after)) {
        notes.insert(
            0,
            "both sides are the same tree, so nothing will differ: --base names an earlier commit".to_owned(),
        );
    }
    if after.dirty {
        let tree = location.root().display();
        notes.insert(
            0,
            format!("the git tree {tree} has uncommitted changes: building it as it is, without a revision"),
        );
    }
    notes.extend(before.as_mut().map(|before| std::mem::take(&mut before.notes)).unwrap_or_default());
    notes.dedup();
    Ok(Prepared { after, before, notes })
}

/// Nothing when the user would not wait for the end.
async fn submit_and_follow<W: Write>(
    options: &RunOptions,
    prepared: Prepared,
    channel: &Channel,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<Option<Finished>, CliError> {
    let sides = Sides { before: prepared.before.as_ref().map(label), after: label(&prepared.after) };
    let mut client = RunsClient::new(channel.clone()).max_decoding_message_size(fleet_wire::MAX_MESSAGE);
    let submitting = submit(options, &prepared, channel, &mut client);
    let run = tokio::select! {
        run = submitting => run?,
        () = signals.requested() => return Ok(None),
    };
    // The coordinator has every chunk: the packed trees can go.
    drop(prepared);
    let mut record = Record::default();
    let follower = Follower::new(client.clone(), run.clone(), options.print_build_logs);
    Ok(match follow(follower, client, &run, &mut record, display, signals).await? {
        Followed::ToTheEnd { stopped } => Some(Finished { run, record, sides, stopped }),
        Followed::UntilStopped => None,
    })
}

async fn submit(
    options: &RunOptions,
    prepared: &Prepared,
    channel: &Channel,
    client: &mut RunsClient<Channel>,
) -> Result<String, CliError> {
    let after = upload_source(channel, &prepared.after).await?;
    let before = match &prepared.before {
        None => None,
        Some(before) if before.nar_hash() == prepared.after.nar_hash() => {
            Some(before.to_wire(after.manifest.clone().unwrap_or_default()))
        }
        Some(before) => Some(upload_source(channel, before).await?),
    };
    let request = v1::SubmitRequest {
        idempotency_key: random_key(),
        before,
        after: Some(after),
        selection: Some(options.selection.clone()),
        fail_fast: options.fail_fast,
        dry_run: options.dry_run,
        retry_failed: false,
        limits: None,
        dirty: prepared.after.dirty,
    };
    Ok(client.submit(request).await.map_err(refused)?.into_inner().run)
}

async fn upload_source(channel: &Channel, packed: &PackedSource) -> Result<v1::Source, CliError> {
    Ok(packed.to_wire(upload::upload(channel, packed.nar()).await?))
}

enum Followed {
    /// Whether or not the user asked it to stop.
    ToTheEnd {
        stopped: bool,
    },
    UntilStopped,
}

async fn follow<W: Write>(
    mut follower: Follower,
    client: RunsClient<Channel>,
    run: &str,
    record: &mut Record,
    display: &mut Display<W>,
    signals: &mut Signals,
) -> Result<Followed, CliError> {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut give_up_at: Option<tokio::time::Instant> = None;
    loop {
        let deadline = give_up_at.unwrap_or_else(|| tokio::time::Instant::now() + CANCEL_WITHIN);
        tokio::select! {
            event = follower.next() => match event.map_err(lost)? {
                Some(mut event) => {
                    failure::tidy(&mut event);
                    display.show(&event);
                    record.apply(event);
                }
                None => break,
            },
            _ = ticks.tick() => display.tick(),
            () = signals.requested() => {
                if give_up_at.is_some() {
                    return Ok(Followed::UntilStopped);
                }
                give_up_at = Some(tokio::time::Instant::now() + CANCEL_WITHIN);
                display.note("stopping; press Ctrl-C again to quit at once");
                // Not awaited: a coordinator that does not answer must not delay the second Ctrl-C.
                let request = v1::CancelRequest { run: run.to_owned() };
                let mut client = client.clone();
                tokio::spawn(async move { client.cancel(request).await });
            }
            () = tokio::time::sleep_until(deadline), if give_up_at.is_some() => {
                return Ok(Followed::UntilStopped);
            }
        }
    }
    if record.finished().is_none() {
        return Err(lost(Status::unavailable("its events ended early")));
    }
    Ok(Followed::ToTheEnd { stopped: give_up_at.is_some() })
}

fn label(packed: &PackedSource) -> SideLabel {
    SideLabel { rev: packed.rev().map(str::to_owned), dirty: packed.dirty }
}

#[expect(clippy::needless_pass_by_value, reason = "called as a conversion")]
fn refused(status: Status) -> CliError {
    CliError::new(format!("the coordinator refused the run: {}", status.message()))
}

#[expect(clippy::needless_pass_by_value, reason = "called as a conversion")]
fn lost(status: Status) -> CliError {
    CliError::new(format!("lost sight of the run: {}", status.message()))
        .next("Run the same command again; what was built is kept")
}

/// Different for every call: the standard library seeds each hasher from the system's randomness.
fn random_key() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!(
        "{:016x}{:016x}",
        RandomState::new().hash_one(std::process::id()),
        RandomState::new().hash_one(Instant::now())
    )
}
