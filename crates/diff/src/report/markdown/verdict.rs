//! The first line, which may be all that is read, and the figures of the run below it.

use crate::change::ChangeKind;
use crate::report::escape;
use crate::report::markdown::Page;
use crate::report::model::{SideLabel, StepCounts};
use crate::report::quantity::{count, counted, duration};

pub(super) fn verdict(page: &Page<'_>) -> String {
    let line = match (&page.report.failure, &page.report.before) {
        (Some(failure), _) => format!("**Nothing could be done**: {}", escape::inline(&failure.cause)),
        (None, None) => build(page),
        (None, Some(_)) => comparison(page),
    };
    let detail = page.report.failure.as_ref().filter(|failure| !failure.detail.is_empty());
    let detail = detail.map_or(String::new(), |failure| format!("\n{}", escape::fenced(&failure.detail, 60)));
    format!("{line}\n{detail}\n{}\n", figures(page))
}

fn build(page: &Page<'_>) -> String {
    let (all, failed) = (page.hosts.len(), page.failed().len());
    let done = if page.planned() { "would be built" } else { "built" };
    if failed == 0 {
        format!("**{} {done}.**", counted(all, "host"))
    } else {
        format!("**{} of {} {done}, {failed} failed.**", all - failed, counted(all, "host"))
    }
}

fn comparison(page: &Page<'_>) -> String {
    let (all, failed) = (page.hosts.len(), page.failed().len());
    let changed = page.hosts_where(|host| host.changed).len();
    if changed == 0 && failed == 0 {
        let closure = if page.planned() { "derivation" } else { "closure" };
        let hosts = if all == 1 { "the one host has" } else { "all hosts have" };
        return match all {
            0 => "**Nothing changed**: there is no host.".to_owned(),
            _ => format!(
                "**Nothing changed**: {hosts} the same {closure} on both sides ({}).",
                counted(all, "host")
            ),
        };
    }
    let verb = match (page.planned(), changed) {
        (true, _) => "would change",
        (false, 1) => "changes",
        (false, _) => "change",
    };
    let mut parts = vec![format!("**{changed} of {} {verb}**", counted(all, "host"))];
    if all > changed + failed {
        parts.push(format!("{} unchanged", all - changed - failed));
    }
    if failed > 0 {
        parts.push(format!("**{failed} failed**"));
    }
    let happened = happened(page);
    format!("{}{}{happened}.", parts.join(", "), if happened.is_empty() { "" } else { ": " })
}

/// Distinct changes over the whole fleet.
fn happened(page: &Page<'_>) -> String {
    let words = [
        (ChangeKind::Upgraded, "upgraded"),
        (ChangeKind::Downgraded, "downgraded"),
        (ChangeKind::Changed, "changed"),
        (ChangeKind::VariantChanged, "moved to another interpreter or kernel"),
        (ChangeKind::Added, "added"),
        (ChangeKind::Removed, "removed"),
        (ChangeKind::Rebuilt, "rebuilt"),
    ];
    let parts = words.iter().filter_map(|&(kind, word)| {
        let mut names: Vec<&str> =
            page.fleet.changes.iter().filter(|c| c.what.kind == kind).map(|c| &*c.what.name).collect();
        names.dedup();
        (!names.is_empty()).then(|| format!("{} {word}", count(names.len() as u64)))
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { String::new() } else { format!("packages: {}", parts.join(", ")) }
}

fn figures(page: &Page<'_>) -> String {
    let report = page.report;
    let steps = &report.steps;
    let mut parts = Vec::new();
    match &report.before {
        Some(before) => parts.push(format!("{} → {}", side(before), side(&report.after))),
        None => parts.push(side(&report.after)),
    }
    parts.push(match steps.wanted {
        0 => "nothing to build".to_owned(),
        wanted => format!("{} wanted: {}", number_of(wanted, "step"), fates(steps)),
    });
    if steps.substituted > 0 {
        parts.push(format!("{} substituted", number_of(steps.substituted, "path")));
    }
    if steps.deduplicated > 0 {
        parts.push(format!("{} saved", number_of(steps.deduplicated, "duplicate")));
    }
    parts.push(duration(report.seconds.total));
    if !report.run.is_empty() {
        parts.push(format!("run {}", escape::code(&report.run)));
    }
    parts.join(" · ")
}

fn fates(steps: &StepCounts) -> String {
    let mut fates = vec![format!("{} built", count(steps.built))];
    for (number, word) in [(steps.cached, "there already"), (steps.failed, "failed")] {
        if number > 0 {
            fates.push(format!("{} {word}", count(number)));
        }
    }
    fates.join(", ")
}

fn number_of(number: u64, noun: &str) -> String {
    counted(usize::try_from(number).unwrap_or(usize::MAX), noun)
}

fn side(label: &SideLabel) -> String {
    let rev = label.rev.as_ref().map(|rev| rev.chars().take(12).collect::<String>());
    match (rev, label.dirty) {
        (Some(rev), false) => escape::code(&rev),
        (Some(rev), true) => format!("{} with uncommitted changes", escape::code(&rev)),
        (None, true) => "uncommitted changes".to_owned(),
        (None, false) => "a tree without a commit".to_owned(),
    }
}
