//! Drives the core from a seed: a whole fleet in one thread and in virtual time.
//!
//! [`simulate`] makes a world from a seed (derivations, trees, machines, faults), lets clients and workers
//! act in it, and checks after every event what must hold: the core's own invariants, and the books of a
//! witness that sees only events and effects. [`recorded`] reads real fleets instead of random ones.

mod contents;
mod machine;
mod profile;
mod random;
pub mod recorded;
mod simulation;
mod witness;
mod world;

pub use random::Random;
pub use simulation::{Defeat, Origin, Summary, Watcher, simulate, watch};
