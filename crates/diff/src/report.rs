//! A whole run as data, and its renderings.

pub mod json;
pub mod markdown;
pub mod nvd;

mod escape;
mod format;
mod host_set;
mod model;
mod quantity;

pub use format::{Format, UnknownFormat, render};
pub use model::{
    Failure, HostKind, HostReport, Report, Seconds, SideLabel, StepCounts, TargetReport, TargetStatus,
};
