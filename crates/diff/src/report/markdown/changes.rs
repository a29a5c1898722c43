//! Warnings, tables of changes, and what is left for single hosts.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::change::{ChangeKind, What};
use crate::closure_diff::{ClosureDiff, ConfigurationChange, Fate};
use crate::fleet_diff::{ByHosts, FleetChange};
use crate::identify::ConfigurationKind;
use crate::report::escape;
use crate::report::markdown::Page;
use crate::report::model::{HostReport, TargetStatus};
use crate::report::quantity::{byte_change, bytes, count, counted};
use crate::version::{Reason, Relation};

/// Pieces of configuration named for one set of hosts; the rest is counted.
const NAMED_CONFIGURATION: usize = 40;

const LEGEND: &str = "U upgraded, D downgraded, C changed without an order, V other interpreter or kernel, A added, \
    R removed, O other outputs, N other number of copies; **bold** is chosen by a configuration, not a dependency.";

/// What a reviewer should not miss: reboots, downgrades, and chosen packages that are gone.
pub(super) fn warnings(page: &Page<'_>) -> Option<String> {
    let mut lines = Vec::new();
    let reboots = page.hosts_where(|host| host.diff.as_ref().is_some_and(|diff| diff.needs_reboot));
    if !reboots.is_empty() {
        lines.push(format!("- Reboot: kernel or initrd changed on {}\n", page.of_compared(&reboots)));
    }
    for (status, words) in [(Side::Before, "New"), (Side::After, "Gone")] {
        let hosts = page.hosts_where(|host| host.changed && status.is_absent(host));
        if !hosts.is_empty() {
            lines.push(format!("- {words}: {}\n", page.of_all(&hosts)));
        }
    }
    let chosen = |change: &&FleetChange<'_>| !(change.selected.0 || change.selected.1);
    let mut downgrades: Vec<_> =
        page.fleet.changes.iter().filter(|change| has_downgrade(change.what)).collect();
    downgrades.sort_by_key(chosen);
    for change in downgrades {
        lines.push(warning(page, "Downgrade", change));
    }
    let removed = |change: &&FleetChange<'_>| change.what.kind == ChangeKind::Removed && change.selected.0;
    for change in page.fleet.changes.iter().filter(removed) {
        lines.push(warning(page, "Removed", change));
    }
    (!lines.is_empty()).then(|| format!("## Warnings\n\n{}", lines.concat()))
}

/// Changes that more than one host has, or all of them when only one host was compared.
pub(super) fn shared(page: &Page<'_>) -> Option<String> {
    let mut text = String::new();
    for (hosts, changes) in page.fleet.changes_by_hosts(shows) {
        if is_shared(page, hosts) {
            let _ = writeln!(text, "### On {}\n\n{}", page.of_compared(hosts), table(&changes));
        }
    }
    if !text.is_empty() {
        let _ = writeln!(text, "{LEGEND}");
    }
    let mut trees = String::new();
    for (hosts, changes) in page.fleet.configuration_by_hosts(tells) {
        if is_shared(page, hosts) {
            let _ = write!(trees, "On {}:\n\n{}", page.of_compared(hosts), configuration(&changes));
        }
    }
    if !trees.is_empty() {
        let _ = writeln!(text, "\n<details><summary>Configuration</summary>\n\n{trees}</details>");
    }
    (!text.is_empty()).then(|| format!("## Changes\n\n{}", text.trim_start()))
}

/// What is left for single hosts, and the size of every closure; all collapsed.
pub(super) fn per_host(page: &Page<'_>) -> Option<String> {
    let changes = page.fleet.changes_by_hosts(shows);
    let trees = page.fleet.configuration_by_hosts(tells);
    let mut text = String::new();
    let mut sizes = String::from("| host | paths | size | change |\n|---|---:|---:|---:|\n");
    for &place in &page.compared {
        let Some(diff) = &page.hosts[place].diff else { continue };
        let _ = writeln!(sizes, "| {} | {} |", escape::code(page.names.name(place)), size(diff));
        let own_changes = own(&changes, place).filter(|_| !is_shared(page, &[place]));
        let own_trees = own(&trees, place).filter(|_| !is_shared(page, &[place]));
        if own_changes.is_none() && own_trees.is_none() {
            continue;
        }
        let name = escape::html_code(page.names.name(place));
        let number = own_changes.map_or(0, <[_]>::len) + own_trees.map_or(0, <[_]>::len);
        let number = counted(number, "change");
        let _ = writeln!(text, "<details><summary>{name}: {number} of its own</summary>\n");
        if let Some(changes) = own_changes {
            let _ = writeln!(text, "{}", table(changes));
        }
        let _ = writeln!(text, "{}</details>", own_trees.map_or(String::new(), configuration));
    }
    let sizes = format!("<details><summary>Closure sizes</summary>\n\n{sizes}\n</details>\n");
    (!page.compared.is_empty()).then(|| format!("## Hosts\n\n{text}{sizes}"))
}

/// How much was made anew without another version.
pub(super) fn rebuilt(page: &Page<'_>) -> Option<String> {
    let rebuilt =
        |diff: &ClosureDiff| diff.changes.iter().filter(|c| c.what.kind == ChangeKind::Rebuilt).count();
    let all = page.fleet.changes.iter().filter(|change| change.what.kind == ChangeKind::Rebuilt).count();
    let counts: Vec<usize> = page.hosts.iter().filter_map(|host| host.diff.as_ref()).map(rebuilt).collect();
    let (least, most) = (counts.iter().min()?, counts.iter().max()?);
    if all == 0 {
        return None;
    }
    let range = match (counts.len(), least == most) {
        (1, _) => String::new(),
        (_, true) => format!(", {} on each host", count(*most as u64)),
        (_, false) => format!(", {} to {} on a host", count(*least as u64), count(*most as u64)),
    };
    Some(format!("Rebuilt without another version: {}{range}.\n", counted(all, "package")))
}

#[derive(Clone, Copy)]
enum Side {
    Before,
    After,
}

impl Side {
    fn is_absent(self, host: &HostReport) -> bool {
        let target = match self {
            Self::Before => &host.before,
            Self::After => &host.after,
        };
        target.status == TargetStatus::Absent
    }
}

fn shows(change: &FleetChange<'_>) -> bool {
    change.what.kind != ChangeKind::Rebuilt
}

/// The trees around everything else change whenever anything does.
fn tells(change: &ConfigurationChange) -> bool {
    (change.kind, change.fate) != (ConfigurationKind::System, Fate::Changed)
}

fn is_shared(page: &Page<'_>, hosts: &[usize]) -> bool {
    hosts.len() > 1 || page.compared.len() == 1
}

fn own<'s, T>(sets: &'s ByHosts<'_, T>, host: usize) -> Option<&'s [T]> {
    sets.iter().find(|(hosts, _)| *hosts == [host]).map(|(_, items)| &items[..])
}

/// Three cells: paths, bytes, change of bytes.
fn size(diff: &ClosureDiff) -> String {
    let (before, after) = (count(diff.before.paths as u64), count(diff.after.paths as u64));
    let sizes = format!("{} → {}", bytes(diff.before.nar_size), bytes(diff.after.nar_size));
    format!("{before} → {after} | {sizes} | {}", byte_change(diff.size_delta()))
}

fn has_downgrade(what: &What) -> bool {
    what.versions.iter().any(|pair| pair.relation == Relation::Downgrade)
}

fn warning(page: &Page<'_>, word: &str, change: &FleetChange<'_>) -> String {
    let name = escape::code(&change.what.name);
    format!("- {word}: {name} {} on {}\n", details(change.what), page.of_compared(&change.hosts))
}

fn configuration(changes: &[&ConfigurationChange]) -> String {
    let mut text = String::new();
    for (fate, word) in [(Fate::Changed, "changed"), (Fate::Added, "added"), (Fate::Removed, "removed")] {
        let of_fate = || changes.iter().filter(|change| change.fate == fate);
        let shown: Vec<String> =
            of_fate().take(NAMED_CONFIGURATION).map(|change| escape::code(&change.name)).collect();
        let rest = of_fate().count() - shown.len();
        let rest = if rest == 0 { String::new() } else { format!(" and {} more", count(rest as u64)) };
        if !shown.is_empty() {
            let _ = writeln!(text, "Configuration {word}: {}{rest}\n", shown.join(", "));
        }
    }
    text
}

fn table(changes: &[&FleetChange<'_>]) -> String {
    let mut changes = changes.to_vec();
    changes.sort_by_key(|change| (change.what.kind, &change.what.name));
    let mut text = String::from("| | package | versions | size |\n|---|---|---|---:|\n");
    for change in changes {
        let name = escape::code(&change.what.name);
        let name = if change.selected.0 || change.selected.1 { format!("**{name}**") } else { name };
        let size = match change.size_delta {
            (least, most) if least == most => byte_change(least),
            (least, most) => format!("{} to {}", byte_change(least), byte_change(most)),
        };
        let _ = writeln!(text, "| {} | {name} | {} | {size} |", change.what.kind, details(change.what));
    }
    text
}

/// What happened, in a few words.
fn details(what: &What) -> String {
    let mut parts: Vec<String> = Vec::new();
    for pair in &what.versions {
        let why = match pair.relation {
            Relation::Unordered(Reason::Hash) => " (another commit)",
            Relation::Unordered(Reason::Scheme) => " (another kind of version)",
            Relation::Unordered(Reason::Spelling) => " (another spelling)",
            Relation::Downgrade if what.kind != ChangeKind::Downgraded => " (downgrade)",
            _ => "",
        };
        parts.push(format!("{} → {}{why}", version(&pair.before), version(&pair.after)));
    }
    match what.kind {
        ChangeKind::Added => parts.push(list("", &what.versions_added)),
        ChangeKind::Removed => parts.push(list("", &what.versions_removed)),
        _ => {
            parts.push(list("−", &what.versions_removed));
            parts.push(list("+", &what.versions_added));
        }
    }
    let only_main = |outputs: &[Arc<str>]| outputs.iter().all(|output| &**output == "out");
    let whole = matches!(what.kind, ChangeKind::Added | ChangeKind::Removed);
    for (sign, outputs) in [("−", &what.outputs_removed), ("+", &what.outputs_added)] {
        if !(outputs.is_empty() || whole && only_main(outputs)) {
            parts.push(format!("outputs {}", list(if whole { "" } else { sign }, outputs)));
        }
    }
    parts.push(variants(what));
    if let Some((before, after)) = what.copies {
        parts.push(format!("{before} → {after} copies"));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

fn variants(what: &What) -> String {
    let (before, after) = (list("", &what.variants_before), list("", &what.variants_after));
    match (before.is_empty(), after.is_empty()) {
        (true, true) => String::new(),
        (true, false) => format!("for {after}"),
        (false, true) => format!("was for {before}"),
        (false, false) => format!("for {before} → {after}"),
    }
}

fn list(sign: &str, values: &[Arc<str>]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{sign}{}", version(value))).collect();
    values.join(", ")
}

fn version(version: &str) -> String {
    if version.is_empty() { "no version".to_owned() } else { escape::code(version) }
}
