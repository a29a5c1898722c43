//! What commands print of a coordinator's runs and workers: tables for people, JSON for programs.
//!
//! Pure but for `screen`, which looks at standard output. Text from elsewhere is made safe to show here; JSON keeps it as
//! it is.

mod document;
mod figure;
mod run;
mod screen;
mod table;
mod worker;

pub use document::document;
pub use figure::{age, bytes, unix_ms, until};
pub use run::{RunJson, TargetJson, host_label, live_table, run_state, run_table, status_word};
pub use screen::Screen;
pub use table::{Cell, Table};
pub use worker::{WorkerJson, worker_page, worker_table};
