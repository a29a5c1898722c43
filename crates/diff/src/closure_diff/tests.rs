use proptest::prelude::*;

use super::*;
use crate::testing::{base_name, compare, diff, fact, with_identity};
use crate::version::{Reason, Relation};

/// What a diff says of packages, in one line each; everything that is said is in the line.
fn lines(diff: &ClosureDiff) -> Vec<String> {
    diff.changes.iter().map(|change| line(&change.what)).collect()
}

fn line(what: &What) -> String {
    let mut words = vec![what.kind.to_string(), what.name.to_string()];
    for pair in &what.versions {
        words.push(format!("{}→{}", pair.before, pair.after));
        match pair.relation {
            Relation::Unordered(Reason::Hash) => words.push("unordered".to_owned()),
            Relation::Unordered(Reason::Scheme) => words.push("scheme".to_owned()),
            Relation::Unordered(Reason::Spelling) => words.push("spelling".to_owned()),
            _ => {}
        }
    }
    for (sign, values) in [
        ('−', &what.versions_removed),
        ('+', &what.versions_added),
        ('−', &what.outputs_removed),
        ('+', &what.outputs_added),
    ] {
        words.extend(values.iter().map(|value| format!("{sign}{value}")));
    }
    if !what.variants_before.is_empty() || !what.variants_after.is_empty() {
        words.push(format!("{}→{}", what.variants_before.join(","), what.variants_after.join(",")));
    }
    words.extend(what.copies.map(|(before, after)| format!("{before}→{after}")));
    words.join(" ")
}

/// Compares two lists of paths separated by commas; a path without a hash gets another one on each side.
fn vector(before: &str, after: &str) -> Vec<String> {
    let side = |list: &str, hash: &str| -> Vec<String> {
        let with_hash = |text: &str| {
            if text.contains(" h") { text.to_owned() } else { format!("{text} {hash}") }
        };
        list.split(", ").map(with_hash).collect()
    };
    let (before, after) = (side(before, "h11"), side(after, "h22"));
    let before: Vec<&str> = before.iter().map(String::as_str).collect();
    let after: Vec<&str> = after.iter().map(String::as_str).collect();
    lines(&diff(&before, &after))
}

#[test]
fn vectors_come_out_as_documented() {
    for (number, before, after, expected) in [
        (1, "firefox-131.0", "firefox-132.0.1", "U firefox 131.0→132.0.1"),
        (2, "grafana-10.4.0", "grafana-10.3.4", "D grafana 10.4.0→10.3.4"),
        (3, "curl-8.11.0 h1", "curl-8.11.0 h2", "B curl"),
        (
            4,
            "curl-8.10.1, curl-8.10.1-bin, curl-8.10.1-man",
            "curl-8.11.0, curl-8.11.0-bin, curl-8.11.0-man",
            "U curl 8.10.1→8.11.0",
        ),
        (5, "curl-8.11.0", "curl-8.11.0, curl-8.11.0-dev", "O curl +dev"),
        (6, "nfs-utils-2.7.1", "nfs-utils-2.8.6, nfs-utils-2.8.6-lib", "U nfs-utils 2.7.1→2.8.6 +lib"),
        (7, "foo-1.0pre1", "foo-1.0", "U foo 1.0pre1→1.0"),
        (8, "linux-6.12-rc9", "linux-6.12", "U linux 6.12-rc9→6.12"),
        (9, "linux-6.12-rc9", "linux-6.12-rc10", "U linux 6.12-rc9→6.12-rc10"),
        (10, "foo-7.1.0", "foo-7.1.0-unstable-2026-01-25", "U foo 7.1.0→7.1.0-unstable-2026-01-25"),
        (
            11,
            "libiff-0-unstable-2024-03-02",
            "libiff-0-unstable-2024-11-19",
            "U libiff 0-unstable-2024-03-02→0-unstable-2024-11-19",
        ),
        (
            12,
            "foo-unstable-2023-01-01",
            "foo-0-unstable-2024-01-01",
            "U foo unstable-2023-01-01→0-unstable-2024-01-01",
        ),
        (
            13,
            "sunsetr-0.11.1-946aa34",
            "sunsetr-0.11.1-3564204",
            "C sunsetr 0.11.1-946aa34→0.11.1-3564204 unordered",
        ),
        (
            14,
            "nvim-treesitter-abc1234",
            "nvim-treesitter-9f8e7d6",
            "C nvim-treesitter abc1234→9f8e7d6 unordered",
        ),
        (15, "python3.12-requests-2.32.3", "python3.12-requests-2.32.4", "U python-requests 2.32.3→2.32.4"),
        (
            16,
            "python3.12-requests-2.32.3",
            "python3.13-requests-2.32.3",
            "V python-requests python3.12→python3.13",
        ),
        (17, "perl5.40.0-JSON-4.10", "perl5.42.0-JSON-4.10", "V perl-JSON perl5.40.0→perl5.42.0"),
        (18, "openssl-1.1.1w, openssl-3.3.2", "openssl-3.4.0", "U openssl 3.3.2→3.4.0 −1.1.1w"),
        (19, "python3-3.11.10, python3-3.12.7", "python3-3.11.10, python3-3.12.8", "U python3 3.12.7→3.12.8"),
        (20, "glibc-2.40-36 h1", "glibc-2.40-36 h1, glibc-2.40-36 h2", "N glibc 1→2"),
        (22, "twolame-2017-09-27", "twolame-2017.09.27", "C twolame 2017-09-27→2017.09.27 spelling"),
        (23, "foo-2023-05-01", "foo-1.0.0", "C foo 2023-05-01→1.0.0 scheme"),
        (
            24,
            "linux-6.18.16, linux-6.18.16-modules h3, linux-6.18.16-modules h4, linux-6.18.16-modules-shrunk",
            "linux-6.18.17, linux-6.18.17-modules h5, linux-6.18.17-modules h6, linux-6.18.17-modules-shrunk",
            "U linux 6.18.16→6.18.17",
        ),
        (
            25,
            "zfs-kernel-2.4.1-6.18.16",
            "zfs-kernel-2.4.1-6.18.17",
            "V zfs-kernel kernel 6.18.16→kernel 6.18.17",
        ),
    ] {
        assert_eq!(vector(before, after), [expected], "vector {number}");
    }
}

#[test]
fn vector_21_a_unit_is_configuration() {
    let diff = diff(&["unit-sshd.service h1"], &["unit-sshd.service h2"]);
    assert_eq!(lines(&diff), Vec::<String>::new());
    let unit = diff.configuration.iter().find(|change| change.kind == ConfigurationKind::Unit).unwrap();
    assert_eq!((&*unit.name, unit.fate), ("unit-sshd.service", Fate::Changed));
}

#[test]
fn vector_24_another_kernel_wants_a_reboot_and_another_library_does_not() {
    assert!(diff(&["linux-6.18.16"], &["linux-6.18.17"]).needs_reboot);
    assert!(diff(&["initrd-linux-6.18.16 h1"], &["initrd-linux-6.18.16 h2"]).needs_reboot);
    assert!(!diff(&["linux-pam-1.6 h1", "linux-6.18.16"], &["linux-pam-1.7", "linux-6.18.16"]).needs_reboot);
}

#[test]
fn packages_come_and_go_with_their_versions_and_outputs() {
    assert_eq!(vector("x-1", "x-1, jq-1.7, jq-1.7-dev"), ["A jq +1.7 +out +dev", "B x"]);
    assert_eq!(vector("x-1 h1, jq-1.7", "x-1 h1"), ["R jq −1.7 −out"]);
    assert_eq!(vector("tool", "tool h9"), ["B tool"]);
}

#[test]
fn a_version_more_or_less_has_no_direction() {
    assert_eq!(vector("lua-5.1 h1, lua-5.2 h1", "lua-5.2 h1"), ["C lua −5.1"]);
    assert_eq!(vector("lua-5.2 h1", "lua-5.1 h1, lua-5.2 h1"), ["C lua +5.1"]);
    assert_eq!(vector("a-1.0, a-2.0", "a-1.1, a-1.9"), ["C a 1.0→1.1 2.0→1.9"]);
}

#[test]
fn derivations_are_believed_over_names() {
    let mut table = crate::PathTable::new();
    table.add(with_identity(fact("gtk+-3.24-doc h1", &[]), "gtk+3", "3.24", "doc"));
    table.add(with_identity(fact("gtk+-3.25-doc h2", &[]), "gtk+3", "3.25", "doc"));
    table.add(fact("nixos-system-t-1 h1", &["gtk+-3.24-doc h1"]));
    table.add(fact("nixos-system-t-1 h2", &["gtk+-3.25-doc h2"]));
    let diff = compare(&table, "nixos-system-t-1 h1", "nixos-system-t-1 h2");
    assert_eq!(lines(&diff), ["U gtk+3 3.24→3.25"]);
}

#[test]
fn chosen_packages_are_those_of_the_system_path() {
    let mut table = crate::PathTable::new();
    for (root, path, package) in [("h1", "system-path h1", "jq-1.6"), ("h2", "system-path h2", "jq-1.7")] {
        table.add(fact("oniguruma-6.9", &[]));
        table.add(fact(package, &["oniguruma-6.9"]));
        table.add(fact(path, &[package]));
        table.add(fact(&format!("nixos-system-t-1 {root}"), &[path]));
    }
    let diff = compare(&table, "nixos-system-t-1 h1", "nixos-system-t-1 h2");
    assert_eq!(diff.changes.len(), 1);
    assert_eq!(diff.changes[0].selected, (true, true));
}

#[test]
fn sizes_and_counts_are_those_of_the_closures() {
    let diff = diff(&["a-1", "b-1", "c-1"], &["a-1", "b-2"]);
    assert_eq!(diff.before, ClosureSize { paths: 4, nar_size: 4000 });
    assert_eq!(diff.after, ClosureSize { paths: 3, nar_size: 3000 });
    assert_eq!((diff.paths_added, diff.paths_removed, diff.size_delta()), (2, 3, -1000));
    assert_eq!(diff.changes.iter().map(|change| change.size_delta).collect::<Vec<_>>(), [0, -1000]);
}

#[test]
fn equal_closures_differ_in_nothing() {
    let mut table = crate::PathTable::new();
    table.add(fact("a-1", &[]));
    table.add(fact("nixos-system-t-1", &["a-1"]));
    let diff = compare(&table, "nixos-system-t-1", "nixos-system-t-1");
    assert!(diff.changes.is_empty() && diff.configuration.is_empty() && !diff.needs_reboot);
    assert_eq!((diff.paths_added, diff.paths_removed), (0, 0));
}

fn names() -> impl Strategy<Value = Vec<String>> {
    let name = prop_oneof![
        "(a|b|python3\\.1[23]-c|linux|zfs-kernel)-[0-9]\\.[0-9](-(dev|man|modules|6\\.1\\.[12]))? h[1-4]",
        "(unit-x.service|etc-y|source|tool) h[1-4]",
        ".{0,10}",
    ];
    prop::collection::btree_set(name, 0..12).prop_map(|names| names.into_iter().collect())
}

proptest! {
    #[test]
    fn the_way_back_is_the_mirror_image(before in names(), after in names()) {
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let after: Vec<&str> = after.iter().map(String::as_str).collect();
        prop_assume!(!before.iter().chain(&after).any(|text| base_name(text).contains("nixos-system")));
        let (there, back) = (diff(&before, &after), diff(&after, &before));
        prop_assert_eq!(there.size_delta(), -back.size_delta());
        prop_assert_eq!((there.paths_added, there.paths_removed), (back.paths_removed, back.paths_added));
        let names = |diff: &ClosureDiff| -> Vec<Arc<str>> {
            diff.changes.iter().map(|change| Arc::clone(&change.what.name)).collect()
        };
        prop_assert_eq!(names(&there), names(&back));
        for (there, back) in there.changes.iter().zip(&back.changes) {
            let mirrored = match there.what.kind.letter() { 'U' => 'D', 'D' => 'U', 'A' => 'R', 'R' => 'A', other => other };
            prop_assert_eq!(back.what.kind.letter(), mirrored);
            prop_assert_eq!(there.size_delta, -back.size_delta);
        }
    }
}
