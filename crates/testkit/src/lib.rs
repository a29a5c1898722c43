//! Real Nix daemons with stores of their own, a binary cache on loopback, and git repositories, for tests.
//!
//! For tests only: everything here panics with a sentence saying what is missing instead of returning
//! errors, and everything it starts or writes is gone when the value is dropped. It never touches the
//! machine's own Nix store, its configuration, or the home of whoever runs the tests.

mod cache;
mod daemon;
mod fault_proxy;
mod git;
mod installation;
mod journal;
mod lines;
mod options;
mod postgres;
mod process;
#[cfg(feature = "s3")]
mod s3;

pub use cache::BinaryCache;
pub use daemon::NixDaemon;
pub use fault_proxy::{Direction, FaultProxy};
pub use git::GitRepo;
pub use installation::{NixInstallation, short_temp_dir};
pub use journal::Journal;
pub use lines::Lines;
pub use options::{DaemonOptions, Trust};
pub use postgres::PostgresServer;
pub use process::{is_running, kill_hard, peak_memory_kib, send_signal, wait_until_gone};
#[cfg(feature = "s3")]
pub use s3::S3Server;

pub use rustix::process::Signal;
