//! How an import ended: what every source gave, what was learnt of them, and why bytes were lacking.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fleet_nix::store_path::StorePath;
use thiserror::Error;
use tonic::{Code, Status};

use super::FetchError;
use super::holders::Trust;
use super::stream::StreamFault;
use crate::transfer::manifest_cache::Piece;

/// Why the bytes end. Travels inside an [`std::io::Error`].
#[derive(Debug, Error)]
pub(super) enum Fault {
    #[error("no machine gives {path}: {cause}")]
    Nowhere { path: StorePath, cause: String },
    #[error("the coordinator did not serve: {}", .0.message())]
    Coordinator(Box<Status>),
    #[error("the coordinator's chunks are no good: {0}")]
    Damaged(String),
}

impl Fault {
    /// Of the coordinator's chunks.
    pub(super) fn of_coordinator(fault: StreamFault) -> Self {
        match fault {
            StreamFault::Status(status) => Self::Coordinator(status),
            // As when it does not answer: what it has not sent is asked for again.
            StreamFault::Ended | StreamFault::Stalled | StreamFault::Late | StreamFault::Interrupted => {
                Self::Coordinator(Box::new(Status::unknown(fault.to_string())))
            }
            other => Self::Damaged(other.to_string()),
        }
    }

    pub(super) fn into_error(self) -> FetchError {
        match self {
            Self::Nowhere { path, cause } => FetchError::Nowhere { path, cause },
            Self::Coordinator(status) => FetchError::Coordinator(status),
            Self::Damaged(what) => FetchError::Described(what),
        }
    }
}

/// What is known when an import is over.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) trust: Trust,
    /// Who gave how much of each item: holders by name.
    pub(super) suppliers: HashMap<usize, Vec<String>>,
    /// Where large paths were cut.
    pub(super) pieces: Vec<(StorePath, Vec<Piece>)>,
    pub(super) from_peers: u64,
    pub(super) from_coordinator: u64,
    pub(super) from_here: u64,
}

/// The outcome of an import that may still run.
#[derive(Clone, Debug, Default)]
pub(super) struct Report(Arc<Mutex<Outcome>>);

impl Report {
    pub(super) fn take(&self) -> Outcome {
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether asking again may help.
pub(super) fn may_pass(fault: &StreamFault) -> bool {
    match fault {
        StreamFault::Status(status) => !matches!(
            status.code(),
            Code::PermissionDenied
                | Code::InvalidArgument
                | Code::Unauthenticated
                | Code::Internal
                | Code::Unimplemented
        ),
        StreamFault::Ended | StreamFault::Interrupted | StreamFault::Stalled => true,
        _ => false,
    }
}
