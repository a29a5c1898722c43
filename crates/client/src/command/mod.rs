//! One file per command; each turns its arguments into an exit code. `session`, `coordinator` and `conclude` hold what
//! several begin or end with.

pub mod attach;
pub mod build;
pub mod cache;
mod cache_here;
pub mod cancel;
pub mod client;
pub mod completions;
pub mod conclude;
pub mod config;
mod confirm;
pub mod coordinator;
pub mod diff;
pub mod logs;
pub mod pin;
pub mod runs;
pub mod session;
pub mod show;
pub mod status;
pub mod version;
pub mod why;
pub mod worker;
