//! The decisions of the orchestrator: one pure function from events to effects.
//!
//! [`Fleet::apply`] takes what happened ([`Event`]) and the time, and answers what to do ([`Effect`]). It
//! holds all runs, targets, eval jobs, steps and leases. No clock, file, socket, environment or randomness
//! is in reach of this crate: a shell gathers events, makes the appended records durable, then performs
//! the other effects. Read [`event`], [`effect`], then [`fleet`].

mod admission;
mod chain;
pub mod config;
mod cycle;
mod discovery;
mod disk;
mod earlier;
pub mod effect;
mod evaluation;
pub mod event;
mod failure;
pub mod fleet;
pub mod glob;
mod graph;
mod heed;
mod hint;
pub mod id;
mod intern;
pub mod invariant;
mod lease;
mod limits;
mod lost;
mod memory;
mod outcome;
mod patience;
mod placement;
mod realise;
pub mod record;
mod restore;
mod retry;
mod run;
mod sabotage;
mod session;
mod standing;
mod target;
pub mod view;
mod worker;

pub use config::{Backoff, FleetConfig};
pub use earlier::EARLIER_CAUSE;
pub use effect::*;
pub use event::*;
pub use fleet::Fleet;
pub use id::*;
pub use memory::Memory;
pub use record::{Decision, Record, RestoreError};
#[cfg(any(test, feature = "sabotage"))]
pub use sabotage::Sabotage;
