//! The report in the manner of nvd: per changed host a heading and a fenced listing.
//!
//! What scripts around nvd read keeps its shape to the byte: the two first lines, the sections, the columns and
//! the footer. A host that failed has an entry too, for leaving it out would read as "unchanged".

use std::fmt::Write as _;
use std::sync::Arc;

use crate::closure_diff::ClosureDiff;
use crate::listing::{Row, counted};
use crate::report::escape;
use crate::report::model::{Failure, HostReport, Report, TargetReport, TargetStatus};
use crate::report::quantity;

/// Lines of a failure's log that are shown.
const LOG_LINES: usize = 20;

/// Writes every changed or failed host, in name order; nothing when there is none.
pub fn nvd(report: &Report) -> String {
    let mut text = String::new();
    for (name, host) in report.named_hosts() {
        let failed = host.before.failure.is_some() || host.after.failure.is_some();
        if !host.changed && !failed {
            continue;
        }
        let name = escape::line(&name);
        let body = entry(&name, host);
        let longest = body.split(|char| char != '`').map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        let _ = write!(text, "### {name}\n{fence}\n{body}{fence}\n\n");
    }
    text
}

fn entry(name: &str, host: &HostReport) -> String {
    let mut body = format!("<<< result-before-{name}\n>>> result-after-{name}\n");
    for (side, target) in [("before", &host.before), ("after", &host.after)] {
        if let Some(failure) = &target.failure {
            write_failure(&mut body, side, failure);
        }
    }
    match &host.diff {
        Some(diff) => write_diff(&mut body, diff),
        None if host.changed => {
            let _ = writeln!(body, "{}", without_diff(&host.before, &host.after));
        }
        None => {}
    }
    body
}

fn write_failure(body: &mut String, side: &str, failure: &Failure) {
    let drv = failure.drv.as_ref().map_or(String::new(), |drv| format!(" ({})", escape::line(drv)));
    let _ = writeln!(body, "Failed {side}: {}{drv}", escape::line(&failure.cause));
    let log = escape::clean(&failure.detail);
    let lines: Vec<&str> = log.trim_end().lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        let _ = writeln!(body, "    {line}");
    }
}

fn without_diff(before: &TargetReport, after: &TargetReport) -> &'static str {
    match (before.status, after.status) {
        (TargetStatus::Absent, _) => "This host is new.",
        (_, TargetStatus::Absent) => "This host is gone.",
        (_, TargetStatus::Planned) => "Its derivation differs; nothing was built.",
        _ => "Its toplevel differs; the closures were not compared.",
    }
}

fn write_diff(body: &mut String, diff: &ClosureDiff) {
    let listing = &diff.listing;
    let sections = [
        ("Version changes:", &listing.versions),
        ("Selection state changes:", &listing.selection),
        ("Added packages:", &listing.added),
        ("Removed packages:", &listing.removed),
    ];
    for (title, rows) in sections.iter().filter(|(_, rows)| !rows.is_empty()) {
        let _ = writeln!(body, "{title}");
        write_rows(body, rows);
    }
    if sections.iter().all(|(_, rows)| rows.is_empty()) {
        body.push_str("No version or selection state changes.\n");
    }
    let (added, removed) = (diff.paths_added as u64, diff.paths_removed as u64);
    let sign = if added < removed { '-' } else { '+' };
    let _ = writeln!(
        body,
        "Closure size: {} -> {} ({added} paths added, {removed} paths removed, delta {sign}{}, disk usage {}).",
        diff.before.paths,
        diff.after.paths,
        added.abs_diff(removed),
        disk_usage(diff.size_delta()),
    );
}

fn write_rows(body: &mut String, rows: &[Row]) {
    let digits = rows.len().to_string().len();
    let names: Vec<String> = rows.iter().map(|row| escape::line(&row.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for ((number, row), name) in (1usize..).zip(rows).zip(&names) {
        let _ = write!(body, "[{}{}]  #{number:0digits$}  {name:width$}  ", row.letter, row.mark);
        write_versions(body, &row.before);
        if !row.after.is_empty() {
            body.push_str(" -> ");
            write_versions(body, &row.after);
        }
        body.push('\n');
    }
}

fn write_versions(body: &mut String, versions: &[Arc<str>]) {
    for (place, (version, copies)) in counted(versions).enumerate() {
        let separator = if place == 0 { "" } else { ", " };
        let version = if version.is_empty() { "<none>".to_owned() } else { escape::line(version) };
        let _ = write!(body, "{separator}{version}");
        if copies > 1 {
            let _ = write!(body, " x{copies}");
        }
    }
}

/// `+1,023.9KiB`, `-512B`
fn disk_usage(delta: i64) -> String {
    let sign = if delta < 0 { '-' } else { '+' };
    let (scaled, unit) = quantity::scale(delta.unsigned_abs());
    if unit == "B" {
        return format!("{sign}{}B", quantity::count(delta.unsigned_abs()));
    }
    let text = format!("{scaled:.1}");
    let grouped = match text.len() {
        6 => format!("{},{}", &text[..1], &text[1..]),
        _ => text,
    };
    format!("{sign}{grouped}{unit}")
}

#[cfg(test)]
mod tests;
