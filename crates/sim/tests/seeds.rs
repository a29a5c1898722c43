//! Many seeds, each a different fleet in trouble: nothing may break a promise, and planted bugs must.

use std::panic::catch_unwind;

use fleet_core::{Fleet, Sabotage};
use fleet_sim::{Summary, simulate};

/// Seeds that once found something, run first.
const CORPUS: &str = include_str!("../corpus/seeds.txt");

/// Seeds from 0; `FLEET_SIM_SEEDS` asks for more.
const SEEDS: u64 = 2_000;

/// Simulates a seed; a panic is a defeat like any other.
fn play(seed: u64, prepare: fn(&mut Fleet)) -> Result<Summary, String> {
    match catch_unwind(|| simulate(seed, prepare)) {
        Ok(result) => result.map_err(|defeat| defeat.to_string()),
        Err(_) => Err(format!("seed {seed} panicked")),
    }
}

#[test]
fn seeds_that_once_failed_hold() {
    let seeds = CORPUS.lines().filter_map(|line| line.split_whitespace().next());
    for seed in seeds.filter(|seed| !seed.starts_with('#')) {
        let seed = seed.parse().expect("the corpus holds a seed at the start of each line");
        play(seed, |_| {}).unwrap_or_else(|defeat| panic!("{defeat}"));
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    let seeds = std::env::var("FLEET_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let mut total = Summary::default();
    for seed in 0..seeds {
        let summary = play(seed, |_| {}).unwrap_or_else(|defeat| panic!("{defeat}"));
        total.events += summary.events;
        total.runs += summary.runs;
        total.leases += summary.leases;
    }
    println!("{seeds} seeds: {total:?}");
    let seeds = usize::try_from(seeds).expect("seeds are few enough to count");
    assert!(total.runs > seeds && total.leases > seeds, "too little happens: {total:?}");
}

/// How the first seed that catches a planted bug does.
fn caught(prepare: fn(&mut Fleet)) -> String {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (0..SEEDS).find_map(|seed| play(seed, prepare).err());
    std::panic::set_hook(quiet);
    caught.expect("the bug breaks a promise of some seed")
}

macro_rules! planted {
    ($($test:ident: $bug:ident,)*) => {$(
        #[test]
        fn $test() {
            println!("{}", caught(|fleet| fleet.sabotage(Sabotage::$bug)));
        }
    )*};
}

planted! {
    believing_stale_reports_is_caught: AcceptStaleReports,
    forgetting_dependents_is_caught: ForgetDependents,
    leasing_before_inputs_are_built_is_caught: IgnoreInputs,
    leasing_a_step_twice_is_caught: LeaseTwice,
    leaking_a_slot_is_caught: LeakSlot,
    cancelling_what_others_want_is_caught: ForgetInterest,
    losing_a_lost_worker_s_batches_is_caught: LoseBatches,
    losing_hosts_that_were_handed_back_is_caught: LoseHosts,
    overfilling_a_worker_is_caught: OverfillWorkers,
    building_on_the_wrong_system_is_caught: IgnoreNeeds,
    retrying_for_ever_is_caught: RetryForEver,
    failing_without_dependents_is_caught: FailAlone,
    failing_a_bystander_is_caught: FailBystander,
    ending_a_run_twice_is_caught: FinishTwice,
    miscounting_is_caught: Miscount,
    losing_a_lost_worker_s_realise_jobs_is_caught: LoseRealises,
    oversleeping_a_rest_is_caught: OversleepRetries,
    leaving_a_worker_idle_is_caught: LeaveIdle,
}
