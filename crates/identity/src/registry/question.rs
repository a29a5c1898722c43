//! The questions: nothing here changes anything, so a snapshot of the registry answers them on any thread.

use super::{Client, ClientStatus, Grant, Join, JoinEntry, Refused, Registry, RegistryError, Worker};
use crate::identity::{Identity, Kind};
use crate::name::Name;
use crate::secret::Fingerprint;
use crate::token::{ClientToken, JoinToken};

impl Registry {
    /// Whether the bearer of a genuine certificate is still let in; to be asked for every stream, and of an open
    /// one again after every change of the registry.
    pub fn admit(&self, now: u64, identity: &Identity) -> Result<(), Refused> {
        if identity.not_after < now {
            return Err(Refused::Expired(identity.name.clone()));
        }
        match identity.kind {
            Kind::Worker { .. } => self.grant(identity).map(drop),
            Kind::Client { .. } if self.revoked_clients.contains_key(&identity.name) => {
                Err(Refused::Revoked(identity.name.clone()))
            }
            Kind::Client { .. } => Ok(()),
        }
    }

    /// What the next certificate of this worker is to say.
    pub fn renewal(&self, now: u64, identity: &Identity) -> Result<Grant, Refused> {
        self.admit(now, identity)?;
        self.grant(identity)
    }

    /// What to do for the bearer of a join token who has shown that `key` is its own.
    pub fn join(&self, now: u64, token: &JoinToken, key: &Fingerprint) -> Result<Join, RegistryError> {
        let entry =
            self.joins.get(&token.id).filter(|entry| now < entry.expires && entry.hash.is_of(&token.secret));
        let entry = entry.ok_or(RegistryError::TokenUnknown)?;
        let worker = self.workers.get(&entry.name);
        if worker.is_some_and(|worker| worker.revoked.is_some()) {
            return Err(RegistryError::Revoked(entry.name.clone()));
        }
        let Some(issued) = &entry.issued else {
            return Ok(Join::Sign(Grant { name: entry.name.clone(), enrolment: entry.id }));
        };
        if issued.key != *key {
            Err(RegistryError::TokenUsed(entry.name.clone()))
        } else if worker.is_some_and(|worker| worker.enrolment == Some(entry.id)) {
            Ok(Join::Issued(issued.clone()))
        } else {
            Err(RegistryError::Superseded(entry.name.clone()))
        }
    }

    /// Whose token this is.
    pub fn client(&self, now: u64, token: &ClientToken) -> Result<Client, Refused> {
        let entry = self.clients.get(&token.id).filter(|entry| now < entry.expires);
        let entry = entry.filter(|entry| entry.hash.is_of(&token.secret)).ok_or(Refused::TokenUnknown)?;
        Ok(Client { name: entry.name.to_string(), role: entry.role, expires: entry.expires })
    }

    /// Every worker ever enrolled or revoked, by name.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values()
    }

    /// The worker of this name.
    pub fn worker(&self, name: &Name) -> Option<&Worker> {
        self.workers.get(name)
    }

    /// Join tokens that nobody has used yet.
    pub fn waiting_joins(&self, now: u64) -> impl Iterator<Item = &JoinEntry> {
        self.joins.values().filter(move |entry| entry.issued.is_none() && now < entry.expires)
    }

    /// One line for each live token, then one for each revoked name.
    pub fn clients(&self, now: u64) -> Vec<ClientStatus> {
        let live = self.clients.values().filter(|entry| now < entry.expires).map(|entry| ClientStatus {
            name: entry.name.clone(),
            role: Some(entry.role),
            expires: entry.expires,
            revoked: false,
        });
        let revoked = self.revoked_clients.iter().map(|(name, at)| ClientStatus {
            name: name.clone(),
            role: None,
            expires: *at,
            revoked: true,
        });
        live.chain(revoked).collect()
    }

    fn grant(&self, identity: &Identity) -> Result<Grant, Refused> {
        let name = &identity.name;
        let Kind::Worker { enrolment } = identity.kind else { return Err(Refused::NotAWorker(name.clone())) };
        let worker = self.workers.get(name).ok_or_else(|| Refused::NotEnrolled(name.clone()))?;
        if worker.revoked.is_some() {
            Err(Refused::Revoked(name.clone()))
        } else if worker.enrolment == Some(enrolment) {
            Ok(Grant { name: name.clone(), enrolment })
        } else {
            Err(Refused::Superseded(name.clone()))
        }
    }
}
