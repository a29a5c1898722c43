//! Who has been let in: join tokens, enrolled workers, client tokens, revocations. Pure.
//!
//! [`Registry::decide`] makes every change and gives the record of it; folding the records gives the same
//! registry again. The time is an argument, secrets and numbers are drawn by the caller. Nothing here touches
//! keys: who wants a certificate asks [`Registry::join`] what to sign, has it signed, and registers it with
//! [`Request::RedeemJoinToken`]; only what that answers may be shown, and only once its record is durable.

mod change;
mod decide;
mod question;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::identity::Identity;
use crate::name::Name;
use crate::role::Role;
use crate::secret::{Fingerprint, SecretHash, TokenId};
use crate::token::JoinToken;

pub use change::{Change, RegistryRecord};

/// Bounds of a registry; what would exceed them is refused with [`RegistryError::Full`].
pub mod bound {
    /// Join tokens that have not expired.
    pub const JOIN_TOKENS: usize = 1024;
    /// Workers ever enrolled, revoked ones among them.
    pub const WORKERS: usize = 16_384;
    /// Client tokens that have not expired.
    pub const CLIENT_TOKENS: usize = 4096;
    /// Clients revoked.
    pub const REVOKED_CLIENTS: usize = 16_384;
    /// Systems, and features, granted to one worker.
    pub const GRANTS: usize = 64;
    /// Bytes of one system or feature.
    pub const GRANT_LEN: usize = 64;
    /// Bytes of a reason; longer ones are cut.
    pub const REASON_LEN: usize = 500;
    /// Seconds that a join token lives unless told.
    pub const JOIN_TTL_S: u64 = 3600;
    /// The most seconds a join token lives.
    pub const MAX_JOIN_TTL_S: u64 = 30 * 24 * 3600;
    /// Seconds that a client token lives unless told.
    pub const CLIENT_TTL_S: u64 = 90 * 24 * 3600;
    /// The most seconds a client token lives.
    pub const MAX_CLIENT_TTL_S: u64 = 731 * 24 * 3600;
}

/// Everybody who may come in, and everybody who may not any more.
///
/// Cheap enough to copy for each change: readers on other threads get a snapshot of the last durable one.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    joins: BTreeMap<TokenId, JoinEntry>,
    workers: BTreeMap<Name, Worker>,
    clients: BTreeMap<TokenId, ClientEntry>,
    revoked_clients: BTreeMap<Name, u64>,
}

/// A worker that has been let in, or refused for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub name: Name,
    /// Systems it may build for; empty means whatever it offers.
    pub systems: Vec<String>,
    /// Features it may offer; empty means whatever it offers.
    pub features: Vec<String>,
    /// The enrolment whose certificates count; none if it was revoked before it came.
    pub enrolment: Option<TokenId>,
    /// Seconds since 1970.
    pub enrolled_at: u64,
    /// Set for ever: a revoked name never comes back.
    pub revoked: Option<Revocation>,
}

/// When and why somebody was shut out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Seconds since 1970.
    pub at: u64,
    /// What the administrator said.
    pub reason: String,
}

/// A join token as the registry keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinEntry {
    /// Its public number.
    pub id: TokenId,
    /// The worker that it makes.
    pub name: Name,
    /// What that worker is granted; empty means whatever it offers.
    pub systems: Vec<String>,
    /// What that worker is granted; empty means whatever it offers.
    pub features: Vec<String>,
    /// Of its secret.
    pub hash: SecretHash,
    /// Seconds since 1970; refused from this second on.
    pub expires: u64,
    /// The certificate it was traded for.
    pub issued: Option<Issued>,
}

/// A client token as the registry keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientEntry {
    /// Its public number.
    pub id: TokenId,
    /// Whose; several tokens may share a name, so that they can follow one another.
    pub name: Name,
    /// What its bearer may do.
    pub role: Role,
    /// Of its secret.
    pub hash: SecretHash,
    /// Seconds since 1970; refused from this second on.
    pub expires: u64,
}

/// A certificate that was signed here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Whom it names.
    pub identity: Identity,
    /// Its public key.
    pub key: Fingerprint,
    /// The certificate, DER.
    #[serde(with = "change::base64_bytes")]
    pub certificate: Vec<u8>,
}

/// What a worker's certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The worker's name.
    pub name: Name,
    /// The enrolment the certificate belongs to.
    pub enrolment: TokenId,
}

/// What to do for the bearer of a good join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// Sign this, then register it.
    Sign(Grant),
    /// The same key came before: here is its certificate.
    Issued(Issued),
}

/// A client who has shown who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name, for ownership and logs: of a token or certificate a [`Name`], of a CI token `ISSUER/OWNER/NAME`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Seconds since 1970: not later than this.
    pub expires: u64,
}

/// One line of the list of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStatus {
    /// Its name.
    pub name: Name,
    /// The token's role; none for a revoked client.
    pub role: Option<Role>,
    /// Seconds since 1970; for a revoked client, when it was revoked.
    pub expires: u64,
    /// Whether its name is refused for ever.
    pub revoked: bool,
}

/// A change that somebody asks for.
#[derive(Clone, Debug)]
pub enum Request {
    /// Let a machine become the worker of this name.
    CreateJoinToken {
        /// Drawn by the caller.
        id: TokenId,
        /// Of the secret that the caller drew.
        hash: SecretHash,
        /// The worker's name.
        name: Name,
        /// Granted systems; empty means whatever the worker offers.
        systems: Vec<String>,
        /// Granted features; empty means whatever the worker offers.
        features: Vec<String>,
        /// Seconds; 0 means [`bound::JOIN_TTL_S`].
        ttl_s: u64,
    },
    /// Register the certificate that was signed for a [`Join::Sign`].
    RedeemJoinToken {
        /// As presented.
        token: JoinToken,
        /// Signed for the presenter's key.
        issued: Issued,
    },
    /// Shut a worker out for ever.
    RevokeWorker {
        /// Its name.
        name: Name,
        /// For people.
        reason: String,
    },
    /// Make a token for a client.
    CreateClientToken {
        /// Drawn by the caller.
        id: TokenId,
        /// Of the secret that the caller drew.
        hash: SecretHash,
        /// Whose.
        name: Name,
        /// What it may do.
        role: Role,
        /// Seconds; 0 means [`bound::CLIENT_TTL_S`].
        ttl_s: u64,
    },
    /// Shut a client out for ever: its tokens and its certificates.
    RevokeClient {
        /// Its name.
        name: Name,
    },
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The token counts until then, seconds since 1970.
    TokenCreated {
        /// Seconds since 1970.
        expires: u64,
    },
    /// The one certificate of this token: show this one, whatever was signed besides.
    Certificate(Issued),
    /// Shut out; cut what is open.
    Revoked,
}

/// A change and what to say about it.
#[derive(Clone, Debug)]
pub struct Decision {
    /// To be made durable before the answer is given; none where nothing changed.
    pub record: Option<RegistryRecord>,
    /// For the asker.
    pub answer: Answer,
}

/// Why a request changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No such token, another secret, or it was swept away.
    #[error("the token is unknown or has expired")]
    TokenUnknown,
    /// The token made a certificate for another key.
    #[error("the join token for {0} has been used with another key")]
    TokenUsed(Name),
    /// A later join token of the same name has been used.
    #[error("the worker {0} has been enrolled again since, with another token")]
    Superseded(Name),
    /// The name was shut out.
    #[error("{0} has been revoked, and a revoked name never comes back: choose another")]
    Revoked(Name),
    /// Nothing is known under this name.
    #[error("no worker is called {0}")]
    UnknownWorker(Name),
    /// The number was drawn twice.
    #[error("the token's number is taken")]
    NumberTaken,
    /// The certificate is not the one that was to be signed.
    #[error("the certificate is not for what the token grants")]
    WrongCertificate,
    /// More than the bound.
    #[error("a token lives at most {0} seconds")]
    TtlTooLong(u64),
    /// Too many, too long, empty, or with characters that names of systems and features have not.
    #[error("systems and features are at most 64 words of letters, digits, dash, dot, underscore and plus")]
    BadGrant,
    /// A bound is reached.
    #[error("there are too many {0}")]
    Full(&'static str),
}

/// Why somebody with a genuine credential is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Shut out by an administrator.
    #[error("{0} has been revoked")]
    Revoked(Name),
    /// Not enrolled here.
    #[error("the worker {0} is not enrolled here")]
    NotEnrolled(Name),
    /// A later enrolment took the name.
    #[error("the worker {0} has been enrolled again since; this certificate no longer counts")]
    Superseded(Name),
    /// Its time is over.
    #[error("the certificate of {0} has expired")]
    Expired(Name),
    /// No such token, another secret, or its time is over.
    #[error("the token is unknown or has expired")]
    TokenUnknown,
    /// Only workers renew.
    #[error("{0} is not a worker")]
    NotAWorker(Name),
}

#[cfg(test)]
mod tests;
