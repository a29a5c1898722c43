//! Evaluates and builds with the local Nix daemon on behalf of a coordinator.
//!
//! [`Worker::prepare`] finds the daemon and what it can do; [`Worker::run`] opens the session and executes what
//! the coordinator sends: eval jobs, leases, realise jobs. Decides nothing: what to build where, and what a
//! failure means, is the coordinator's.

mod capabilities;
pub mod config;
mod context;
mod eval_job;
mod jobs;
mod lane;
mod lease;
mod planner;
mod realise;
mod roots;
mod session;
mod source;
mod step_log;

pub use config::Config;
pub use session::{Session, Worker, WorkerError};
