//! Evaluates and builds with the local Nix daemon on behalf of a coordinator.
//!
//! [`Worker::prepare`] finds the daemon and what it can do; [`Worker::run`] opens one session after another and executes
//! what the coordinator sends: eval jobs, leases, realise jobs. Leases go on while no session is open, and what is said
//! of them is kept until it has arrived. Decides nothing: what to build where, and what a failure means, is the
//! coordinator's.

mod agent;
mod attempt;
mod backoff;
mod capabilities;
mod clock;
pub mod config;
mod context;
mod disk;
pub mod enrol;
mod eval_job;
mod gc_roots;
mod health;
mod infos;
mod introduced;
mod jobs;
mod lane;
mod lease;
pub mod link;
mod machine;
mod orphans;
mod outcome;
pub mod peer;
mod planner;
mod presence;
mod realise;
mod refusal;
mod renewal;
mod roots;
mod session;
mod share;
mod source;
mod spool;
mod step_log;
mod suspects;
mod transfer;
mod witness;
mod worker;

pub use agent::Stop;
pub use config::Config;
pub use link::{Endpoint, Link, Pings};
pub use spool::SpoolError;
pub use worker::{Session, Worker, WorkerError};
