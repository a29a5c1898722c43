//! The decisions of the orchestrator: one pure function from events to effects.
//!
//! [`Fleet::apply`] takes what happened ([`Event`]) and the time, and answers what to do ([`Effect`]). It
//! holds all runs, targets, eval jobs, steps and leases. No clock, file, socket, environment or randomness
//! is in reach of this crate: a shell gathers events, makes the appended records durable, then performs
//! the other effects. Read [`event`], [`effect`], then [`fleet`].

pub mod effect;
pub mod event;
pub mod id;

pub use effect::*;
pub use event::*;
pub use id::*;
