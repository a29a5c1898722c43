//! The changes: each request is judged, recorded, and its record folded.

use super::change::{Change, RegistryRecord};
use super::{
    Answer, ClientEntry, Decision, Issued, Join, JoinEntry, Registry, RegistryError, Request, Revocation,
    Worker, bound,
};
use crate::identity::Kind;
use crate::name::Name;
use crate::role::Role;
use crate::secret::{SecretHash, TokenId};
use crate::token::JoinToken;

impl Registry {
    /// Makes the change that is asked for, or says why not. `now` is seconds since 1970.
    ///
    /// To have an error of the journal leave no trace, decide on a copy and publish that when it is durable.
    pub fn decide(&mut self, now: u64, request: Request) -> Result<Decision, RegistryError> {
        let (changes, answer) = match request {
            Request::CreateJoinToken { id, hash, name, systems, features, ttl_s } => {
                let expires = expiry(now, ttl_s, bound::JOIN_TTL_S, bound::MAX_JOIN_TTL_S)?;
                let entry = JoinEntry { id, name, systems, features, hash, expires, issued: None };
                self.create_join_token(now, entry)?
            }
            Request::RedeemJoinToken { token, issued } => self.redeem(now, &token, issued)?,
            Request::RevokeWorker { name, reason } => self.revoke_worker(now, name, reason)?,
            Request::CreateClientToken { id, hash, name, role, ttl_s } => {
                self.create_client_token(now, id, hash, name, role, ttl_s)?
            }
            Request::RevokeClient { name } => self.revoke_client(now, name)?,
        };
        let record = (!changes.is_empty()).then_some(RegistryRecord { at: now, changes });
        if let Some(record) = record.clone() {
            self.apply(record);
        }
        Ok(Decision { record, answer })
    }

    fn create_join_token(&self, now: u64, entry: JoinEntry) -> Result<(Vec<Change>, Answer), RegistryError> {
        let known = self.workers.get(&entry.name);
        if known.is_some_and(|worker| worker.revoked.is_some()) {
            return Err(RegistryError::Revoked(entry.name));
        }
        if !grants_are_well(&entry.systems) || !grants_are_well(&entry.features) {
            return Err(RegistryError::BadGrant);
        }
        if self.joins.contains_key(&entry.id) {
            return Err(RegistryError::NumberTaken);
        }
        if self.joins.values().filter(|entry| now < entry.expires).count() >= bound::JOIN_TOKENS {
            return Err(RegistryError::Full("join tokens"));
        }
        if known.is_none() && self.workers.len() >= bound::WORKERS {
            return Err(RegistryError::Full("workers"));
        }
        let expires = entry.expires;
        Ok((vec![Change::Join(entry)], Answer::TokenCreated { expires }))
    }

    fn redeem(
        &self,
        now: u64,
        token: &JoinToken,
        issued: Issued,
    ) -> Result<(Vec<Change>, Answer), RegistryError> {
        let grant = match self.join(now, token, &issued.key)? {
            Join::Issued(earlier) => return Ok((vec![], Answer::Certificate(earlier))),
            Join::Sign(grant) => grant,
        };
        let signed = &issued.identity;
        if signed.name != grant.name || signed.kind != (Kind::Worker { enrolment: grant.enrolment }) {
            return Err(RegistryError::WrongCertificate);
        }
        if !self.workers.contains_key(&grant.name) && self.workers.len() >= bound::WORKERS {
            return Err(RegistryError::Full("workers"));
        }
        let mut entry = self.joins.get(&token.id).cloned().ok_or(RegistryError::TokenUnknown)?;
        entry.issued = Some(issued.clone());
        let worker = Worker {
            name: grant.name,
            systems: entry.systems.clone(),
            features: entry.features.clone(),
            enrolment: Some(grant.enrolment),
            enrolled_at: now,
            revoked: None,
        };
        Ok((vec![Change::Join(entry), Change::Worker(worker)], Answer::Certificate(issued)))
    }

    fn revoke_worker(
        &self,
        now: u64,
        name: Name,
        reason: String,
    ) -> Result<(Vec<Change>, Answer), RegistryError> {
        let worker = match self.workers.get(&name) {
            Some(worker) if worker.revoked.is_some() => return Ok((vec![], Answer::Revoked)),
            Some(worker) => worker.clone(),
            None if self.joins.values().any(|entry| entry.name == name) => Worker {
                name,
                systems: vec![],
                features: vec![],
                enrolment: None,
                enrolled_at: now,
                revoked: None,
            },
            None => return Err(RegistryError::UnknownWorker(name)),
        };
        let revoked = Some(Revocation { at: now, reason: cut(reason, bound::REASON_LEN) });
        Ok((vec![Change::Worker(Worker { revoked, ..worker })], Answer::Revoked))
    }

    fn create_client_token(
        &self,
        now: u64,
        id: TokenId,
        hash: SecretHash,
        name: Name,
        role: Role,
        ttl_s: u64,
    ) -> Result<(Vec<Change>, Answer), RegistryError> {
        let expires = expiry(now, ttl_s, bound::CLIENT_TTL_S, bound::MAX_CLIENT_TTL_S)?;
        if self.revoked_clients.contains_key(&name) {
            return Err(RegistryError::Revoked(name));
        }
        if self.clients.contains_key(&id) {
            return Err(RegistryError::NumberTaken);
        }
        if self.clients.values().filter(|entry| now < entry.expires).count() >= bound::CLIENT_TOKENS {
            return Err(RegistryError::Full("client tokens"));
        }
        let entry = ClientEntry { id, name, role, hash, expires };
        Ok((vec![Change::Client(entry)], Answer::TokenCreated { expires }))
    }

    /// A name need not be known: certificates may have been made where the registry did not see it.
    fn revoke_client(&self, now: u64, name: Name) -> Result<(Vec<Change>, Answer), RegistryError> {
        if self.revoked_clients.contains_key(&name) {
            return Ok((vec![], Answer::Revoked));
        }
        if self.revoked_clients.len() >= bound::REVOKED_CLIENTS {
            return Err(RegistryError::Full("revoked clients"));
        }
        Ok((vec![Change::ClientRevoked { name, at: now }], Answer::Revoked))
    }
}

fn expiry(now: u64, ttl_s: u64, default_s: u64, max_s: u64) -> Result<u64, RegistryError> {
    match ttl_s {
        0 => Ok(now.saturating_add(default_s)),
        ttl_s if ttl_s <= max_s => Ok(now.saturating_add(ttl_s)),
        _ => Err(RegistryError::TtlTooLong(max_s)),
    }
}

fn grants_are_well(words: &[String]) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._+".contains(&byte);
    words.len() <= bound::GRANTS
        && words
            .iter()
            .all(|word| !word.is_empty() && word.len() <= bound::GRANT_LEN && word.bytes().all(plain))
}

fn cut(mut text: String, max: usize) -> String {
    text.truncate(text.floor_char_boundary(max));
    text
}
