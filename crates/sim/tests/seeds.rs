//! Many seeds, each a different fleet in trouble: nothing may break a promise, and planted bugs must.

#![allow(clippy::print_stdout, reason = "tests say what they simulated")]

use std::panic::catch_unwind;

use fleet_core::{Fleet, Sabotage};
use fleet_sim::{Summary, simulate};

/// Seeds that once found something, run first.
const CORPUS: &str = include_str!("../corpus/seeds.txt");

/// Seeds from 0; `FLEET_SIM_SEEDS` asks for more, or fewer.
const SEEDS: u64 = 100_000;

/// Tests that share them.
const SHARDS: u64 = 8;

/// Seeds within which a planted bug must be caught.
const PLANTED: u64 = 4_000;

/// Simulates a seed; a panic is a defeat like any other.
fn play(seed: u64, bug: Sabotage) -> Result<Summary, String> {
    let origin = |config, records| Fleet::restore_sabotaged(config, records, bug);
    match catch_unwind(|| simulate(seed, &origin)) {
        Ok(result) => result.map_err(|defeat| defeat.to_string()),
        Err(_) => Err(format!("seed {seed} panicked")),
    }
}

#[test]
fn seeds_that_once_failed_hold() {
    let seeds = CORPUS.lines().filter_map(|line| line.split_whitespace().next());
    for seed in seeds.filter(|seed| !seed.starts_with('#')) {
        let seed = seed.parse().expect("the corpus holds a seed at the start of each line");
        play(seed, Sabotage::Nothing).unwrap_or_else(|defeat| panic!("{defeat}"));
    }
}

/// Simulates one share of all seeds.
fn share(shard: u64) {
    let seeds = std::env::var("FLEET_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let (first, end) = (seeds * shard / SHARDS, seeds * (shard + 1) / SHARDS);
    let mut total = Summary::default();
    for seed in first..end {
        total += play(seed, Sabotage::Nothing).unwrap_or_else(|defeat| panic!("{defeat}"));
    }
    println!("seeds {first}..{end}: {total:?}");
    let seeds = usize::try_from(end - first).expect("seeds are few enough to count");
    let Summary { runs, leases, outages, sessions, remade, hints, .. } = total;
    let often = runs.min(leases).min(sessions) > seeds && outages > seeds / 2;
    let enough = often && remade > seeds / 20 && hints > seeds / 4;
    assert!(enough, "too little happens: {total:?}");
}

macro_rules! shares {
    ($($test:ident: $shard:literal,)*) => {$(
        #[test]
        fn $test() {
            share($shard);
        }
    )*};
}

shares! {
    no_seed_of_the_first_share_breaks_a_promise: 0,
    no_seed_of_the_second_share_breaks_a_promise: 1,
    no_seed_of_the_third_share_breaks_a_promise: 2,
    no_seed_of_the_fourth_share_breaks_a_promise: 3,
    no_seed_of_the_fifth_share_breaks_a_promise: 4,
    no_seed_of_the_sixth_share_breaks_a_promise: 5,
    no_seed_of_the_seventh_share_breaks_a_promise: 6,
    no_seed_of_the_eighth_share_breaks_a_promise: 7,
}

/// How the first seed that catches a planted bug does.
fn caught(bug: Sabotage) -> String {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = (0..PLANTED).find_map(|seed| play(seed, bug).err());
    std::panic::set_hook(quiet);
    caught.expect("the bug breaks a promise of some seed")
}

macro_rules! planted {
    ($($test:ident: $bug:ident,)*) => {$(
        #[test]
        fn $test() {
            println!("{}", caught(Sabotage::$bug));
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
    numbering_anew_after_a_restart_is_caught: ReuseGrants,
    counting_attempts_anew_after_a_restart_is_caught: LoseAttempts,
    forgetting_what_a_returned_worker_holds_is_caught: ForgetHolds,
    adopting_what_a_returned_worker_has_not_is_caught: AdoptUnheld,
    waiting_for_ever_for_a_worker_is_caught: WaitForEver,
    giving_work_to_a_drained_worker_is_caught: PlaceOnDrained,
    giving_work_to_a_worker_that_is_not_well_is_caught: PlaceOnUnwell,
    giving_work_to_a_quarantined_worker_is_caught: PlaceOnQuarantined,
    letting_a_revoked_worker_in_is_caught: WelcomeRevoked,
    leaving_a_revoked_worker_its_leases_is_caught: KeepRevokedLeases,
    remembering_what_was_no_fault_of_the_step_is_caught: RememberInfrastructure,
    leaving_what_is_lost_alone_is_caught: ForgetLost,
    making_what_is_lost_again_for_ever_is_caught: RemakeForEver,
    making_again_what_is_there_is_caught: RemakeBystander,
    reserving_no_disk_is_caught: ReserveNothing,
    leaking_reserved_disk_is_caught: LeakReservation,
    telling_two_workers_of_the_same_step_is_caught: HintTwice,
    telling_an_idle_worker_what_to_wait_for_is_caught: HintIdle,
    publishing_what_a_run_only_compares_with_is_caught: PublishBefore,
    not_recording_a_grant_is_caught: ForgetGrants,
    not_recording_a_loss_is_caught: ForgetLosses,
}
