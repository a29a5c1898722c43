//! Paths from worker to worker: real daemons with stores of their own, real TLS, no coordinator.

mod evil;
mod faults;
mod hall;
mod hits;
mod refusals;
