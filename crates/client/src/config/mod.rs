//! The settings in force: defaults, then the user's file, the project's, the environment, and flags.
//!
//! Every default of fleetctl stands in `settings`. This module reads; it decides nothing about a run.

mod file;
mod settings;

pub use file::{ConfigError, ProjectFile, UserFile, find_project, load_project, load_user};
pub use settings::{Environment, Files, Origin, Setting, Settings};
