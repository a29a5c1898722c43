//! Real graphs of 23 hosts, played to the end.

use std::collections::BTreeSet;

use fleet_core::{DrvPath, Fleet, FleetConfig, Outcome, Side, TargetStatus, invariant};
use fleet_sim::recorded::{Recorded, Replay, replay};

fn recorded(name: &str) -> Recorded {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/replay-fleet/data");
    let file = std::fs::read_to_string(format!("{data}/nixos-23-hosts-{name}.json"))
        .expect("the recording is there");
    Recorded::parse(&file).expect("the recording is whole")
}

fn play(recorded: &Recorded, slots: u32) -> Replay {
    let mut events = 0;
    replay(recorded, Fleet::new(FleetConfig::default()), slots, |fleet| {
        events += 1;
        // A check walks the whole graph: after each event it would take minutes.
        if events % 500 == 0 {
            invariant::check(fleet).expect("nothing is broken on the way");
        }
    })
}

fn statuses(replay: &Replay) -> BTreeSet<TargetStatus> {
    replay.settled.values().map(|settled| settled.status).collect()
}

fn builds_everything_once(name: &str) {
    let recorded = recorded(name);
    let replay = play(&recorded, 4);
    let leased: BTreeSet<DrvPath> = replay.leased.iter().map(|(drv, _)| drv.clone()).collect();
    assert_eq!(leased.len(), replay.leased.len(), "no derivation is leased twice");
    let wanted: BTreeSet<DrvPath> = &recorded.to_build(Side::Before) | &recorded.to_build(Side::After);
    assert_eq!(leased, wanted, "everything that is missing is leased");
    assert!(replay.leased.iter().all(|(_, missing)| *missing == 0), "inputs are built before their users");
    assert_eq!(replay.most_leases, 4, "all slots are used");
    assert_eq!(statuses(&replay), BTreeSet::from([TargetStatus::Built]));
    assert_eq!(replay.settled.len(), 46);
    let finished = replay.finished.expect("the run ends");
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert_eq!(finished.counts.wanted as usize, wanted.len());
    assert_eq!(finished.counts.built, finished.counts.wanted);
    assert!(finished.counts.deduplicated > finished.counts.wanted, "targets share most of their steps");
}

#[test]
fn a_daily_update_builds_each_derivation_once_for_all_hosts_and_both_sides() {
    builds_everything_once("daily");
}

#[test]
fn a_mass_rebuild_builds_each_derivation_once_for_all_hosts_and_both_sides() {
    builds_everything_once("staging");
}

#[test]
fn an_update_that_changes_nothing_leases_nothing() {
    let replay = play(&recorded("noop"), 4);
    assert!(replay.leased.is_empty());
    assert_eq!(statuses(&replay), BTreeSet::from([TargetStatus::Unchanged]));
    assert_eq!(replay.settled.len(), 46);
    let finished = replay.finished.expect("the run ends");
    assert_eq!((finished.outcome, finished.counts.wanted), (Outcome::Succeeded, 0));
}

#[test]
fn a_recording_out_of_order_is_refused() {
    let json = r#"{"nodes": [{"name": "a", "outputs": ["out"], "deps": [[0, ["out"]]]}], "before": {}, "after": {}}"#;
    assert_eq!(
        Recorded::parse(json).unwrap_err().to_string(),
        "node 0 needs a node that does not stand before it"
    );
    let json = r#"{"nodes": [], "before": {"web": 0}, "after": {}}"#;
    assert_eq!(Recorded::parse(json).unwrap_err().to_string(), "host web has no toplevel");
    assert!(Recorded::parse("{").is_err());
}
