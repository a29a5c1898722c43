//! Benchmarks: ratios against a peer or a bound measured in the same run. Here: what they share, a slow line and an
//! SSH server.

pub mod line;
pub mod ssh;
