//! The live region: state and size in, lines out. Pure, and tested as text.

use super::escape::visible;
use super::line::{Line, Style, width};
use super::state::{Progress, RunningStep, TargetState};

/// The terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// Lines of running steps, however tall the terminal is.
const MAX_STEPS: usize = 12;
const MAX_STRIP_ROWS: usize = 3;

/// The lines of the region, at most a third of the terminal and at least the summary. `now_ms` is on the clock of
/// the run.
pub(super) fn render(progress: &Progress, size: Size, now_ms: u64) -> Vec<Line> {
    // The last column stays free: some terminals wrap when it is written.
    let columns = size.columns.saturating_sub(1).max(8);
    let room = (size.rows / 3).clamp(1, 1 + MAX_STRIP_ROWS + MAX_STEPS);
    let mut lines = vec![summary(progress, now_ms)];
    if let Some(what) = progress.waits_for().filter(|_| room > 1) {
        lines.push(Line::new().and(Style::Notable, format!("  {what}")));
    }
    if room > lines.len() + 1 {
        lines.extend(strip(progress, columns, MAX_STRIP_ROWS.min(room - lines.len() - 1)));
    }
    let left = room.saturating_sub(lines.len()).min(MAX_STEPS);
    let steps = progress.running();
    let shown = if steps.len() > left { left.saturating_sub(1) } else { steps.len() };
    lines.extend(steps.iter().take(shown).map(|step| running(step, progress.workers() > 1, now_ms)));
    if steps.len() > shown && left > 0 {
        lines.push(Line::new().and(Style::Dim, format!("  and {} more", steps.len() - shown)));
    }
    lines.into_iter().map(|line| line.clipped(columns)).collect()
}

/// One line that says where the run is; also the heartbeat where nothing can be redrawn.
pub(super) fn summary(progress: &Progress, now_ms: u64) -> Line {
    let counts = progress.counts();
    let done = counts.built + counts.failed + counts.cancelled;
    let mut line = Line::new().and(Style::Bold, duration(now_ms));
    if let Some(since_ms) = progress.without_contact_since_ms() {
        let lasts = duration(now_ms.saturating_sub(since_ms));
        line = line.and(Style::Bad, format!("  no contact with the coordinator for {lasts}"));
    }
    let hosts = progress.hosts().len();
    if hosts == 0 {
        return line.and(Style::Plain, "  looking for hosts");
    }
    let open = progress.targets(TargetState::Evaluating) + progress.targets(TargetState::Waiting);
    line = line.and(Style::Plain, format!("  {}", plural(hosts, "host")));
    if open > 0 {
        line = line.and(Style::Busy, format!(" · {open} to evaluate"));
    }
    if counts.wanted > 0 {
        line = line.and(Style::Plain, format!(" · {done}/{} steps", counts.wanted));
    }
    if !progress.running().is_empty() {
        let workers = progress.workers();
        let on = if workers > 1 { format!(" on {workers} workers") } else { String::new() };
        line = line.and(Style::Busy, format!(" · {} building{on}", progress.running().len()));
    }
    if counts.failed > 0 {
        line = line.and(Style::Bad, format!(" · {} failed", plural(counts.failed as usize, "step")));
    }
    let failed_hosts = progress.hosts().values().filter(|host| host.overall() == TargetState::Failed).count();
    if failed_hosts > 0 {
        line = line.and(Style::Bad, format!(" · {} failed", plural(failed_hosts, "host")));
    }
    line
}

/// One cell a host, in the order of their names; each cell a symbol and a colour.
fn strip(progress: &Progress, columns: usize, rows: usize) -> Vec<Line> {
    const INDENT: &str = "  ";
    let per_row = columns.saturating_sub(INDENT.len()).max(1);
    let cells: Vec<_> = progress.hosts().values().map(|host| cell(host.overall())).collect();
    let note = |hidden| format!(" and {}", plural(hidden, "more host"));
    let all_fit = cells.len() <= per_row * rows;
    // The note takes the room of some cells, and of the most digits it can have.
    let shown =
        if all_fit { cells.len() } else { (per_row * rows).saturating_sub(width(&note(cells.len()))) };
    let row = |cells: &[(Style, &'static str)]| {
        cells
            .iter()
            .fold(Line::new().and(Style::Plain, INDENT), |line, (style, cell)| line.and(*style, *cell))
    };
    let mut lines: Vec<Line> = cells[..shown].chunks(per_row).map(row).collect();
    if !all_fit && let Some(last) = lines.pop() {
        lines.push(last.and(Style::Dim, note(cells.len() - shown)));
    }
    lines
}

fn cell(state: TargetState) -> (Style, &'static str) {
    match state {
        TargetState::Waiting => (Style::Dim, "·"),
        TargetState::Evaluating => (Style::Notable, "e"),
        TargetState::Building => (Style::Busy, "b"),
        TargetState::Unchanged => (Style::Dim, "="),
        TargetState::Done => (Style::Good, "✓"),
        TargetState::Failed => (Style::Bad, "✗"),
        TargetState::Cancelled => (Style::Dim, "-"),
    }
}

/// The worker is named where there is more than one.
fn running(step: &RunningStep, names_worker: bool, now_ms: u64) -> Line {
    let mut line = Line::new().and(Style::Busy, "  ▸ ").and(Style::Plain, visible(&step.name));
    if !step.phase.is_empty() {
        line = line.and(Style::Dim, format!("  {}", visible(&step.phase)));
    }
    if step.attempt > 1 {
        line = line.and(Style::Notable, format!("  attempt {}", step.attempt));
    }
    if names_worker {
        line = line.and(Style::Dim, format!("  on {}", visible(&step.worker)));
    }
    line.and(Style::Dim, format!("  {}", duration(now_ms.saturating_sub(step.started_ms))))
}

/// `4s`, `1m05s`, `2h03m`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A time that was chosen: `10m`, where a measured one would be `10m00s`.
pub fn chosen_time(time: std::time::Duration) -> String {
    let text = duration(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let short = text.strip_suffix("00s").or_else(|| text.strip_suffix("00m"));
    short.filter(|short| !short.is_empty()).map_or(text.clone(), str::to_owned)
}

/// `1 host`, `2 hosts`.
pub fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
