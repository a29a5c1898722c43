//! The one place where gRPC status codes are chosen.

use std::error::Error;
use std::fmt::Display;

use fleet_core::SessionEnd;
use fleet_identity::oidc::VerifyError;
use fleet_identity::{AuthorityError, Refused, RegistryError, RequestError};
use fleet_journal::JournalError;
use fleet_nix::StorePath;
use fleet_paths::roots::PinRefusal;
use fleet_store::StoreError;
use fleet_telemetry::with_causes;
use fleet_wire::from_wire::WireError;
use tonic::{Code, Status};

use crate::log_index::IndexError;
use crate::paths::PathsError;

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

/// The journal has no room: nothing new is taken until it has.
pub(crate) fn read_only(why: &str) -> Status {
    Status::unavailable(format!("the coordinator is read-only: {why}"))
}

/// Nothing is known by this name.
pub(crate) fn unknown_selector(selector: &str) -> Status {
    Status::not_found(format!("no live run has a host or step {selector}"))
}

/// Nothing can be called like this.
pub(crate) fn bad_selector() -> Status {
    Status::invalid_argument("a selector is a host's name or a derivation")
}

pub(crate) fn unknown_worker(name: &str) -> Status {
    Status::not_found(format!("there is no worker {name}"))
}

/// A worker that claims another's name.
pub(crate) fn other_name(certified: &str) -> Status {
    Status::permission_denied(format!(
        "the certificate is {certified}'s: another name cannot be used with it"
    ))
}

/// A worker that speaks a protocol which is served no more.
pub(crate) fn too_old(theirs: u32, oldest: u32) -> Status {
    let text =
        format!("protocol {theirs} is not served any more, the oldest is {oldest}: upgrade the worker");
    Status::failed_precondition(text)
}

/// Why a worker's session is cut, or never began.
pub(crate) fn session_end(name: &str, end: &SessionEnd) -> Status {
    match end {
        SessionEnd::Replaced => {
            Status::unavailable(format!("a newer session of {name} took this one's place"))
        }
        SessionEnd::Contended => {
            Status::unavailable(format!("another session of {name} is still open: come again later"))
        }
        SessionEnd::Locked => Status::failed_precondition(format!(
            "two machines use the identity of {name}: it is locked until `fleetctl worker resume {name}`"
        )),
        SessionEnd::Revoked => Status::permission_denied(format!("{name} has been revoked")),
        SessionEnd::TooMany => Status::resource_exhausted("as many workers are connected as fit"),
    }
}

/// The worker's side of the connection is gone.
pub(crate) fn broken() -> Status {
    Status::unavailable("the session broke")
}

/// What is known of derivations was dropped: a new session tells it again.
pub(crate) fn tidied() -> Status {
    Status::unavailable("the coordinator tidied up: come again")
}

/// What ended a peer's stream: what cannot be read is the peer's fault, not ours.
pub(crate) fn of_peer(status: Status) -> Status {
    if status.code() == Code::Internal { Status::invalid_argument(status.message()) } else { status }
}

/// A worker was not heard of for too long.
pub(crate) fn silent() -> Status {
    Status::deadline_exceeded("the worker was silent for too long")
}

/// A worker let its messages pile up.
pub(crate) fn not_taken() -> Status {
    Status::resource_exhausted("the worker does not take its messages")
}

pub(crate) fn index(error: &IndexError) -> Status {
    Status::unavailable(with_causes(error))
}

pub(crate) fn store(error: &StoreError) -> Status {
    match error {
        StoreError::Chunk(_) | StoreError::Name(_) | StoreError::TooLarge(_) => {
            Status::invalid_argument(with_causes(error))
        }
        StoreError::Absent(_) => Status::not_found(error.to_string()),
        StoreError::Damaged(_) | StoreError::DamagedManifest(_) | StoreError::OtherSize { .. } => {
            Status::data_loss(error.to_string())
        }
        full if full.is_full() => no_room(full),
        _ => Status::unavailable(with_causes(error)),
    }
}

/// A path is not kept, or cannot be given.
pub(crate) fn paths(error: &PathsError) -> Status {
    match error {
        PathsError::Invalid(_)
        | PathsError::PieceSize { .. }
        | PathsError::Archive { .. }
        | PathsError::OtherHash { .. }
        | PathsError::OtherContent { .. }
        | PathsError::Undeclared { .. }
        | PathsError::NotThere { .. } => Status::invalid_argument(with_causes(error)),
        PathsError::Differs { .. } => Status::already_exists(error.to_string()),
        PathsError::NoChunk { .. } | PathsError::NoReference { .. } => {
            Status::failed_precondition(error.to_string())
        }
        PathsError::NotKept { .. } => Status::not_found(error.to_string()),
        PathsError::Full => Status::resource_exhausted(error.to_string()),
        PathsError::Store(error) => store(error),
        PathsError::Interrupted => Status::unavailable(with_causes(error)),
    }
}

/// Something is not pinned, or not unpinned.
pub(crate) fn pin(refusal: &PinRefusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        PinRefusal::Name => Status::invalid_argument(text),
        PinRefusal::Taken(_) => Status::already_exists(text),
        PinRefusal::Unknown(_) => Status::not_found(text),
        PinRefusal::Full => Status::resource_exhausted(text),
    }
}

/// A run that left nothing that could be pinned.
pub(crate) fn nothing_to_pin(run: &str) -> Status {
    Status::failed_precondition(format!(
        "nothing of {run} is kept here: it failed, was not to be built, or is collected"
    ))
}

/// One collection or check at a time.
pub(crate) fn collecting() -> Status {
    Status::aborted("another collection or check is under way: wait for its end")
}

/// The disk of the chunk store is full. Nothing is kept by half.
fn no_room(error: &dyn Error) -> Status {
    Status::resource_exhausted(format!("the chunk store is full: {}", with_causes(error)))
}

/// The caller may not bring this path.
pub(crate) fn no_right(why: &str) -> Status {
    Status::permission_denied(why)
}

/// Two rights where there must be one.
pub(crate) fn several_rights() -> Status {
    Status::invalid_argument("it names several rights, and one is needed")
}

/// Nobody who may has told of this path.
pub(crate) fn unheard_of(path: &StorePath) -> Status {
    Status::failed_precondition(format!("nothing is known of {path}: report or vouch for it first"))
}

/// The bytes of this path are not here.
pub(crate) fn not_kept(path: &StorePath) -> Status {
    Status::not_found(format!("the bytes of {path} are not here"))
}

/// What is brought is not what is known.
pub(crate) fn differs(path: &StorePath) -> Status {
    Status::already_exists(format!(
        "{path} is known with another content: its derivation is not reproducible"
    ))
}

/// Everybody has this path from elsewhere.
pub(crate) fn comes_from_upstream(path: &StorePath) -> Status {
    Status::already_exists(format!("{path} comes from an upstream cache, and is not kept here"))
}

/// No more askers can wait.
pub(crate) fn too_many_wait() -> Status {
    Status::resource_exhausted("as many workers wait for relayed paths as may: come again later")
}

/// What another worker was asked to share did not come.
pub(crate) fn not_relayed() -> Status {
    // Not as if nobody were here: that is waited for without an end.
    Status::deadline_exceeded("no worker that has the paths has brought them in time")
}

/// Another attempt has taken the place of the caller's.
pub(crate) fn stale() -> Status {
    Status::aborted("the epoch is not the current one: the work is somebody else's now")
}

/// Work that is over, or never was.
pub(crate) fn no_such_work(what: &str) -> Status {
    Status::not_found(format!("there is no {what}"))
}

/// The shell is gone: the coordinator is stopping.
pub(crate) fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

/// What was asked for may have happened, but cannot be kept: the coordinator stops.
pub(crate) fn not_durable(error: &JournalError) -> Status {
    Status::unavailable(with_causes(error))
}

/// The coordinator ends, to be started again: whoever asks later finds everything as it was.
pub(crate) fn restarting() -> Status {
    Status::unavailable("the coordinator is restarting")
}

/// Nothing of this name is served.
pub(crate) fn not_served() -> Status {
    Status::unimplemented("no such procedure is served here")
}

/// A request without a connection behind it.
pub(crate) fn no_peer() -> Status {
    Status::unauthenticated("nobody is known to be at the other end")
}

/// The procedure is not for strangers.
pub(crate) fn who_are_you() -> Status {
    Status::unauthenticated("this needs a client certificate or a bearer token")
}

/// What was shown is no credential.
pub(crate) fn bad_credential(error: &(impl Display + ?Sized)) -> Status {
    Status::unauthenticated(error.to_string())
}

/// A genuine credential that counts no more: who is revoked is known and may not, others may come with a new one.
pub(crate) fn shut_out(refused: &Refused) -> Status {
    match refused {
        Refused::Revoked(_) => Status::permission_denied(refused.to_string()),
        _ => Status::unauthenticated(refused.to_string()),
    }
}

/// A CI token that cannot be believed, or not now.
pub(crate) fn not_verified(error: &VerifyError) -> Status {
    match error {
        VerifyError::Refused(_) => Status::unauthenticated(with_causes(error)),
        VerifyError::Unavailable { .. } => Status::unavailable(with_causes(error)),
    }
}

/// A known caller that may not; `who` may.
pub(crate) fn forbidden(who: &str) -> Status {
    Status::permission_denied(format!("only {who} may do this"))
}

/// A run of somebody else.
pub(crate) fn not_yours() -> Status {
    Status::permission_denied("the run belongs to another client, and you are no administrator")
}

/// The registry does not make the change.
pub(crate) fn registry(error: &RegistryError) -> Status {
    let text = error.to_string();
    match error {
        RegistryError::TokenUnknown => Status::unauthenticated(text),
        RegistryError::TokenUsed(_) | RegistryError::Superseded(_) | RegistryError::Revoked(_) => {
            Status::permission_denied(text)
        }
        RegistryError::UnknownWorker(_) => Status::not_found(text),
        RegistryError::TtlTooLong(_) | RegistryError::BadGrant => Status::invalid_argument(text),
        RegistryError::Full(_) => Status::resource_exhausted(text),
        RegistryError::NumberTaken | RegistryError::WrongCertificate => Status::aborted(text),
    }
}

/// A certificate request that is none.
pub(crate) fn bad_request(error: &RequestError) -> Status {
    Status::invalid_argument(with_causes(error))
}

/// The CA does not sign.
pub(crate) fn not_signed(error: &AuthorityError) -> Status {
    Status::unavailable(with_causes(error))
}

/// The caller has as many open requests as it may have.
pub(crate) fn too_many_requests() -> Status {
    Status::resource_exhausted("you have as many open requests as one caller may have")
}

/// This address failed too often of late.
pub(crate) fn too_many_failures() -> Status {
    Status::resource_exhausted("too many failed enrolments from this address: wait a minute")
}
