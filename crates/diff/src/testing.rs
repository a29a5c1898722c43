//! Closures for tests, written as names.

use crate::catalog::Catalog;
use crate::closure_diff::ClosureDiff;
use crate::table::{Identity, PathFact, PathTable};

/// `name`, or `name hN` where the hash matters: equal texts are one path. The hash is made from the number.
pub(crate) fn base_name(text: &str) -> String {
    let (name, hash) = text.split_once(' ').unwrap_or((text, "h1"));
    format!("{:0>32}-{name}", hash.trim_start_matches('h'))
}

pub(crate) fn fact(text: &str, references: &[&str]) -> PathFact {
    PathFact {
        path: base_name(text),
        nar_size: 1000,
        references: references.iter().map(|text| base_name(text)).collect(),
        identity: None,
    }
}

/// A table with two roots, `nixos-system-t-1` hashes 1 and 2, that refer to the given paths.
pub(crate) fn table(before: &[&str], after: &[&str]) -> PathTable {
    let mut table = PathTable::new();
    for text in before.iter().chain(after) {
        table.add(fact(text, &[]));
    }
    table.add(fact("nixos-system-t-1 h1", before));
    table.add(fact("nixos-system-t-1 h2", after));
    table
}

pub(crate) fn with_identity(mut fact: PathFact, pname: &str, version: &str, output: &str) -> PathFact {
    fact.identity = Some(Identity {
        pname: pname.to_owned(),
        version: version.to_owned(),
        output: output.to_owned(),
    });
    fact
}

/// Compares two roots of a table.
pub(crate) fn compare(table: &PathTable, before: &str, after: &str) -> ClosureDiff {
    let closure = |root| table.closure(&base_name(root)).unwrap();
    ClosureDiff::between(&Catalog::new(table), &closure(before), &closure(after))
}

pub(crate) fn diff(before: &[&str], after: &[&str]) -> ClosureDiff {
    compare(
        &table(before, after),
        "nixos-system-t-1 h1",
        "nixos-system-t-1 h2",
    )
}
