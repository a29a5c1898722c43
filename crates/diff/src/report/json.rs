//! The report for programs: one JSON object on one line. docs/report.md describes it.
//!
//! Owns the schema's names. Within one schema number, fields are added and never changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::change::{Change, VersionPair};
use crate::closure_diff::{ClosureDiff, ConfigurationChange, Fate};
use crate::identify::ConfigurationKind;
use crate::report::model::{HostKind, HostReport, Report, Seconds, StepCounts, TargetReport, TargetStatus};
use crate::version::Relation;

const SCHEMA: u32 = 1;

/// Writes the whole run.
pub fn json(report: &Report) -> String {
    let hosts = report.named_hosts().into_iter().map(|(name, host)| (name, HostJson::of(report, host)));
    let page = ReportJson {
        schema: SCHEMA,
        run: &report.run,
        hosts: hosts.collect(),
        steps: report.steps,
        seconds: rounded(report.seconds),
    };
    let text = serde_json::to_string(&page);
    text.expect("texts, numbers and maps keyed by texts are always JSON") + "\n"
}

#[derive(Serialize)]
struct ReportJson<'a> {
    schema: u32,
    run: &'a str,
    hosts: BTreeMap<String, HostJson<'a>>,
    steps: StepCounts,
    seconds: Seconds,
}

#[derive(Serialize)]
struct HostJson<'a> {
    kind: HostKind,
    before: TargetJson<'a>,
    after: TargetJson<'a>,
    changed: bool,
    diff: Option<DiffJson<'a>>,
}

#[derive(Serialize)]
struct TargetJson<'a> {
    drv: Option<String>,
    toplevel: Option<String>,
    status: TargetStatus,
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_drv: Option<String>,
}

#[derive(Serialize)]
struct DiffJson<'a> {
    before: SizeJson,
    after: SizeJson,
    paths_added: usize,
    paths_removed: usize,
    needs_reboot: bool,
    changes: Vec<ChangeJson<'a>>,
    configuration: Vec<ConfigurationJson<'a>>,
}

#[derive(Serialize)]
struct SizeJson {
    paths: usize,
    nar_size: u64,
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    name: &'a str,
    kind: char,
    versions: Vec<VersionsJson<'a>>,
    versions_removed: Vec<&'a str>,
    versions_added: Vec<&'a str>,
    outputs_removed: Vec<&'a str>,
    outputs_added: Vec<&'a str>,
    variants_before: Vec<&'a str>,
    variants_after: Vec<&'a str>,
    copies: Option<BeforeAfter<usize>>,
    size_delta: i64,
    selected: BeforeAfter<bool>,
}

#[derive(Serialize)]
struct VersionsJson<'a> {
    before: &'a str,
    after: &'a str,
    order: &'static str,
}

#[derive(Serialize)]
struct BeforeAfter<T> {
    before: T,
    after: T,
}

#[derive(Serialize)]
struct ConfigurationJson<'a> {
    name: &'a str,
    kind: &'static str,
    change: &'static str,
}

impl<'a> HostJson<'a> {
    fn of(report: &Report, host: &'a HostReport) -> Self {
        Self {
            kind: host.kind,
            before: TargetJson::of(report, &host.before),
            after: TargetJson::of(report, &host.after),
            changed: host.changed,
            diff: host.diff.as_ref().map(DiffJson::of),
        }
    }
}

impl<'a> TargetJson<'a> {
    fn of(report: &Report, target: &'a TargetReport) -> Self {
        let path = |base_name: &Option<String>| base_name.as_ref().map(|name| report.store_path(name));
        Self {
            drv: path(&target.drv),
            toplevel: path(&target.toplevel),
            status: target.status,
            cause: target.failure.as_ref().map(|failure| failure.cause.as_str()),
            failed_drv: target.failure.as_ref().and_then(|failure| path(&failure.drv)),
        }
    }
}

impl<'a> DiffJson<'a> {
    fn of(diff: &'a ClosureDiff) -> Self {
        Self {
            before: SizeJson { paths: diff.before.paths, nar_size: diff.before.nar_size },
            after: SizeJson { paths: diff.after.paths, nar_size: diff.after.nar_size },
            paths_added: diff.paths_added,
            paths_removed: diff.paths_removed,
            needs_reboot: diff.needs_reboot,
            changes: diff.changes.iter().map(ChangeJson::of).collect(),
            configuration: diff.configuration.iter().map(ConfigurationJson::of).collect(),
        }
    }
}

impl<'a> ChangeJson<'a> {
    fn of(change: &'a Change) -> Self {
        let what = &change.what;
        Self {
            name: &what.name,
            kind: what.kind.letter(),
            versions: what.versions.iter().map(VersionsJson::of).collect(),
            versions_removed: texts(&what.versions_removed),
            versions_added: texts(&what.versions_added),
            outputs_removed: texts(&what.outputs_removed),
            outputs_added: texts(&what.outputs_added),
            variants_before: texts(&what.variants_before),
            variants_after: texts(&what.variants_after),
            copies: what.copies.map(|(before, after)| BeforeAfter { before, after }),
            size_delta: change.size_delta,
            selected: BeforeAfter { before: change.selected.0, after: change.selected.1 },
        }
    }
}

impl<'a> VersionsJson<'a> {
    fn of(pair: &'a VersionPair) -> Self {
        let order = match pair.relation {
            Relation::Upgrade => "upgrade",
            Relation::Downgrade => "downgrade",
            Relation::Same | Relation::Unordered(_) => "unordered",
        };
        Self { before: &pair.before, after: &pair.after, order }
    }
}

impl<'a> ConfigurationJson<'a> {
    fn of(change: &'a ConfigurationChange) -> Self {
        let kind = match change.kind {
            ConfigurationKind::Unit => "unit",
            ConfigurationKind::Trigger => "trigger",
            ConfigurationKind::Etc => "etc",
            ConfigurationKind::File => "file",
            ConfigurationKind::System => "system",
            ConfigurationKind::Source => "source",
        };
        Self { name: &change.name, kind, change: fate_word(change.fate) }
    }
}

fn fate_word(fate: Fate) -> &'static str {
    match fate {
        Fate::Added => "added",
        Fate::Removed => "removed",
        Fate::Changed => "changed",
    }
}

fn texts(texts: &[Arc<str>]) -> Vec<&str> {
    texts.iter().map(|text| &**text).collect()
}

/// To milliseconds.
fn rounded(seconds: Seconds) -> Seconds {
    let round = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
    Seconds {
        eval: round(seconds.eval),
        build: round(seconds.build),
        diff: round(seconds.diff),
        total: round(seconds.total),
    }
}

#[cfg(test)]
mod tests;
