//! One file per command; each turns its arguments into an exit code.

pub mod build;
pub mod completions;
pub mod config;
pub mod diff;
pub mod logs;
pub mod session;
pub mod version;
