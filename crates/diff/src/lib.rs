//! Closures in, changes and reports out: what an update does to a fleet.
//!
//! A run's path infos fill one [`PathTable`]; a [`Catalog`] of it knows what each path is; two closures of the
//! table make a [`ClosureDiff`], those of all hosts a [`FleetDiff`]. A [`Report`] holds a whole run and
//! [`render`] writes it for people and machines. Nothing here reads a file, a clock or the environment.

pub mod catalog;
pub mod change;
pub mod closure_diff;
pub mod fleet_diff;
pub mod identify;
pub mod listing;
pub mod report;
pub mod table;
pub mod version;

mod strings;
#[cfg(test)]
mod testing;

pub use catalog::Catalog;
pub use change::{Change, ChangeKind, VersionPair, What};
pub use closure_diff::{ClosureDiff, ClosureSize, ConfigurationChange, Fate};
pub use fleet_diff::{FleetChange, FleetDiff};
pub use identify::ConfigurationKind;
pub use report::{
    Failure, Format, HostKind, HostReport, Report, SideLabel, StepCounts, TargetReport, TargetStatus, render,
};
pub use table::{Closure, Identity, PathFact, PathId, PathTable, UnknownPath};
