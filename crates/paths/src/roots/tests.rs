use super::*;
use proptest::prelude::*;

const DAY: u64 = 86_400;

fn path(name: &str) -> StorePath {
    format!("00000000000000000000000000000000-{name}").parse().expect("a store path")
}

fn root(name: &str, branch: &str, since: u64) -> Root {
    Root { name: name.to_owned(), branch: branch.to_owned(), since, paths: vec![path(name)] }
}

fn names(roots: &Roots) -> Vec<&str> {
    roots.runs().map(|run| run.name.as_str()).collect()
}

fn after_release(roots: &Roots, retention: Retention, now: u64) -> Roots {
    let mut roots = roots.clone();
    if let Some(record) = roots.release(retention, now) {
        roots.apply(record);
    }
    roots
}

#[test]
fn a_branch_keeps_its_last_runs_however_old_and_all_young_ones() {
    let mut roots = Roots::default();
    for (name, branch, day) in [
        ("a", "main", 1),
        ("b", "main", 2),
        ("c", "topic", 1),
        ("d", "main", 50),
        ("e", "main", 51),
        ("f", "", 2),
    ] {
        roots.apply(RootRecord::Ended(root(name, branch, day * DAY)));
    }
    let kept = |runs, days| {
        let roots = after_release(&roots, Retention { runs, age_s: days * DAY }, 60 * DAY);
        names(&roots).join("")
    };
    assert_eq!(kept(1, 0), "cef");
    assert_eq!(kept(2, 0), "cdef");
    assert_eq!(kept(1, 11), "cdef");
    assert_eq!(kept(0, 0), "");
    assert_eq!(kept(9, 0), "abcdef");
    assert_eq!(kept(0, 1000), "abcdef");
    assert_eq!(roots.release(Retention { runs: 9, age_s: 0 }, 60 * DAY), None);
}

#[test]
fn a_clock_that_went_back_makes_no_run_old() {
    let mut roots = Roots::default();
    roots.apply(RootRecord::Ended(root("a", "", 100 * DAY)));
    assert_eq!(roots.release(Retention { runs: 0, age_s: DAY }, 1), None);
}

#[test]
fn a_pin_stays_until_it_is_unpinned_whatever_becomes_of_its_run() {
    let mut roots = Roots::default();
    roots.apply(RootRecord::Ended(root("a", "main", DAY)));
    let pin = roots.pin(root("release", "", DAY)).expect("a good name").expect("a change");
    roots.apply(pin);
    let mut roots = after_release(&roots, Retention { runs: 0, age_s: 0 }, 60 * DAY);
    assert_eq!(roots.paths().cloned().collect::<Vec<_>>(), [path("release")]);
    let record = roots.unpin("release").expect("it is pinned");
    roots.apply(record);
    assert_eq!(roots.paths().count(), 0);
    assert_eq!(roots.unpin("release"), Err(PinRefusal::Unknown("release".to_owned())));
}

#[test]
fn names_of_pins_are_unique_and_can_be_typed() {
    let mut roots = Roots::default();
    let pin = roots.pin(root("a", "", 1)).expect("a good name").expect("a change");
    roots.apply(pin);
    assert_eq!(roots.pin(root("a", "", 2)), Ok(None), "the same again");
    let other = Root { paths: vec![path("b")], ..root("a", "", 1) };
    assert_eq!(roots.pin(other), Err(PinRefusal::Taken("a".to_owned())));
    let long = "n".repeat(MAX_PIN_NAME + 1);
    for name in ["", "a\nb", "\u{1b}[31m", &long] {
        let named = Root { name: name.to_owned(), ..root("a", "", 1) };
        assert_eq!(roots.pin(named), Err(PinRefusal::Name), "{name:?}");
    }
}

#[test]
fn pins_and_runs_are_bounded() {
    let mut roots = Roots::default();
    for number in 0..MAX_PINS {
        let pin = roots.pin(root(&format!("p{number}"), "", 1)).expect("room").expect("a change");
        roots.apply(pin);
    }
    assert_eq!(roots.pin(root("more", "", 1)), Err(PinRefusal::Full));
    let wide = Root { paths: vec![path("x"); MAX_RUN_PATHS], ..root("wide", "", 2) };
    for run in [root("first", "", 1), wide, root("last", "", 3)] {
        roots.apply(RootRecord::Ended(run));
    }
    let all = Retention { runs: usize::MAX, age_s: u64::MAX };
    assert_eq!(names(&after_release(&roots, all, 9)), ["last"]);
}

#[test]
fn a_run_of_the_same_name_takes_the_place_of_the_earlier() {
    let mut roots = Roots::default();
    roots.apply(RootRecord::Ended(root("a", "main", 1)));
    roots.apply(RootRecord::Ended(root("b", "main", 2)));
    roots.apply(RootRecord::Ended(Root { paths: vec![path("new")], ..root("a", "main", 3) }));
    assert_eq!(names(&roots), ["b", "a"]);
    assert_eq!(roots.run("a").expect("it is there").paths, [path("new")]);
}

proptest! {
    #[test]
    fn what_is_condensed_makes_the_same_lists(changes in prop::collection::vec((0..4u8, 0..6u8, 0..3u8), 0..40)) {
        let mut roots = Roots::default();
        for (at, (change, name, branch)) in changes.into_iter().enumerate() {
            let root = root(&format!("r{name}"), &format!("b{branch}"), at as u64);
            let record = match change {
                0 | 1 => Some(RootRecord::Ended(root)),
                2 => roots.pin(root).ok().flatten(),
                _ => roots.release(Retention { runs: 1, age_s: 3 }, at as u64),
            };
            // As the journal keeps it.
            if let Some(record) = record {
                let json = serde_json::to_vec(&record).expect("plain data");
                roots.apply(serde_json::from_slice(&json).expect("our own"));
            }
        }
        let mut again = Roots::default();
        roots.condense().into_iter().for_each(|record| again.apply(record));
        prop_assert_eq!(again, roots);
    }
}
