//! What a user sees while a run goes on.
//!
//! Events fold into `state`; `render` maps state and size to the lines of the live region, `narrate` an event
//! to lasting lines: all three are pure. Only `console` writes.

mod console;
mod display;
mod escape;
mod hosts;
mod line;
mod narrate;
mod render;
mod state;

pub use console::{Console, ConsoleOptions, Mode, choose_mode, colored, folds};
pub use display::Display;
pub use escape::{log_lines, visible};
pub use line::{Line, Style, width};
pub use narrate::{Importance, Narrator, Saying};
pub use render::{Size, chosen_time, duration, plural};
pub use state::{Progress, TargetState};

#[cfg(test)]
mod tests;
