//! A small world from a seed: uploads, runs, pins, collections, pauses and crashes in any order. After each step
//! everything that somebody counts on must be there, and in the end nothing else. Whoever drives the collector wrongly
//! is noticed.

mod world;

use super::*;
use world::{Sabotage, World};

const SEEDS: u64 = 400;
const STEPS: usize = 800;

fn path(number: usize) -> StorePath {
    format!("{number:0>32}-p").parse().expect("a store path")
}

fn kept(number: usize, references: &[usize]) -> KeptPath {
    KeptPath { path: path(number), references: references.iter().map(|number| path(*number)).collect() }
}

fn unknown() -> Found {
    Found { needed: false, referred: false, young: false }
}

#[test]
fn nothing_that_is_needed_is_ever_removed_and_in_the_end_nothing_else_is_left() {
    for seed in 0..SEEDS {
        World::new(seed, Sabotage::None).run(STEPS).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

#[test]
fn every_way_to_drive_it_wrongly_is_noticed() {
    let noticed =
        |sabotage: &Sabotage| (0..2 * SEEDS).any(|seed| World::new(seed, *sabotage).run(STEPS).is_err());
    let unnoticed: Vec<Sabotage> = Sabotage::ALL.into_iter().filter(|sabotage| !noticed(sabotage)).collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?} does no harm");
}

#[test]
fn what_nothing_needs_goes_after_the_grace_and_users_go_first() {
    let mut collector = Collector::new(0, 0, Condemned::default());
    let all = [kept(1, &[]), kept(2, &[1]), kept(3, &[2, 1]), kept(4, &[1])];
    let needed = collector.begin(10, 100, &all, [&path(4)]);
    assert_eq!(needed, HashSet::from([&path(4), &path(1)]));
    assert_eq!(collector.take_going(9), Some(Vec::new()));
    assert_eq!(collector.counts(), (2, 0));
    collector.begin(109, 100, &all, [&path(4)]);
    assert_eq!(collector.take_going(9), Some(Vec::new()), "a second too early");
    collector.begin(110, 100, &all, [&path(4)]);
    assert_eq!(collector.take_going(1), Some(vec![path(3)]));
    assert_eq!(collector.take_going(9), Some(vec![path(2)]));
    assert_eq!(collector.counts(), (0, 0));
}

#[test]
fn whoever_uses_a_condemned_path_saves_all_it_refers_to() {
    let mut collector = Collector::new(60, 0, Condemned::default());
    let all = [kept(1, &[]), kept(2, &[1])];
    collector.begin(60, 100, &all, []);
    collector.end();
    collector.begin(160, 100, &all, []);
    collector.use_paths(160, [&path(2)]);
    assert_eq!(collector.take_going(9), None, "the pass has to begin again");
    assert_eq!(collector.begin(161, 100, &all, []).len(), 2);
    assert_eq!(collector.take_going(9), Some(Vec::new()));
    collector.end();
    // Nobody counts on it any more, and its grace begins again.
    collector.use_paths(300, []);
    collector.begin(400, 100, &all, []);
    assert_eq!(collector.take_going(9), Some(Vec::new()));
    collector.end();
    collector.begin(500, 100, &all, []);
    assert_eq!(collector.take_going(9), Some(vec![path(2), path(1)]));
}

#[test]
fn a_path_stays_while_one_stays_that_refers_to_it() {
    // The user came later, and is condemned later.
    let mut collector = Collector::new(0, 0, Condemned { paths: vec![(path(1), 100)], chunks: Vec::new() });
    let all = [kept(1, &[]), kept(2, &[1])];
    collector.begin(1, 100, &all, []);
    assert_eq!(collector.take_going(9), Some(Vec::new()));
    collector.end();
    collector.begin(101, 100, &all, []);
    assert_eq!(collector.take_going(9), Some(vec![path(2), path(1)]));
}

#[test]
fn chunks_are_condemned_and_go_unless_somebody_uses_or_holds_them() {
    let mut collector = Collector::new(10, 0, Condemned::default());
    assert_eq!(collector.judge(20, 100, 1, unknown()), Verdict::Condemned);
    assert_eq!(collector.judge(119, 100, 1, unknown()), Verdict::Condemned);
    assert_eq!(collector.judge(120, 100, 1, unknown()), Verdict::Goes);
    assert!(collector.may_go(1) && !collector.may_go(1));
    for (found, verdict) in [
        (Found { needed: true, ..unknown() }, Verdict::Stays),
        (Found { young: true, ..unknown() }, Verdict::Stays),
        (Found { referred: true, ..unknown() }, Verdict::Condemned),
        (unknown(), Verdict::Goes),
    ] {
        assert_eq!(collector.judge(200, 0, 2, found), verdict, "{found:?}");
    }
    collector.use_chunks(200, [2]);
    assert!(!collector.may_go(2), "it was used since");
    assert_eq!(collector.judge(205, 0, 2, unknown()), Verdict::Stays);
    collector.hold(&[3, 3]);
    collector.let_go(205, &[3]);
    assert_eq!(collector.judge(1000, 0, 3, unknown()), Verdict::Stays, "it is held once more");
    collector.let_go(1000, &[3]);
    assert_eq!(collector.judge(1001, 0, 3, unknown()), Verdict::Stays, "it was held just now");
    collector.use_chunks(1050, []);
    collector.use_chunks(1100, []);
    assert_eq!(collector.judge(1100, 0, 3, unknown()), Verdict::Goes);
}

#[test]
fn what_is_used_during_a_pass_is_remembered_to_its_end() {
    let mut collector = Collector::new(10, 0, Condemned::default());
    collector.begin(10, 0, &[], []);
    collector.use_chunks(11, [1]);
    collector.use_chunks(5000, [2]);
    assert_eq!(collector.judge(9000, 0, 1, unknown()), Verdict::Stays);
    collector.end();
    collector.use_chunks(9050, []);
    collector.begin(9100, 0, &[], []);
    assert_eq!(collector.judge(9100, 0, 1, unknown()), Verdict::Goes);
}

#[test]
fn the_grace_goes_on_after_a_restart_but_nothing_goes_at_once() {
    let mut collector = Collector::new(10, 0, Condemned::default());
    let all = [kept(1, &[])];
    collector.begin(50, 100, &all, []);
    collector.judge(50, 100, 7, unknown());
    let saved = collector.condemned(120);
    assert_eq!(saved, Condemned { paths: vec![(path(1), 70)], chunks: vec![(7, 70)] });
    let mut collector = Collector::new(10, 0, saved);
    collector.begin(0, 0, &all, []);
    assert_eq!(collector.take_going(9), Some(Vec::new()), "somebody may have been told that it is here");
    assert_eq!(collector.judge(9, 0, 7, unknown()), Verdict::Condemned);
    collector.end();
    collector.begin(30, 100, &all, []);
    assert_eq!(collector.take_going(9), Some(vec![path(1)]));
    assert_eq!(collector.judge(30, 100, 7, unknown()), Verdict::Goes);
}

#[test]
fn a_deep_chain_is_no_trouble() {
    let all: Vec<KeptPath> = (0..20_000).map(|number| kept(number, &[number.saturating_sub(1)])).collect();
    let mut collector = Collector::new(0, 0, Condemned::default());
    assert_eq!(collector.begin(1, 0, &all, [&path(10_000)]).len(), 10_001);
    let going = collector.take_going(usize::MAX).expect("undisturbed");
    assert_eq!((going.len(), &going[0]), (9_999, &path(19_999)));
}
