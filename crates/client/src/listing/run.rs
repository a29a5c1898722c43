//! Runs and their targets, as rows and as JSON.

use fleet_wire::v1::{self, HostKind, RunOutcome, Side, TargetStatus};
use serde::Serialize;

use super::figure::age;
use super::table::{Cell, Table};
use crate::failure::one_sentence;
use crate::progress::{Style, duration};

/// One run, for programs.
#[derive(Debug, Serialize)]
pub struct RunJson<'a> {
    run: &'a str,
    client: &'a str,
    submitted_unix_ms: u64,
    state: &'static str,
    targets: u32,
    settled: u32,
    failed: u32,
    steps: CountsJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct CountsJson {
    wanted: u32,
    built: u32,
    substituted: u32,
    cached: u32,
    failed: u32,
    deduplicated: u32,
    running: u32,
    cancelled: u32,
}

/// One target, for programs.
#[derive(Debug, Serialize)]
pub struct TargetJson<'a> {
    host: &'a str,
    kind: &'static str,
    side: &'static str,
    stage: &'a str,
    status: Option<&'static str>,
    drv: Option<&'a str>,
    toplevel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureJson<'a>>,
}

#[derive(Debug, Serialize)]
struct FailureJson<'a> {
    code: &'a str,
    cause: &'a str,
    detail: &'a str,
    drv: Option<&'a str>,
}

impl<'a> RunJson<'a> {
    /// As it was told.
    pub fn of(run: &'a v1::RunSummary) -> Self {
        let counts = run.counts.unwrap_or_default();
        let failure = run.finished.as_ref().and_then(|finished| finished.failure.as_ref());
        Self {
            run: &run.run,
            client: &run.client,
            submitted_unix_ms: run.submitted_unix_ms,
            state: state_word(run),
            targets: run.targets,
            settled: run.settled,
            failed: run.failed,
            steps: CountsJson {
                wanted: counts.wanted,
                built: counts.built,
                substituted: counts.substituted,
                cached: counts.cached,
                failed: counts.failed,
                deduplicated: counts.deduplicated,
                running: counts.running,
                cancelled: counts.cancelled,
            },
            total_ms: run.finished.as_ref().map(|finished| finished.total_ms),
            cause: failure.map(|failure| failure.cause.as_str()),
        }
    }
}

impl<'a> TargetJson<'a> {
    /// As it was told.
    pub fn of(target: &'a v1::TargetDetail) -> Self {
        let (name, kind) =
            target.host.as_ref().map_or(("", HostKind::Nixos), |host| (&*host.name, host.kind()));
        let status = target.status();
        Self {
            host: name,
            kind: kind_word(kind),
            side: if target.side() == Side::Before { "before" } else { "after" },
            stage: &target.stage,
            status: (status != TargetStatus::Unspecified).then(|| status_word(status)),
            drv: present(&target.drv),
            toplevel: present(&target.toplevel),
            failure: target.failure.as_ref().map(|failure| FailureJson {
                code: &failure.code,
                cause: &failure.cause,
                detail: &failure.detail,
                drv: present(&failure.drv),
            }),
        }
    }
}

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn kind_word(kind: HostKind) -> &'static str {
    match kind {
        HostKind::Darwin => "darwin",
        HostKind::Home => "home",
        HostKind::Nixos | HostKind::Unspecified => "nixos",
    }
}

/// `web`, `web (before)`, `darwin/web`.
pub fn host_label(target: &v1::TargetDetail) -> String {
    let (name, kind) = target.host.as_ref().map_or(("", HostKind::Nixos), |host| (&*host.name, host.kind()));
    let kind = match kind {
        HostKind::Nixos | HostKind::Unspecified => String::new(),
        other => format!("{}/", kind_word(other)),
    };
    let side = if target.side() == Side::Before { " (before)" } else { "" };
    format!("{kind}{name}{side}")
}

/// In a word.
pub fn status_word(status: TargetStatus) -> &'static str {
    match status {
        TargetStatus::Built => "built",
        TargetStatus::Cached => "cached",
        TargetStatus::Unchanged => "unchanged",
        TargetStatus::EvalFailed => "eval_failed",
        TargetStatus::BuildFailed => "build_failed",
        TargetStatus::Cancelled => "cancelled",
        TargetStatus::Planned => "planned",
        TargetStatus::Unspecified => "unknown",
    }
}

fn state_word(run: &v1::RunSummary) -> &'static str {
    match run.finished.as_ref().map(v1::RunFinished::outcome) {
        None => "running",
        Some(RunOutcome::Succeeded) => "succeeded",
        Some(RunOutcome::Partial) => "partial",
        Some(RunOutcome::Failed | RunOutcome::Unspecified) => "failed",
        Some(RunOutcome::Cancelled) => "cancelled",
    }
}

/// How it is, in a few words, coloured.
pub fn run_state(run: &v1::RunSummary) -> Cell {
    let failed = if run.failed > 0 { format!(", {} failed", run.failed) } else { String::new() };
    let (text, style) = match run.finished.as_ref().map(v1::RunFinished::outcome) {
        None => (format!("running, {} of {} done{failed}", run.settled, run.targets), Style::Busy),
        Some(RunOutcome::Succeeded) => ("succeeded".to_owned(), Style::Good),
        Some(RunOutcome::Partial) => (format!("partial{failed}"), Style::Bad),
        Some(RunOutcome::Cancelled) => ("cancelled".to_owned(), Style::Notable),
        Some(RunOutcome::Failed | RunOutcome::Unspecified) => {
            let failure = run.finished.as_ref().and_then(|finished| finished.failure.as_ref());
            let cause =
                failure.map(|failure| format!(": {}", one_sentence(&failure.cause))).unwrap_or_default();
            (format!("failed{cause}"), Style::Bad)
        }
    };
    Cell::text(&text).styled(style)
}

/// Runs, one a row.
pub fn run_table(runs: &[v1::RunSummary], now_ms: u64) -> Table {
    let mut table = Table::new(&["RUN", "BY", "SUBMITTED", "TOOK", "TARGETS", "STEPS", "STATE"]);
    for run in runs {
        let took = run.finished.as_ref().map(|finished| duration(finished.total_ms));
        table.row(vec![
            Cell::text(&run.run),
            Cell::text(&run.client),
            Cell::text(&age(run.submitted_unix_ms, now_ms)),
            Cell::text(&took.unwrap_or_default()),
            Cell::number(run.targets),
            steps(run),
            run_state(run),
        ]);
    }
    table
}

/// Runs that go on, one a row.
pub fn live_table(runs: &[v1::RunSummary], now_ms: u64) -> Table {
    let mut table = Table::new(&["RUN", "BY", "FOR", "STEPS", "BUILDING", "STATE"]);
    for run in runs {
        table.row(vec![
            Cell::text(&run.run),
            Cell::text(&run.client),
            Cell::text(&duration(now_ms.saturating_sub(run.submitted_unix_ms))),
            steps(run),
            Cell::number(run.counts.map_or(0, |counts| counts.running)),
            run_state(run),
        ]);
    }
    table
}

/// `12/40`, or what else became of them.
fn steps(run: &v1::RunSummary) -> Cell {
    let counts = run.counts.unwrap_or_default();
    let done = counts.built + counts.failed + counts.cancelled;
    if counts.wanted == 0 { Cell::text("") } else { Cell::figure(format!("{done}/{}", counts.wanted)) }
}
