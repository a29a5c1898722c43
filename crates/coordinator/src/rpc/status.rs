//! The one place where gRPC status codes are chosen.

use std::error::Error;

use fleet_store::StoreError;
use fleet_wire::from_wire::WireError;
use tonic::Status;

pub(crate) fn invalid(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A worker sent content that does not hold what it claims.
pub(crate) fn refused(error: &dyn Error) -> Status {
    Status::invalid_argument(with_cause(error))
}

pub(crate) fn unknown_run(name: &str) -> Status {
    Status::not_found(format!("there is no run {name}"))
}

pub(crate) fn store(error: &StoreError) -> Status {
    match error {
        StoreError::Chunk(_) => Status::invalid_argument(with_cause(error)),
        StoreError::Objects(object_store_error) if is_not_found(object_store_error) => {
            Status::not_found(with_cause(error))
        }
        _ => Status::unavailable(with_cause(error)),
    }
}

/// The shell is gone: the coordinator is stopping.
pub(crate) fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

fn is_not_found(error: &(dyn Error + 'static)) -> bool {
    error.to_string().contains("not found")
}

fn with_cause(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
