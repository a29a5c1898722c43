//! State, words and screen of one run, on the clock of the display.

use std::io::Write;
use std::time::Instant;

use fleet_wire::v1;

use super::console::Console;
use super::narrate::{Importance, Narrator, Saying, narrate_notice, narrate_work};
use super::render::{chosen_time, duration};
use super::state::Progress;
use crate::contact::News;

/// The display, and the clock it runs on.
#[derive(Debug)]
pub struct Display<W> {
    console: Console<W>,
    narrator: Narrator,
    progress: Progress,
    started: Instant,
}

impl<W: Write> Display<W> {
    /// A display that has shown nothing yet.
    pub fn new(console: Console<W>, narrator: Narrator) -> Self {
        Self { console, narrator, progress: Progress::default(), started: Instant::now() }
    }

    /// Says something that is not an event.
    pub fn note(&mut self, text: &str) {
        let saying = Saying::Line(Importance::Important, narrate_notice(text));
        self.console.say(saying, self.now_ms());
    }

    /// What has been shown, as state.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The coordinator has the run: from now on it goes on without us.
    pub fn submitted(&mut self) {
        self.progress.submit();
    }

    /// Tells that contact with the coordinator is lost, or there again.
    pub fn news(&mut self, news: &News) {
        match news {
            News::Work { verb, what } => self.console.say(narrate_work(verb, what), self.now_ms()),
            News::Lost { why, since, within } => {
                let ago_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.progress.lose_contact(self.now_ms().saturating_sub(ago_ms));
                let goes_on = if self.progress.is_submitted() { "; the run goes on there" } else { "" };
                let within = chosen_time(*within);
                self.note(&format!(
                    "no contact with the coordinator: {why}{goes_on}, trying again for {within}"
                ));
            }
            News::Back { after } => {
                self.progress.regain_contact();
                let after = duration(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
                self.note(&format!("the coordinator is there again, after {after}"));
            }
        }
    }

    /// What the run waits for while nothing moves; nothing when something does.
    pub fn wait_for(&mut self, what: Option<&str>) {
        if self.progress.wait_for(what)
            && let (Some(what), false) = (what, self.console.is_live())
        {
            self.note(what);
        }
    }

    /// Asks something; the display stands still until it is answered.
    pub fn ask(&mut self, question: &str) {
        self.console.ask(question);
    }

    /// The question, if there is one, needs no answer any more.
    pub fn answered(&mut self) {
        self.console.answered();
    }

    /// Takes the live region away.
    pub fn finish(&mut self) {
        self.console.finish();
    }

    /// Shows one event.
    pub fn show(&mut self, event: &v1::RunEvent) {
        self.progress.apply(event);
        let now_ms = self.now_ms();
        for saying in self.narrator.narrate(event) {
            self.console.say(saying, now_ms);
        }
    }

    /// Refreshes. To be called a few times a second.
    pub fn tick(&mut self) {
        let now_ms = self.now_ms();
        self.console.tick(&self.progress, now_ms);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
