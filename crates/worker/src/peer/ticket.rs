//! Tickets: the coordinator's word that one worker may fetch some paths from another, for a while. Pure.

use std::collections::HashSet;

use fleet_nix::signature::{PublicKey, Signature};
use fleet_nix::store_path::StorePath;
use fleet_wire::v1;
use prost::Message;
use thiserror::Error;

/// Stands before a ticket's body in what is signed, so that no other signature of the key is one of a ticket.
pub const TICKET_PURPOSE: &[u8] = b"fleet-ticket-1;";
/// How far clocks may be apart, seconds.
const SKEW_S: u64 = 30;

/// Why a ticket lets nobody in.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TicketError {
    /// There is none.
    #[error("there is no ticket")]
    Absent,
    /// Not what a coordinator writes.
    #[error("the ticket cannot be read")]
    Malformed,
    /// By none of the keys this worker was told.
    #[error("the ticket is not signed by a key of this worker's coordinator")]
    Forged,
    /// Of another pair of workers.
    #[error("the ticket is for {receiver} at {holder}")]
    Foreign {
        /// Who may fetch.
        receiver: String,
        /// Where.
        holder: String,
    },
    /// By this machine's clock.
    #[error("the ticket has expired by this machine's clock: are the clocks right?")]
    Expired,
    /// Something was asked for that it does not name.
    #[error("the ticket is not for {0}")]
    OtherPath(String),
}

/// What a ticket is looked at for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate<'a> {
    /// The coordinator's internal keys.
    pub(super) keys: &'a [PublicKey],
    /// This worker.
    pub(super) holder: &'a str,
    /// Who showed its certificate.
    pub(super) receiver: &'a str,
    /// Seconds since 1970.
    pub(super) now: u64,
}

impl Gate<'_> {
    /// The paths that are asked for, if the ticket is for all of them.
    pub(super) fn admit(&self, open: &v1::FetchOpen) -> Result<Vec<StorePath>, TicketError> {
        let ticket = open.ticket.as_ref().ok_or(TicketError::Absent)?;
        let signature: Signature = ticket.signature.parse().map_err(|_| TicketError::Malformed)?;
        let signed = [TICKET_PURPOSE, &*ticket.body].concat();
        if !self.keys.iter().any(|key| key.verifies(&signed, &signature)) {
            return Err(TicketError::Forged);
        }
        let body = v1::TicketBody::decode(&*ticket.body).map_err(|_| TicketError::Malformed)?;
        if body.holder != self.holder || body.receiver != self.receiver {
            return Err(TicketError::Foreign { receiver: body.receiver, holder: body.holder });
        }
        if body.expires.saturating_add(SKEW_S) < self.now {
            return Err(TicketError::Expired);
        }
        let named: HashSet<&str> = body.paths.iter().map(String::as_str).collect();
        let paths = open.paths.iter().map(|asked| {
            if !named.contains(&*asked.path) {
                return Err(TicketError::OtherPath(asked.path.chars().take(300).collect()));
            }
            asked.path.parse().map_err(|_| TicketError::Malformed)
        });
        paths.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_nix::signature::SecretKey;

    const PATH: &str = "00000000000000000000000000000000-x";
    const NOW: u64 = 1_000_000;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed("internal-1", &[seed; 32]).expect("a name")
    }

    fn open(key: &SecretKey, asked: &str, adjust: impl FnOnce(&mut v1::TicketBody)) -> v1::FetchOpen {
        let mut body = v1::TicketBody {
            holder: "b".to_owned(),
            receiver: "a".to_owned(),
            expires: NOW,
            paths: vec![PATH.to_owned()],
        };
        adjust(&mut body);
        let body = body.encode_to_vec();
        let signature = key.sign(&[TICKET_PURPOSE, &body].concat()).to_string();
        let ticket = Some(v1::Ticket { body: body.into(), signature });
        v1::FetchOpen { ticket, paths: vec![v1::FetchPath { path: asked.to_owned(), manifest_first: false }] }
    }

    fn admit(open: &v1::FetchOpen) -> Result<Vec<StorePath>, TicketError> {
        let keys = [key(9).public_key(), key(1).public_key()];
        Gate { keys: &keys, holder: "b", receiver: "a", now: NOW }.admit(open)
    }

    #[test]
    fn a_ticket_lets_its_receiver_have_its_paths() {
        assert_eq!(admit(&open(&key(1), PATH, |_| {})), Ok(vec![PATH.parse().expect("a path")]));
        assert!(admit(&open(&key(1), PATH, |body| body.expires = NOW - SKEW_S)).is_ok(), "clocks differ");
    }

    #[test]
    fn every_other_ticket_lets_nobody_in() {
        let refused = |open: &v1::FetchOpen| admit(open).expect_err("refused");
        assert_eq!(refused(&v1::FetchOpen::default()), TicketError::Absent);
        assert_eq!(refused(&open(&key(2), PATH, |_| {})), TicketError::Forged);
        assert_eq!(
            refused(&open(&key(1), PATH, |body| body.expires = NOW - SKEW_S - 1)),
            TicketError::Expired
        );
        let foreign = refused(&open(&key(1), PATH, |body| body.receiver = "c".to_owned()));
        assert!(matches!(foreign, TicketError::Foreign { receiver, .. } if receiver == "c"));
        let elsewhere = refused(&open(&key(1), PATH, |body| body.holder = "c".to_owned()));
        assert!(matches!(elsewhere, TicketError::Foreign { holder, .. } if holder == "c"));
        let other = "11111111111111111111111111111111-y";
        assert_eq!(refused(&open(&key(1), other, |_| {})), TicketError::OtherPath(other.to_owned()));
        let odd = open(&key(1), "../x", |body| body.paths = vec!["../x".to_owned()]);
        assert_eq!(refused(&odd), TicketError::Malformed);
        let mut changed = open(&key(1), PATH, |_| {});
        let ticket = changed.ticket.as_mut().expect("there");
        ticket.body = [&*ticket.body, &[0][..]].concat().into();
        assert_eq!(refused(&changed), TicketError::Forged);
        let mut unsigned = open(&key(1), PATH, |_| {});
        unsigned.ticket.as_mut().expect("there").signature = String::new();
        assert_eq!(refused(&unsigned), TicketError::Malformed);
    }
}
