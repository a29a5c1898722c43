//! Who may call what: one table, enforced before any service sees a request.
//!
//! Who calls follows from the connection (this machine's user, a certificate) or, where that says nothing, from a
//! bearer token. The services find the [`Caller`] in the request and decide only what depends on its objects.

mod failures;
mod layer;
mod pages;
mod table;

use std::sync::Arc;

use fleet_identity::{Client, Identity, Kind, Registry, Role};
use tokio::sync::watch;
use tonic::{Extensions, Status};

pub(crate) use failures::Failures;
pub(crate) use layer::{Access, Gatekeeper};
pub(crate) use pages::{NotAdmitted, Visitor};
pub(crate) use table::HEALTH_CHECK;

use crate::rpc::status;

/// Everybody who may come in, as last made durable.
pub(crate) type Directory = watch::Receiver<Arc<Registry>>;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// This process, or this user on this machine: may do everything.
    Here,
    /// A worker, by its certificate.
    Worker(Arc<Identity>),
    /// A client, by certificate or token.
    Client(Arc<Client>),
    /// Somebody who has shown nothing.
    Nobody,
}

impl Caller {
    /// Who calls, as the access layer found out.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or(Self::Nobody)
    }

    /// A client by its certificate.
    fn from_certificate(identity: &Arc<Identity>) -> Self {
        match identity.kind {
            Kind::Worker { .. } => Self::Worker(identity.clone()),
            Kind::Client { role } => Self::Client(Arc::new(Client {
                name: identity.name.to_string(),
                role,
                expires: identity.not_after,
            })),
        }
    }

    /// What runs are owned by: the client's name, nothing for this machine's user.
    pub(crate) fn owner(&self) -> &str {
        match self {
            Self::Client(client) => &client.name,
            Self::Worker(identity) => identity.name.as_str(),
            Self::Here | Self::Nobody => "",
        }
    }

    /// The worker that calls; nobody else has a name that its certificate vouches for.
    pub(crate) fn worker(&self) -> Option<&Arc<Identity>> {
        match self {
            Self::Worker(identity) => Some(identity),
            _ => None,
        }
    }

    /// Refuses whoever neither owns a run nor administers the coordinator.
    pub(crate) fn must_own(&self, owner: &str) -> Result<(), Status> {
        match self {
            Self::Here => Ok(()),
            Self::Client(client) if client.role == Role::Admin || client.name == owner => Ok(()),
            _ => Err(status::not_yours()),
        }
    }
}
