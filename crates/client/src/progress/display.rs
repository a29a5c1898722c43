//! State, words and screen of one run, on the clock of the display.

use std::io::Write;
use std::time::Instant;

use fleet_wire::v1;

use super::console::Console;
use super::narrate::{Importance, Narrator, Saying, narrate_notice};
use super::state::Progress;

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
