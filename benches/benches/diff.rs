//! The diff stage on 50 hosts of 3,000 paths each, beside reading the same path lists once.
//!
//! Run with `cargo bench -p fleet-benches --bench diff`. Prints milliseconds, and the ratio to the bound that was
//! measured in the same run; asserts nothing about time.
#![allow(clippy::print_stdout, reason = "its purpose")]

use std::time::{Duration, Instant};

use fleet_diff::{
    Catalog, ClosureDiff, FleetDiff, Format, HostKind, HostReport, PathFact, PathTable, Report, SideLabel,
    TargetReport, TargetStatus, render,
};

const HOSTS: usize = 50;
const PATHS: usize = 3_000;
const REFERENCES: usize = 17;
const ROUNDS: usize = 5;

fn main() {
    println!("{HOSTS} hosts, {PATHS} paths each, both sides; best of {ROUNDS} rounds, in ms");
    println!(
        "{:<34} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "update", "paths", "table", "diff", "render", "total", "bound", "ratio"
    );
    for update in [
        Update { name: "a few packages", own: 100, changed_every: 20, renamed_every: 1 },
        Update { name: "everything rebuilt", own: 100, changed_every: 1, renamed_every: 20 },
        Update {
            name: "everything rebuilt, nothing shared",
            own: PATHS,
            changed_every: 1,
            renamed_every: 20,
        },
    ] {
        let facts = update.facts();
        let rounds: Vec<Round> = (0..ROUNDS).map(|_| measure(&facts)).collect();
        let best = |part: fn(&Round) -> Duration| rounds.iter().map(part).min().unwrap_or_default();
        let (table, diff, render) = (best(|r| r.table), best(|r| r.diff), best(|r| r.render));
        let (total, bound) = (table + diff + render, best(|r| r.bound));
        let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1000.0);
        println!(
            "{:<34} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7.1}",
            update.name,
            facts.len(),
            ms(table),
            ms(diff),
            ms(render),
            ms(total),
            ms(bound),
            total.as_secs_f64() / bound.as_secs_f64(),
        );
    }
}

/// How much of a fleet an update touches.
struct Update {
    name: &'static str,
    /// Paths of each host that no other has.
    own: usize,
    /// Every so manieth package gets another hash.
    changed_every: usize,
    /// Every so manieth of these another version as well.
    renamed_every: usize,
}

impl Update {
    /// Facts of all paths; the first of each pair of roots stands last but one for every host.
    fn facts(&self) -> Vec<PathFact> {
        let mut facts = Vec::new();
        let shared = PATHS - self.own;
        for after in [false, true] {
            self.packages(&mut facts, "shared", 0..shared, after);
        }
        for host in 0..HOSTS {
            for after in [false, true] {
                self.packages(&mut facts, &format!("host{host}"), shared..PATHS, after);
            }
        }
        for host in 0..HOSTS {
            for after in [false, true] {
                let mut references: Vec<String> =
                    (0..shared).map(|package| self.path("shared", package, after)).collect();
                let owner = format!("host{host}");
                references.extend((shared..PATHS).map(|package| self.path(&owner, package, after)));
                facts.push(PathFact { path: root(host, after), nar_size: 1, references, identity: None });
            }
        }
        facts.sort_by(|left, right| left.path.cmp(&right.path));
        facts.dedup_by(|left, right| left.path == right.path);
        facts
    }

    fn packages(&self, facts: &mut Vec<PathFact>, owner: &str, range: std::ops::Range<usize>, after: bool) {
        let first = range.start;
        for package in range {
            // References to earlier packages of the same owner, spread over all of them.
            let inputs = (1..=REFERENCES).filter(|_| package > first);
            let inputs = inputs.map(|n| first + (package * 31 + n * 997) % (package - first));
            facts.push(PathFact {
                path: self.path(owner, package, after),
                nar_size: (package as u64 + 1) * 1000,
                references: inputs.map(|input| self.path(owner, input, after)).collect(),
                identity: None,
            });
        }
    }

    fn path(&self, owner: &str, package: usize, after: bool) -> String {
        let changed = after && package.is_multiple_of(self.changed_every);
        let renamed = changed && (package / self.changed_every).is_multiple_of(self.renamed_every);
        let stem = ["lib", "python3.12-mod", "unit-service", "perl5.40.0-Mod", "tool"][package % 5];
        let output = ["", "", "-dev", "-man"][package % 4];
        let version = if renamed { "1.10.1" } else { "1.9.7" };
        let hash = scramble(owner, package, changed);
        format!("{hash:032x}-{stem}{}-{version}{output}", package / 4 * 4)
    }
}

fn root(host: usize, after: bool) -> String {
    format!("{:032x}-nixos-system-host{host}-26.05", scramble("root", host, after))
}

/// FNV-1a over everything that tells two paths apart.
fn scramble(owner: &str, package: usize, after: bool) -> u128 {
    let bytes = owner.bytes().chain(package.to_le_bytes()).chain([u8::from(after)]);
    let start: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    bytes.fold(start, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// One measured round.
struct Round {
    table: Duration,
    diff: Duration,
    render: Duration,
    bound: Duration,
}

fn measure(facts: &[PathFact]) -> Round {
    let owned = facts.to_vec();
    let start = Instant::now();
    let mut table = PathTable::new();
    for fact in owned {
        table.add(fact);
    }
    let table_time = start.elapsed();

    let start = Instant::now();
    let catalog = Catalog::new(&table);
    let diffs: Vec<ClosureDiff> = (0..HOSTS)
        .map(|host| {
            let closure = |after| table.closure(&root(host, after)).expect("every path has a fact");
            ClosureDiff::between(&catalog, &closure(false), &closure(true))
        })
        .collect();
    let fleet = FleetDiff::new(diffs.iter().enumerate());
    let diff_time = start.elapsed();
    assert!(!fleet.changes.is_empty());
    drop(fleet);

    let report = report(diffs);
    let start = Instant::now();
    for format in [Format::Markdown, Format::Nvd, Format::Json] {
        assert!(!render(&report, format).is_empty());
    }
    let render_time = start.elapsed();

    let lists: Vec<Vec<&str>> = (0..HOSTS)
        .flat_map(|host| [false, true].map(|after| root(host, after)))
        .map(|root| table.closure(&root).expect("every path has a fact"))
        .map(|closure| closure.iter().map(|id| table.name(id)).collect())
        .collect();
    let start = Instant::now();
    let bytes: u64 =
        lists.iter().flatten().map(|name| name.bytes().fold(0, |sum, byte| sum ^ u64::from(byte))).sum();
    std::hint::black_box(bytes);
    Round { table: table_time, diff: diff_time, render: render_time, bound: start.elapsed() }
}

fn report(diffs: Vec<ClosureDiff>) -> Report {
    let target = |host, after| TargetReport {
        drv: None,
        toplevel: Some(root(host, after)),
        status: TargetStatus::Built,
        failure: None,
    };
    let hosts = diffs.into_iter().enumerate().map(|(host, diff)| {
        let (before, after) = (target(host, false), target(host, true));
        HostReport::new(format!("host{host}"), HostKind::Nixos, before, after, Some(diff))
    });
    let mut report = Report { before: Some(SideLabel::default()), ..Report::default() };
    "/nix/store".clone_into(&mut report.store_dir);
    report.hosts = hosts.collect();
    report
}
