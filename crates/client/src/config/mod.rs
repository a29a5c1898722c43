//! The settings in force: defaults, then the user's file, the project's, the environment, and flags.
//!
//! Every default of fleetctl stands in `settings` and `remote`. This module reads; it decides nothing about a run.

pub mod branch;
mod file;
mod remote;
mod settings;
mod sources;

pub use file::{ConfigError, ProjectFile, UserFile, find_project, load_project, load_user};
pub use remote::RemoteSettings;
pub use settings::{Environment, Files, Origin, Setting, Settings};
