//! One attempt at a step whose inputs are valid: the daemon builds, we watch its limits and the machine, and say what
//! the end means. Dropping the future ends the builder.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fleet_nix::daemon::{BuildResult, BuildVerdict, LogEvent, Trust};
use fleet_nix::derivation::BasicDerivation;
use fleet_nix::store_path::{OutputName, StorePath};
use fleet_nix::{DerivedPath, OutputSet, PathInfo};
use fleet_wire::v1;

use crate::context::Context;
use crate::lane::Lane;
use crate::lease::StepError;
use crate::step_log::{StepLog, Waited};
use crate::witness::Witness;

/// How often the log is sent, and limits and disks are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The daemon's own limits come first: it says more of what it ended.
const GRACE: Duration = Duration::from_secs(5);

type Log = Mutex<StepLog<Arc<Context>>>;

/// What the daemon made of a step.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) verdict: BuildVerdict,
    pub(crate) message: String,
    pub(crate) outputs: BTreeMap<OutputName, StorePath>,
    /// What the store says of them, once they are accepted.
    pub(crate) infos: Vec<Arc<PathInfo>>,
}

/// Builds, within the step's limits.
pub(crate) async fn build(
    context: &Context,
    lane: &mut Lane,
    drv: &StorePath,
    work: &v1::StepWork,
    log: &Log,
    witness: &mut Witness,
) -> Result<Made, StepError> {
    let building = ask(context, lane, drv, work, log);
    tokio::pin!(building);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            built = &mut building => {
                witness.look();
                return built;
            }
            _ = look.tick() => {
                witness.look();
                let waited = {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.flush();
                    log.waited(tokio::time::Instant::now())
                };
                overdue(work, waited, context.config.start_within)?;
            }
        }
    }
}

/// Whether a step has had its time, though the daemon did not end it.
fn overdue(work: &v1::StepWork, waited: Waited, start_within: Duration) -> Result<(), StepError> {
    let over = |limit_s: u32, waited| limit_s > 0 && waited > Duration::from_secs(limit_s.into()) + GRACE;
    if waited.to_start > start_within {
        return Err(StepError::NotStarted(start_within.as_secs()));
    }
    if over(work.timeout_s, waited.since_start) {
        return Err(StepError::TimedOut(format!("it took longer than {} s", work.timeout_s)));
    }
    if over(work.max_silent_s, waited.silent) {
        return Err(StepError::TimedOut(format!("it said nothing for {} s", work.max_silent_s)));
    }
    Ok(())
}

async fn ask(
    context: &Context,
    lane: &mut Lane,
    drv: &StorePath,
    work: &v1::StepWork,
    log: &Log,
) -> Result<Made, StepError> {
    let mut observe = |event: LogEvent| log.lock().unwrap_or_else(PoisonError::into_inner).observe(event);
    let mut result = None;
    let basic = match &*work.basic_derivation {
        [] => None,
        bytes => {
            let name = drv.derivation_name().unwrap_or(drv.name());
            Some(BasicDerivation::parse(&context.store_dir, name, bytes)?)
        }
    };
    if let Some(basic) = &basic
        && context.trust != Trust::NotTrusted
    {
        let built = lane.daemon.build_derivation(drv, basic, &mut observe).await;
        result = match built {
            Err(error) if BuildVerdict::of_error(&error) == BuildVerdict::NotTrusted => None,
            other => Some(other?),
        };
    }
    let result = if let Some(result) = result {
        result
    } else {
        // A daemon that does not trust us builds only what it can check: the .drv in its own store.
        if !lane.daemon.is_valid_path(drv).await? {
            return Err(StepError::NoDerivation(drv.clone()));
        }
        let goal = DerivedPath::Built { drv: drv.clone(), outputs: OutputSet::All };
        let results = lane.daemon.build_paths_with_results(&[goal], &mut observe).await?;
        results.into_iter().next().map(|(_, result)| result).ok_or(StepError::NoResult)?
    };
    made(lane, drv, work, basic.as_ref(), result).await
}

async fn made(
    lane: &mut Lane,
    drv: &StorePath,
    work: &v1::StepWork,
    basic: Option<&BasicDerivation>,
    result: BuildResult,
) -> Result<Made, StepError> {
    let verdict = BuildVerdict::of_result(result.status, &result.error_message);
    let mut outputs = result.built_outputs;
    if verdict.is_success() {
        outputs = all_outputs(lane, drv, work, basic, outputs).await?;
    }
    Ok(Made { verdict, message: result.error_message, outputs, infos: Vec::new() })
}

/// Where all outputs are. Some daemons leave them out of their results: then the derivation says it, or, for
/// those that float, the store.
async fn all_outputs(
    lane: &mut Lane,
    drv: &StorePath,
    work: &v1::StepWork,
    basic: Option<&BasicDerivation>,
    mut built: BTreeMap<OutputName, StorePath>,
) -> Result<BTreeMap<OutputName, StorePath>, StepError> {
    let wanted = work.output_names.iter().map(|name| name.parse()).collect::<Result<Vec<OutputName>, _>>()?;
    let fixed = basic.iter().flat_map(|basic| wanted.iter().map(|name| (name, basic.output_path(name))));
    for (name, path) in fixed {
        if let Some(path) = path {
            built.entry(name.clone()).or_insert_with(|| path.clone());
        }
    }
    if wanted.iter().all(|name| built.contains_key(name)) {
        return Ok(built);
    }
    let mut known = lane.daemon.query_derivation_output_map(drv).await?;
    for name in wanted {
        if let Entry::Vacant(absent) = built.entry(name) {
            let path = known.remove(absent.key()).flatten();
            let path = path.ok_or_else(|| StepError::NoOutput(absent.key().to_string()))?;
            absent.insert(path);
        }
    }
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_enforced_when_the_daemon_does_not() {
        let work = v1::StepWork { timeout_s: 100, max_silent_s: 10, ..v1::StepWork::default() };
        let s = Duration::from_secs;
        let look = |to_start, since_start, silent| {
            overdue(
                &work,
                Waited { to_start: s(to_start), since_start: s(since_start), silent: s(silent) },
                s(600),
            )
        };
        assert!(look(600, 0, 0).is_ok());
        assert!(matches!(look(601, 0, 0), Err(StepError::NotStarted(600))));
        assert!(look(0, 105, 15).is_ok(), "the daemon's own limit comes first");
        assert!(matches!(look(0, 106, 0), Err(StepError::TimedOut(why)) if why.contains("100 s")));
        assert!(matches!(look(0, 50, 16), Err(StepError::TimedOut(why)) if why.contains("nothing for 10 s")));
        let unlimited = v1::StepWork::default();
        let for_ever = Waited { to_start: s(0), since_start: s(1 << 40), silent: s(1 << 40) };
        assert!(overdue(&unlimited, for_ever, s(600)).is_ok());
    }
}
