//! Events into lasting lines. Pure but for its memory of what has been said already.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use fleet_wire::v1::{self, StepStatus, TargetStatus, run_event::Event};

use super::escape::{log_lines, visible};
use super::hosts::Hosts;
use super::line::{Line, Style};
use super::render::{duration, plural};

/// Log lines shown with a failure where someone watches; with -v, and in CI, where nobody can ask for more, all we
/// have.
const EXTRACT_LINES: usize = 10;
const LONG_EXTRACT_LINES: usize = 200;
/// Of a line of an extract: traces quote source lines, which can be endless.
const EXTRACT_COLUMNS: usize = 200;
/// A step that took longer is worth a line of its own.
const LONG_STEP_MS: u64 = 10_000;
/// Log kept of one step until its block is printed; more than this is printed as it comes.
const MAX_BLOCK_BYTES: usize = 256 * 1024;

/// Whether a line may be folded away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// Success: may be folded.
    Routine,
    /// Never folded.
    Important,
    /// The end of a run without failures: never folded, and nothing that one must know.
    Closing,
}

/// Something to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saying {
    /// One line.
    Line(Importance, Line),
    /// A closed block with a title, for logs that allow folding.
    Block(String, Vec<Line>),
}

/// Says what events mean.
#[derive(Clone, Debug, Default)]
pub struct Narrator {
    verbosity: u8,
    logs: bool,
    blocks: bool,
    planned: bool,
    hosts: Hosts,
    told: BTreeSet<String>,
    pending: BTreeMap<String, Vec<u8>>,
}

impl Narrator {
    /// `verbosity` is how often -v was given; `logs` prints build logs, with `blocks` each in one piece.
    pub fn new(verbosity: u8, logs: bool, blocks: bool) -> Self {
        Self { verbosity, logs, blocks, ..Self::default() }
    }

    /// What to print for one event.
    pub fn narrate(&mut self, event: &v1::RunEvent) -> Vec<Saying> {
        match &event.event {
            Some(Event::HostsFound(found)) => {
                self.hosts.find(found);
                let side = side_name(found.side());
                vec![routine("Found", Style::Good, &format!("{}{side}", plural(found.hosts.len(), "host")))]
            }
            Some(Event::TargetEvaluated(evaluated)) if self.verbosity > 0 => {
                let steps = plural(evaluated.steps as usize, "step");
                let side = side_name(evaluated.side());
                let host = self.hosts.label(&evaluated.host, evaluated.kind());
                let text = format!("{host}{side}: {steps} to build");
                vec![routine("Evaluated", Style::Good, &text)]
            }
            Some(Event::StepStarted(started)) if self.verbosity > 0 => {
                let text = format!("{} on {}", visible(&started.name), visible(&started.worker));
                vec![routine("Building", Style::Busy, &text)]
            }
            Some(Event::StepLog(log)) if self.logs => self.log(log),
            Some(Event::StepFinished(finished)) => self.step_finished(finished),
            Some(Event::TargetSettled(settled)) => self.settled(settled),
            Some(Event::Notice(notice)) => {
                vec![Saying::Line(Importance::Important, narrate_notice(&notice.text))]
            }
            Some(Event::RunFinished(finished)) => self.finish_line(finished).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn log(&mut self, log: &v1::StepLog) -> Vec<Saying> {
        if self.blocks {
            let kept = self.pending.entry(log.drv.clone()).or_default();
            if kept.len() + log.data.len() <= MAX_BLOCK_BYTES {
                kept.extend_from_slice(&log.data);
                return Vec::new();
            }
        }
        let pending = self.pending.remove(&log.drv).unwrap_or_default();
        let lines = log_lines(&[&pending, log.data.as_ref()].concat());
        lines.into_iter().map(|line| Saying::Line(Importance::Routine, log_line(&log.name, &line))).collect()
    }

    fn step_finished(&mut self, finished: &v1::StepFinished) -> Vec<Saying> {
        let log = self.pending.remove(&finished.drv).unwrap_or_default();
        let name = visible(&finished.name);
        let took = duration(finished.duration_ms);
        let mut sayings = Vec::new();
        match finished.status() {
            StepStatus::Built if self.blocks && !log.is_empty() => {
                let lines = log_lines(&log).iter().map(|line| log_line(&name, line)).collect();
                sayings.push(Saying::Block(format!("{name} built in {took}"), lines));
            }
            StepStatus::Built if self.verbosity > 0 || finished.duration_ms >= LONG_STEP_MS => {
                sayings.push(routine("Built", Style::Good, &format!("{name} in {took}")));
            }
            StepStatus::Retried => {
                let cause =
                    finished.failure.as_ref().map(|failure| visible(&failure.cause)).unwrap_or_default();
                let text = format!("{name}: attempt {} was lost: {cause}", finished.attempt);
                sayings.push(routine("Retrying", Style::Notable, &text));
            }
            StepStatus::Failed => {
                self.told.insert(finished.drv.clone());
                let failure = finished.failure.clone().unwrap_or_default();
                let streamed = self.logs && !self.blocks;
                sayings.extend(self.failure(&name, &failure, &finished.drv, streamed));
            }
            _ => {}
        }
        sayings
    }

    fn settled(&mut self, settled: &v1::TargetSettled) -> Vec<Saying> {
        let label = self.hosts.label(&settled.host, settled.kind());
        let host = format!("{label}{}", side_name(settled.side()));
        if is_failure(settled) {
            self.hosts.fail(settled);
        }
        match settled.status() {
            TargetStatus::Planned => {
                self.planned = true;
                vec![routine("Planned", Style::Good, &host)]
            }
            // Who compares wants to see the result; the base is a means.
            _ if settled.side() == v1::Side::Before && self.verbosity == 0 && !is_failure(settled) => {
                Vec::new()
            }
            TargetStatus::Built => vec![routine("Finished", Style::Good, &host)],
            TargetStatus::Cached => vec![routine("Cached", Style::Good, &host)],
            TargetStatus::Unchanged if settled.side() == v1::Side::After => {
                vec![routine("Unchanged", Style::Dim, &label)]
            }
            TargetStatus::EvalFailed | TargetStatus::BuildFailed => {
                let failure = settled.failure.clone().unwrap_or_default();
                let of_drv = !failure.drv.is_empty();
                let cause = visible(&failure.cause);
                let of_host = format!("{} {cause}", settled.host);
                let story = if of_drv { failure.drv.clone() } else { of_host };
                if self.told.insert(story) {
                    return self.failure(&host, &failure, &failure.drv, false);
                }
                // The story has been told; here only who is hit by it.
                let needs = format!("it needs {}", visible(drv_name(&failure.drv)));
                let text = format!("{host}: {}", if of_drv { needs } else { cause });
                vec![important("Failed", Style::Bad, &text)]
            }
            _ => Vec::new(),
        }
    }

    /// None for a run that could do nothing: an error says why.
    fn finish_line(&self, finished: &v1::RunFinished) -> Option<Saying> {
        let verb_text = match finished.outcome() {
            v1::RunOutcome::Failed => return None,
            v1::RunOutcome::Cancelled => "Stopped",
            _ => "Done",
        };
        let counts = finished.counts.unwrap_or_default();
        let mut text = format!("in {}: ", duration(finished.total_ms));
        let hosts = self.hosts.failures();
        if hosts > 0 {
            let _ = write!(text, "{hosts} of {} failed; ", plural(self.hosts.count(), "host"));
        }
        text.push_str(&if self.planned { planned(&counts) } else { done(&counts) });
        let failed = hosts > 0 || counts.failed > 0;
        let (importance, style) = match verb_text {
            _ if failed => (Importance::Important, Style::Bad),
            "Stopped" => (Importance::Important, Style::Notable),
            _ => (Importance::Closing, Style::Good),
        };
        Some(Saying::Line(importance, verb(verb_text, style, &text)))
    }

    fn failure(&self, who: &str, failure: &v1::Failure, drv: &str, log_was_shown: bool) -> Vec<Saying> {
        let limit = match (log_was_shown, self.blocks || self.verbosity > 0) {
            (true, _) => 0,
            (false, true) => LONG_EXTRACT_LINES,
            (false, false) => EXTRACT_LINES,
        };
        let lines = failure_block(who, failure, drv, limit);
        lines.into_iter().map(|line| Saying::Line(Importance::Important, line)).collect()
    }
}

fn planned(counts: &v1::Counts) -> String {
    let steps = plural(counts.wanted as usize, "step");
    format!("{steps} to build, {} to substitute", plural(counts.substituted as usize, "path"))
}

/// What became of the steps; nothing is said of what did not happen.
fn done(counts: &v1::Counts) -> String {
    let v1::Counts { built, substituted, cached, deduplicated, failed, .. } = *counts;
    let parts = [
        (built, "built"),
        (substituted, "substituted"),
        (cached, "there already"),
        (deduplicated, "shared"),
        (failed, "failed"),
    ];
    let mut parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let Some((count, what)) = parts.next() else { return "nothing to build".to_owned() };
    let first = format!("{} {what}", plural(count as usize, "step"));
    parts.fold(first, |text, (count, what)| format!("{text}, {count} {what}"))
}

/// A failure with the end of its trace or log.
pub(super) fn failure_block(who: &str, failure: &v1::Failure, drv: &str, extract_lines: usize) -> Vec<Line> {
    let mut lines = vec![verb("Failed", Style::Bad, &format!("{who}: {}", visible(&failure.cause)))];
    let mut detail = log_lines(failure.detail.as_bytes());
    detail.retain(|line| !line.trim().is_empty());
    let mut extract = &detail[detail.len().saturating_sub(extract_lines)..];
    if drv.is_empty() && extract.len() < detail.len() {
        extract = from_a_frame(extract);
    }
    lines.extend(extract.iter().map(|line| {
        Line::new().and(Style::Dim, "             │ ").and(Style::Plain, line).clipped(EXTRACT_COLUMNS)
    }));
    if !drv.is_empty() && (extract.len() < detail.len() || extract_lines == 0) {
        lines.push(
            Line::new().and(Style::Dim, format!("             whole log: fleetctl logs {}", visible(drv))),
        );
    }
    if blames_the_disk(failure) {
        let next =
            "             there may be no space left for the Nix store: `nix-collect-garbage` frees some";
        lines.push(Line::new().and(Style::Notable, next));
    }
    lines
}

/// The end of a trace from where one of its frames begins; half a frame says nothing.
fn from_a_frame(extract: &[String]) -> &[String] {
    let begins = |line: &String| {
        let line = line.trim_start();
        line.starts_with('…') || line.starts_with("error:")
    };
    let at = extract.iter().position(begins).unwrap_or(0);
    &extract[at..]
}

/// Nix suspects a full disk by itself; builders say it in the system's words.
fn blames_the_disk(failure: &v1::Failure) -> bool {
    [&failure.cause, &failure.detail]
        .iter()
        .any(|text| text.contains("lack of free disk space") || text.contains("No space left on device"))
}

/// A sentence that is neither success nor failure.
pub(super) fn narrate_notice(text: &str) -> Line {
    verb("Note", Style::Notable, &visible(text))
}

fn is_failure(settled: &v1::TargetSettled) -> bool {
    matches!(settled.status(), TargetStatus::EvalFailed | TargetStatus::BuildFailed)
}

/// `/nix/store/<hash>-linux-6.18.drv` is `linux-6.18`.
fn drv_name(drv: &str) -> &str {
    let base = drv.rsplit('/').next().unwrap_or(drv);
    let base = base.strip_suffix(".drv").unwrap_or(base);
    base.split_once('-').map_or(base, |(_, name)| name)
}

fn side_name(side: v1::Side) -> &'static str {
    match side {
        v1::Side::Before => " (before)",
        v1::Side::After | v1::Side::Unspecified => "",
    }
}

fn log_line(name: &str, line: &str) -> Line {
    Line::new().and(Style::Dim, format!("{}> ", visible(name))).and(Style::Plain, line)
}

/// Something of our own that may take a while.
pub(super) fn narrate_work(verb_text: &str, what: &str) -> Saying {
    routine(verb_text, Style::Busy, &visible(what))
}

fn routine(verb_text: &str, style: Style, text: &str) -> Saying {
    Saying::Line(Importance::Routine, verb(verb_text, style, text))
}

fn important(verb_text: &str, style: Style, text: &str) -> Saying {
    Saying::Line(Importance::Important, verb(verb_text, style, text))
}

/// A right-aligned word for what happened, then what it happened to.
fn verb(verb: &str, style: Style, text: &str) -> Line {
    Line::new().and(style, format!("{verb:>12}")).and(Style::Plain, format!(" {text}"))
}
