//! Closures for tests, written as names, and reports made of them.

use crate::catalog::Catalog;
use crate::closure_diff::ClosureDiff;
use crate::report::{
    Failure, HostKind, HostReport, Report, Seconds, SideLabel, StepCounts, TargetReport, TargetStatus,
};
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
    fact.identity =
        Some(Identity { pname: pname.to_owned(), version: version.to_owned(), output: output.to_owned() });
    fact
}

/// Compares two roots of a table.
pub(crate) fn compare(table: &PathTable, before: &str, after: &str) -> ClosureDiff {
    let closure = |root| table.closure(&base_name(root)).unwrap();
    ClosureDiff::between(&Catalog::new(table), &closure(before), &closure(after))
}

pub(crate) fn diff(before: &[&str], after: &[&str]) -> ClosureDiff {
    compare(&table(before, after), "nixos-system-t-1 h1", "nixos-system-t-1 h2")
}

/// A target built at a path.
pub(crate) fn target(toplevel: &str) -> TargetReport {
    TargetReport {
        drv: Some(base_name(toplevel) + ".drv"),
        toplevel: Some(base_name(toplevel)),
        status: TargetStatus::Built,
        failure: None,
    }
}

pub(crate) fn failed(status: TargetStatus, cause: &str, detail: &str, drv: Option<&str>) -> TargetReport {
    let failure = Failure {
        code: "build_failed".to_owned(),
        cause: cause.to_owned(),
        detail: detail.to_owned(),
        drv: drv.map(str::to_owned),
    };
    TargetReport { status, failure: Some(failure), ..TargetReport::default() }
}

pub(crate) fn host(
    name: &str,
    before: TargetReport,
    after: TargetReport,
    diff: Option<ClosureDiff>,
) -> HostReport {
    HostReport::new(name.to_owned(), HostKind::Nixos, before, after, diff)
}

/// A comparison of two commits.
pub(crate) fn report(hosts: Vec<HostReport>) -> Report {
    let side = |digit: &str| SideLabel { rev: Some(digit.repeat(40)), dirty: false };
    Report {
        run: "r1".to_owned(),
        store_dir: "/nix/store".to_owned(),
        before: Some(side("a")),
        after: side("b"),
        hosts,
        steps: StepCounts { wanted: 12, built: 9, substituted: 1204, cached: 3, failed: 0, deduplicated: 7 },
        seconds: Seconds { eval: 1.5, build: 190.25, diff: 0.0125, total: 192.0 },
        failure: None,
        notices: Vec::new(),
    }
}

/// Five hosts: three webs alike, one of them with a package more, a monitor with a downgrade, one unchanged.
pub(crate) fn fleet() -> Report {
    let before =
        ["linux-6.12.1", "openssl-3.3.2", "curl-8.11.0", "curl-8.11.0-man", "glibc-2.40", "etc-hosts"];
    let after =
        ["linux-6.12.2", "openssl-3.4.0", "curl-8.12.0", "curl-8.12.0-man", "glibc-2.40 h2", "etc-hosts h2"];
    let extra: [(&str, &[&str], &[&str]); 4] = [
        ("mon1", &["grafana-10.4.0"], &["grafana-10.3.4"]),
        ("web1", &[], &[]),
        ("web2", &["htop-3.3"], &["htop-3.3 h2", "jq-1.7.1"]),
        ("web3", &["cowsay-3.8"], &[]),
    ];
    let mut table = PathTable::new();
    for text in before.iter().chain(&after) {
        table.add(fact(text, &[]));
    }
    let mut hosts = Vec::new();
    for (name, old, new) in extra {
        let sides = [(&before, old, "h1"), (&after, new, "h2")];
        for (base, own, hash) in sides {
            for text in own {
                table.add(fact(text, &[]));
            }
            let path = format!("system-path {hash}{name}");
            table.add(fact(
                &path,
                &[own, &["curl-8.11.0", "curl-8.12.0"][usize::from(hash == "h2")..][..1]].concat(),
            ));
            let references = [&base[..], own, &[&path]].concat();
            table.add(fact(&format!("nixos-system-{name}-1 {hash}"), &references));
        }
    }
    for (name, ..) in extra {
        let root = |hash: &str| format!("nixos-system-{name}-1 {hash}");
        let diff = compare(&table, &root("h1"), &root("h2"));
        hosts.push(host(name, target(&root("h1")), target(&root("h2")), Some(diff)));
    }
    let same = || TargetReport { status: TargetStatus::Unchanged, ..target("nixos-system-db1-1 h1") };
    hosts.push(host("db1", same(), same(), None));
    report(hosts)
}
