//! What the tests of the real programs share: running fleetctl against a daemon of a test's own, and small fleets.
//!
//! Holds no test. Everything panics with a sentence when a test cannot be set up.

mod farm;
mod flake;
mod graph;
mod namespace;
mod program;

pub use farm::{Farm, FarmOptions, FarmWorker, PATIENCE};
pub use flake::HandMadeFleet;
pub use graph::{Graph, Node, ReplayedFleet};
pub use namespace::{DAEMON_SETTING, Network, fill, in_namespaces, small_file_system};
pub use program::{Fleetctl, Outcome, Running, fleetctl_binary};
