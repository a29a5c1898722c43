//! The one place where gRPC status codes are chosen.

use std::error::Error;

use fleet_store::StoreError;
use fleet_telemetry::with_causes;
use fleet_wire::from_wire::WireError;
use tonic::Status;

use crate::journal::JournalError;

pub(crate) fn invalid(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A worker sent content that does not hold what it claims.
pub(crate) fn refused(error: &dyn Error) -> Status {
    Status::invalid_argument(with_causes(error))
}

pub(crate) fn unknown_run(name: &str) -> Status {
    Status::not_found(format!("there is no run {name}"))
}

/// The same key came with another request.
pub(crate) fn other_request(key: &str) -> Status {
    Status::already_exists(format!("the key {key} stands for another request"))
}

/// As many workers are connected as the core takes.
pub(crate) fn too_many_workers(limit: usize) -> Status {
    Status::resource_exhausted(format!("{limit} workers are connected already"))
}

/// A worker was not heard of for too long.
pub(crate) fn silent() -> Status {
    Status::deadline_exceeded("the worker was silent for too long")
}

/// A worker let its messages pile up.
pub(crate) fn not_taken() -> Status {
    Status::resource_exhausted("the worker does not take its messages")
}

pub(crate) fn journal(error: &JournalError) -> Status {
    Status::unavailable(with_causes(error))
}

pub(crate) fn store(error: &StoreError) -> Status {
    match error {
        StoreError::Chunk(_) => Status::invalid_argument(with_causes(error)),
        StoreError::Absent(_) => Status::not_found(error.to_string()),
        _ => Status::unavailable(with_causes(error)),
    }
}

/// The shell is gone: the coordinator is stopping.
pub(crate) fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

/// What was asked for may have happened, but cannot be kept: the coordinator stops.
pub(crate) fn not_durable(error: &JournalError) -> Status {
    Status::unavailable(with_causes(error))
}
