//! Writes lasting lines and the live region to standard error. The only part of `progress` that does IO; what
//! cannot be written is dropped, as a run must not end because nobody looks.

use std::fmt;
use std::io::{self, Write};

use super::line::{Line, Style};
use super::narrate::{Importance, Saying};
use super::render::{self, Size};
use super::state::Progress;
use crate::args::ColorChoice;
use crate::config::Environment;

/// Where nothing can be redrawn, a sign of life after this long without a word.
const HEARTBEAT_MS: u64 = 30_000;
/// Redraws at most this often.
const REDRAW_MS: u64 = 250;
/// Lines kept while a question stands.
const MAX_HELD: usize = 2_000;
const ROUTINE_GROUP: &str = "Progress";

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A region at the bottom of the terminal is redrawn.
    Live,
    /// Lines only.
    Plain,
    /// Only what is important.
    Quiet,
}

/// How a console behaves.
#[derive(Clone, Copy, Debug)]
pub struct ConsoleOptions {
    /// How progress is shown.
    pub mode: Mode,
    /// Whether to colour.
    pub color: bool,
    /// Whether the log understands `::group::`.
    pub fold: bool,
    /// Asked for before each redraw.
    pub size: fn() -> Size,
}

/// Standard error, or a buffer in tests.
#[derive(Debug)]
pub struct Console<W> {
    to: W,
    options: ConsoleOptions,
    pending: Vec<Line>,
    /// Characters of each line of the region as it was drawn.
    region: Vec<usize>,
    group_open: bool,
    spoken_ms: u64,
    drawn_ms: Option<u64>,
    /// Somebody types an answer: nothing may be written until the line is done.
    asking: bool,
    /// Lines that came during the question and had no room.
    unshown: usize,
}

impl<W: Write> Console<W> {
    /// A console that has written nothing yet.
    pub fn new(to: W, options: ConsoleOptions) -> Self {
        Self {
            to,
            options,
            pending: Vec::new(),
            region: Vec::new(),
            group_open: false,
            spoken_ms: 0,
            drawn_ms: None,
            asking: false,
            unshown: 0,
        }
    }

    /// Whether a region is redrawn.
    pub fn is_live(&self) -> bool {
        self.options.mode == Mode::Live
    }

    /// Puts a question where the region was; until it is answered, everything else waits.
    pub fn ask(&mut self, question: &str) {
        let written = self.redraw(&[]).and_then(|()| self.close_group());
        // The terminal has shown the Ctrl-C: it is no part of the question.
        let start = if self.asking || self.is_live() { "\r" } else { "\n" };
        self.asking = true;
        drop(written.and_then(|()| write!(self.to, "{start}{question}")).and_then(|()| self.to.flush()));
    }

    /// Goes on, where the question stood or below it.
    pub fn answered(&mut self) {
        if !std::mem::take(&mut self.asking) {
            return;
        }
        drop(self.to.write_all(if self.is_live() { b"\r\x1b[J" } else { b"\n" }));
        let unshown = std::mem::take(&mut self.unshown);
        if unshown > 0 {
            self.pending.push(Line::new().and(Style::Dim, format!("({unshown} lines came meanwhile)")));
        }
        if !self.is_live() {
            for line in std::mem::take(&mut self.pending) {
                drop(self.write_line(&line));
            }
        }
    }

    /// Prints, now or with the next redraw. `now_ms` is on any clock, always the same.
    pub fn say(&mut self, saying: Saying, now_ms: u64) {
        self.spoken_ms = now_ms;
        let written = match (self.options.mode, saying) {
            (Mode::Quiet, Saying::Line(Importance::Routine | Importance::Closing, _) | Saying::Block(..)) => {
                Ok(())
            }
            (_, saying) if self.asking => {
                self.hold(saying);
                Ok(())
            }
            (Mode::Quiet, Saying::Line(Importance::Important, line)) => self.write_line(&line),
            (Mode::Live, Saying::Line(_, line)) => {
                self.pending.push(line);
                Ok(())
            }
            (Mode::Live, Saying::Block(_, lines)) => {
                self.pending.extend(lines);
                Ok(())
            }
            (Mode::Plain, Saying::Line(importance, line)) => self.plain(importance, &line),
            (Mode::Plain, Saying::Block(title, lines)) => self.block(&title, &lines),
        };
        drop(written);
    }

    /// Redraws the region, or gives a sign of life. To be called a few times a second.
    pub fn tick(&mut self, progress: &Progress, now_ms: u64) {
        let written = match self.options.mode {
            _ if self.asking => Ok(()),
            Mode::Live if self.drawn_ms.is_none_or(|drawn_ms| now_ms >= drawn_ms + REDRAW_MS) => {
                self.drawn_ms = Some(now_ms);
                let lines = render::render(progress, (self.options.size)(), now_ms);
                self.redraw(&lines)
            }
            Mode::Plain if now_ms >= self.spoken_ms + HEARTBEAT_MS => {
                self.spoken_ms = now_ms;
                let line = render::summary(progress, now_ms);
                self.plain(Importance::Routine, &line)
            }
            _ => Ok(()),
        };
        drop(written);
    }

    /// Prints what is pending and takes the region away.
    pub fn finish(&mut self) {
        self.answered();
        let written = self.redraw(&[]).and_then(|()| self.close_group()).and_then(|()| self.to.flush());
        drop(written);
    }

    fn hold(&mut self, saying: Saying) {
        let lines = match saying {
            Saying::Line(_, line) => vec![line],
            Saying::Block(_, lines) => lines,
        };
        let room = MAX_HELD.saturating_sub(self.pending.len()).min(lines.len());
        self.unshown += lines.len() - room;
        self.pending.extend(lines.into_iter().take(room));
    }

    fn plain(&mut self, importance: Importance, line: &Line) -> io::Result<()> {
        if self.options.fold {
            match importance {
                Importance::Routine => self.open_group(ROUTINE_GROUP)?,
                Importance::Important | Importance::Closing => self.close_group()?,
            }
        }
        self.write_line(line)
    }

    fn block(&mut self, title: &str, lines: &[Line]) -> io::Result<()> {
        if self.options.fold {
            self.close_group()?;
            self.open_group(title)?;
        } else {
            self.write_line(&Line::new().and(Style::Bold, title))?;
        }
        for line in lines {
            self.write_line(line)?;
        }
        self.close_group()
    }

    fn open_group(&mut self, title: &str) -> io::Result<()> {
        if self.group_open {
            return Ok(());
        }
        self.group_open = true;
        writeln!(self.to, "::group::{title}")
    }

    fn close_group(&mut self) -> io::Result<()> {
        if !self.group_open {
            return Ok(());
        }
        self.group_open = false;
        writeln!(self.to, "::endgroup::")
    }

    fn redraw(&mut self, region: &[Line]) -> io::Result<()> {
        let mut frame = String::new();
        if !self.region.is_empty() {
            let _ = fmt::Write::write_fmt(&mut frame, format_args!("\r\x1b[{}A\x1b[J", self.region_rows()));
        }
        for line in self.pending.drain(..).chain(region.iter().cloned()) {
            frame.push_str(&if self.options.color { line.ansi() } else { line.text() });
            frame.push('\n');
        }
        self.region = region.iter().map(|line| line.text().chars().count()).collect();
        if frame.is_empty() {
            return Ok(());
        }
        // One write between the marks of a synchronized update: no flicker, no half frame.
        if self.options.mode == Mode::Live {
            frame = format!("\x1b[?2026h{frame}\x1b[?2026l");
        }
        self.to.write_all(frame.as_bytes())?;
        self.to.flush()
    }

    /// Rows that the region takes by now: a terminal that was made narrower has wrapped its lines. Wide characters
    /// are counted as narrow ones: a row too few is left behind, a row too many would take what must stay.
    fn region_rows(&self) -> usize {
        let columns = (self.options.size)().columns.max(1);
        self.region.iter().map(|characters| characters.div_ceil(columns).max(1)).sum()
    }

    fn write_line(&mut self, line: &Line) -> io::Result<()> {
        let text = if self.options.color { line.ansi() } else { line.text() };
        // Whatever it is, it is no command to a CI runner.
        let guard = if text.trim_start().starts_with("::") { "\\" } else { "" };
        writeln!(self.to, "{guard}{text}")
    }
}

/// Live only where someone watches a terminal that can be redrawn.
pub fn choose_mode(quiet: bool, is_terminal: bool, environment: &Environment) -> Mode {
    let can_redraw = is_terminal && environment.get("TERM").is_some_and(|term| term != "dumb");
    match (quiet, can_redraw && !folds(environment)) {
        (true, _) => Mode::Quiet,
        (false, true) => Mode::Live,
        (false, false) => Mode::Plain,
    }
}

/// Whether the log understands `::group::`.
pub fn folds(environment: &Environment) -> bool {
    ["GITHUB_ACTIONS", "FORGEJO_ACTIONS", "GITEA_ACTIONS", "CI"]
        .iter()
        .any(|name| environment.get(name).is_some())
}

/// Whether to colour: the flag beats the variables, and those the terminal.
pub fn colored(choice: ColorChoice, is_terminal: bool, environment: &Environment) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            let forced = environment.get("CLICOLOR_FORCE").is_some_and(|value| value != "0");
            let refused = environment.get("NO_COLOR").is_some()
                || environment.get("CLICOLOR") == Some("0")
                || environment.get("TERM") == Some("dumb");
            if environment.get("NO_COLOR").is_some() { false } else { forced || is_terminal && !refused }
        }
    }
}
