//! Benchmarks: ratios against a peer or a bound measured in the same run. Here: what they share, a slow line, an SSH
//! server, two workers.

pub mod line;
pub mod ssh;
pub mod workers;
