use super::*;
use crate::testing::{compare, diff, fact};

fn rows(rows: &[Row]) -> Vec<String> {
    let side = |versions: &[Arc<str>]| {
        counted(versions).map(|(v, n)| format!("{v}x{n}")).collect::<Vec<_>>().join(",")
    };
    rows.iter()
        .map(|r| format!("{}{} {} {}>{}", r.letter, r.mark, r.name, side(&r.before), side(&r.after)))
        .collect()
}

#[test]
fn letters_are_those_of_nvd_where_ours_differ() {
    for (before, after, expected) in [
        ("foo-1.0pre1", "foo-1.0", 'D'),
        ("linux-6.12-rc9", "linux-6.12", 'D'),
        ("curl-8.11.0", "curl-8.11.0-dev", 'U'),
        ("foo-2023-05-01", "foo-1.0.0", 'D'),
        ("sunsetr-0.11.1-946aa34", "sunsetr-0.11.1-3564204", 'U'),
        ("zfs-kernel-2.4.1-6.18.16", "zfs-kernel-2.4.1-6.18.17", 'U'),
    ] {
        let listing = diff(&[before], &[after]).listing;
        assert_eq!(listing.versions[0].letter, expected, "{before} {after}");
    }
    let mixed = diff(&["python3-3.11.10", "python3-3.12.7"], &["python3-3.11.10", "python3-3.12.8"]).listing;
    assert_eq!(rows(&mixed.versions), ["C* python3 3.11.10x1,3.12.7x1>3.11.10x1,3.12.8x1"]);
}

#[test]
fn separators_alone_are_no_change() {
    let listing = diff(&["twolame-2017-09-27"], &["twolame-2017.09.27"]).listing;
    assert_eq!(listing, Listing::default());
}

#[test]
fn marks_tell_what_was_chosen_on_each_side() {
    let mut table = crate::PathTable::new();
    for package in ["kept-1", "kept-2", "went-1", "came-1", "deep-1", "deep-2", "same-1"] {
        table.add(fact(package, &[]));
    }
    table.add(fact("system-path h1", &["kept-1", "went-1"]));
    table.add(fact("system-path h2", &["kept-2", "came-1", "same-1"]));
    let both = ["went-1", "came-1", "same-1"];
    table.add(fact("nixos-system-t-1 h1", &[&["system-path h1", "deep-1"], &both[..]].concat()));
    table.add(fact("nixos-system-t-1 h2", &[&["system-path h2", "deep-2"], &both[..2]].concat()));
    let listing = compare(&table, "nixos-system-t-1 h1", "nixos-system-t-1 h2").listing;
    assert_eq!(rows(&listing.versions), ["U. deep 1x1>2x1", "U* kept 1x1>2x1"]);
    assert_eq!(rows(&listing.selection), ["C+ came 1x1>", "C+ same 1x1>", "C- went 1x1>"]);
}
