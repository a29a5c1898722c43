//! Keeps room in the store: lets old roots of ours go, and has the daemon collect garbage when there is less room than
//! is wanted. What is worked with is never let go, and a collection that frees nothing is not repeated soon.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fleet_nix::daemon::{Daemon, DaemonError, Substitute};
use fleet_nix::store_path::StorePath;
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use tokio::time::MissedTickBehavior;

use crate::clock::Moment;
use crate::context::Context;
use crate::health;
use crate::machine;
use crate::transfer::Standing;

/// How often roots are let go whose time is over.
const TIDY: Duration = Duration::from_mins(10);
/// For want of room no output is let go that is younger, unless the coordinator has it.
const YOUNG: Duration = Duration::from_hours(1);
/// The daemon's processes end a moment after their connections.
const SETTLE: Duration = Duration::from_millis(500);
/// How long the coordinator may take to say what it has.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// Paths that are let go in one go.
const LET_GO: usize = 1024;
/// Looks without a collection after one that freed next to nothing: doubled each time, up to the second.
const RESTS: (u32, u32) = (6, 360);

/// Looks after the store's disk for as long as it is polled. For workers that outlive their sessions.
pub(crate) async fn keep_room(context: Arc<Context>) {
    let mut look = tokio::time::interval(context.config.probe_interval);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tidied: Option<Moment> = None;
    let mut pace = Pace::default();
    loop {
        look.tick().await;
        if tidied.is_none_or(|at| at.elapsed() > TIDY) {
            tidied = Some(Moment::now());
            tidy(&context).await;
        }
        let lack = lack(&context);
        if lack == 0 || !pace.is_due() {
            continue;
        }
        match make_room(&context, lack).await {
            Ok(freed) => {
                tracing::info!(freed_mib = freed >> 20, lack_mib = lack >> 20, "garbage was collected");
                pace.ended(freed > lack / 16);
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "garbage cannot be collected");
                pace.ended(false);
            }
        }
        context.health.suspect();
    }
}

/// Bytes that are wanted, once there is too little room.
fn lack(context: &Context) -> u64 {
    let config = &context.config;
    let store = health::places(config, &context.store_dir).store;
    match machine::disk(&store) {
        // Without a state directory nothing keeps our outputs.
        Some(disk) if config.state_dir.is_some() && disk.free < config.collect_below_bytes => {
            config.collect_to_bytes.saturating_sub(disk.free)
        }
        _ => 0,
    }
}

async fn tidy(context: &Context) {
    let old = context.gc_roots.older_than(context.config.keep_outputs);
    context.gc_roots.release(old.iter().filter(|path| !context.roots.is_guarded(path)));
    // Idle connections hold what was built over them.
    context.lanes.forget_idle();
    if let Err(error) = context.roots.renew().await {
        tracing::debug!(%error, "roots that nobody needs are held for longer");
    }
}

/// Collects garbage, and what only our roots keep if that is not enough. Gives the bytes that were freed.
async fn make_room(context: &Context, lack: u64) -> Result<u64, DaemonError> {
    let mut daemon = Daemon::connect(&context.config.daemon).await?;
    let mut freed = collect(context, &mut daemon, lack).await?;
    for candidates in [kept_elsewhere(context).await, context.gc_roots.older_than(YOUNG)] {
        if freed >= lack {
            break;
        }
        let chosen = choose(context, &mut daemon, candidates, lack - freed).await?;
        if !chosen.is_empty() {
            context.gc_roots.release(&chosen);
            context.roots.forget(&chosen);
            freed += collect(context, &mut daemon, lack - freed).await?;
            tell_lost(context, &mut daemon, &chosen).await?;
        }
    }
    context.infos.forget_all();
    Ok(freed)
}

/// Collects what nothing holds: every connection of ours holds what went through it, so they are made anew.
async fn collect(context: &Context, daemon: &mut Daemon, lack: u64) -> Result<u64, DaemonError> {
    context.roots.renew().await?;
    context.lanes.forget_idle();
    if let Ok(mut planner) = context.planner.try_lock() {
        planner.let_go().await?;
    }
    tokio::time::sleep(SETTLE).await;
    Ok(daemon.collect_garbage(lack).await?.freed)
}

/// Outputs of ours that the coordinator has, the oldest first.
async fn kept_elsewhere(context: &Context) -> Vec<StorePath> {
    let ours = context.gc_roots.older_than(Duration::ZERO);
    if ours.is_empty() || !context.relays() {
        return Vec::new();
    }
    let looking = tokio::time::timeout(LOOK_WITHIN, context.transfer.look(&ours));
    let Ok(Ok(standings)) = looking.await else { return Vec::new() };
    let has = |path: &StorePath| matches!(standings.get(path), Some(Standing::Kept | Standing::Upstream));
    ours.into_iter().filter(has).collect()
}

/// The first of `candidates`, until they have as many bytes as are lacking. None of them is worked with.
async fn choose(
    context: &Context,
    daemon: &mut Daemon,
    candidates: Vec<StorePath>,
    lack: u64,
) -> Result<BTreeSet<StorePath>, DaemonError> {
    let free: Vec<StorePath> =
        candidates.into_iter().filter(|path| !context.roots.is_guarded(path)).take(LET_GO).collect();
    let mut chosen = BTreeSet::new();
    let mut bytes = 0;
    let infos = daemon.query_path_infos(&free).await?;
    for (path, info) in free.into_iter().zip(infos) {
        if bytes >= lack {
            break;
        }
        bytes += info.map_or(0, |info| info.nar_size);
        chosen.insert(path);
    }
    Ok(chosen)
}

/// The coordinator need not send anybody to us for what is gone.
async fn tell_lost(
    context: &Context,
    daemon: &mut Daemon,
    let_go: &BTreeSet<StorePath>,
) -> Result<(), DaemonError> {
    let valid = daemon.query_valid_paths(let_go, Substitute::No).await?;
    let paths: Vec<String> = let_go.difference(&valid).map(ToString::to_string).collect();
    if !paths.is_empty() {
        context.presence.mention(Message::PathsLost(v1::PathsLost { paths }));
    }
    Ok(())
}

/// When a collection makes sense again, in looks.
#[derive(Debug, Default)]
struct Pace {
    rest: u32,
    looks: u32,
}

impl Pace {
    /// Counts a look.
    fn is_due(&mut self) -> bool {
        self.looks = self.looks.saturating_sub(1);
        self.looks == 0
    }

    fn ended(&mut self, was_worth_it: bool) {
        let (shortest, longest) = RESTS;
        self.rest = if was_worth_it { 0 } else { (2 * self.rest).clamp(shortest, longest) };
        self.looks = self.rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_that_free_nothing_become_rare() {
        let mut pace = Pace::default();
        assert!(pace.is_due());
        let mut rests = Vec::new();
        for _ in 0..8 {
            pace.ended(false);
            rests.push((1..10_000).find(|_| pace.is_due()).expect("some time"));
        }
        assert_eq!(rests, [6, 12, 24, 48, 96, 192, 360, 360]);
        pace.ended(true);
        assert!(pace.is_due());
    }
}
