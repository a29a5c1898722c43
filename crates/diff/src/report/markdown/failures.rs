//! Failures: one entry per failing derivation, or per cause where none failed, with the hosts it blocks.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::report::escape;
use crate::report::markdown::Page;
use crate::report::model::{Failure, TargetStatus};
use crate::report::quantity::counted;

/// Lines of a log or trace that are shown.
const LOG_LINES: usize = 40;

/// Where one failure shows.
#[derive(Default)]
struct Blocked<'a> {
    before: Vec<usize>,
    after: Vec<usize>,
    /// The one that says most, and the host it was said of.
    shown: Option<(&'a Failure, usize)>,
    status: TargetStatus,
}

pub(super) fn failures(page: &Page<'_>) -> Option<String> {
    let mut entries: BTreeMap<(TargetStatus, &str), Blocked<'_>> = BTreeMap::new();
    for (place, host) in page.hosts.iter().enumerate() {
        for (target, is_before) in [(&host.before, true), (&host.after, false)] {
            let Some(failure) = &target.failure else { continue };
            // Hosts blocked by one derivation have one failure, whatever was said of each; traces of one cause
            // differ in store paths and host names.
            let key = failure.drv.as_ref().unwrap_or(&failure.cause);
            let entry = entries.entry((target.status, key)).or_default();
            entry.status = target.status;
            if entry.shown.is_none_or(|(known, _)| known.detail.len() < failure.detail.len()) {
                entry.shown = Some((failure, place));
            }
            let places = if is_before { &mut entry.before } else { &mut entry.after };
            places.push(place);
        }
    }
    let mut entries: Vec<Blocked<'_>> = entries.into_values().collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.hosts().len()));
    let text: Vec<String> = entries.iter().filter_map(|entry| show(page, entry)).collect();
    (!text.is_empty()).then(|| format!("## Failures\n\n{}", text.join("\n")))
}

fn show(page: &Page<'_>, entry: &Blocked<'_>) -> Option<String> {
    let (failure, place) = entry.shown?;
    let title = match (&failure.drv, entry.status) {
        (Some(drv), _) => format!("{} failed", escape::code(drv_name(drv))),
        (None, TargetStatus::EvalFailed) => "Evaluation failed".to_owned(),
        (None, TargetStatus::Cancelled) => "Cancelled".to_owned(),
        (None, _) => "Build failed".to_owned(),
    };
    let hosts = entry.hosts();
    let side = match (entry.before.is_empty(), entry.after.is_empty()) {
        _ if page.report.before.is_none() => "",
        (false, true) => " (before)",
        (false, false) => " (before and after)",
        (true, _) => " (after)",
    };
    let mut text = format!("### {title}\n\n");
    if !failure.cause.is_empty() {
        let _ = writeln!(text, "{}\n", escape::inline(&failure.cause));
    }
    let _ = writeln!(text, "Blocks {}{side}: {}", counted(hosts.len(), "host"), page.of_all(&hosts));
    if let Some(drv) = &failure.drv {
        let _ = writeln!(text, "\n{}", escape::code(&page.report.store_path(drv)));
    }
    if failure.drv.is_none() && hosts.len() > 1 && !failure.detail.trim().is_empty() {
        let _ = writeln!(text, "\nAs seen on {}:", escape::code(page.names.name(place)));
    }
    if !failure.detail.trim().is_empty() {
        let _ = write!(text, "\n{}", escape::fenced(&failure.detail, LOG_LINES));
    }
    Some(text)
}

fn drv_name(drv: &str) -> &str {
    let name = crate::identify::name_of(drv);
    name.strip_suffix(".drv").unwrap_or(name)
}

impl Blocked<'_> {
    fn hosts(&self) -> Vec<usize> {
        let mut hosts = [&self.before[..], &self.after[..]].concat();
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    }
}
