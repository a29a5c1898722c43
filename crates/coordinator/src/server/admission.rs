//! How many connections there may be: in all, in their handshake, and from one address without a certificate.
//! Owns the counts; a [`Ticket`] gives its own back when it is dropped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::ServerConfig;

/// The counts and their limits.
#[derive(Clone, Debug)]
pub(super) struct Admission(Arc<Mutex<Counts>>);

#[derive(Debug)]
struct Counts {
    limits: Limits,
    connections: usize,
    handshakes: usize,
    /// Connections without a certificate, those in their handshake included.
    anonymous: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Limits {
    connections: usize,
    handshakes: usize,
    anonymous: usize,
    handshake_within: Duration,
}

/// Room for one connection.
#[derive(Debug)]
pub(crate) struct Ticket {
    counts: Arc<Mutex<Counts>>,
    shakes: bool,
    anonymous: Option<IpAddr>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("there are as many connections as there may be")]
    Connections,
    #[error("there are as many TLS handshakes as there may be")]
    Handshakes,
    #[error("this address has as many connections without a certificate as it may have")]
    Anonymous,
}

impl From<&ServerConfig> for Limits {
    fn from(config: &ServerConfig) -> Self {
        Self {
            connections: config.max_connections,
            handshakes: config.max_handshakes,
            anonymous: config.max_anonymous,
            handshake_within: Duration::from_millis(config.handshake_within_ms),
        }
    }
}

impl Admission {
    pub(super) fn new(config: &ServerConfig) -> Self {
        let (connections, handshakes, anonymous) = (0, 0, HashMap::new());
        Self(Arc::new(Mutex::new(Counts { limits: config.into(), connections, handshakes, anonymous })))
    }

    /// Other limits from now on; connections that are there stay.
    pub(super) fn set_limits(&self, config: &ServerConfig) {
        lock(&self.0).limits = config.into();
    }

    /// How long a connection may take for its handshake, and then to begin HTTP/2.
    pub(super) fn handshake_within(&self) -> Duration {
        lock(&self.0).limits.handshake_within
    }

    /// Room for a connection of this machine.
    pub(super) fn here(&self) -> Result<Ticket, Full> {
        self.admit(None)
    }

    /// Room for a connection that is about to shake hands.
    pub(super) fn from(&self, address: IpAddr) -> Result<Ticket, Full> {
        self.admit(Some(network(address)))
    }

    fn admit(&self, anonymous: Option<IpAddr>) -> Result<Ticket, Full> {
        let mut counts = lock(&self.0);
        let counts = &mut *counts;
        if counts.connections >= counts.limits.connections {
            return Err(Full::Connections);
        }
        if let Some(address) = anonymous {
            if counts.handshakes >= counts.limits.handshakes {
                return Err(Full::Handshakes);
            }
            let of_address = counts.anonymous.entry(address).or_default();
            if *of_address >= counts.limits.anonymous {
                return Err(Full::Anonymous);
            }
            *of_address += 1;
            counts.handshakes += 1;
        }
        counts.connections += 1;
        Ok(Ticket { counts: self.0.clone(), shakes: anonymous.is_some(), anonymous })
    }
}

impl Ticket {
    /// The handshake is over; with a certificate the connection is anonymous no more.
    pub(super) fn shaken(&mut self, has_certificate: bool) {
        let mut counts = lock(&self.counts);
        if std::mem::take(&mut self.shakes) {
            counts.handshakes -= 1;
        }
        if has_certificate && let Some(address) = self.anonymous.take() {
            counts.forget(address);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.connections -= 1;
        if self.shakes {
            counts.handshakes -= 1;
        }
        if let Some(address) = self.anonymous {
            counts.forget(address);
        }
    }
}

impl Counts {
    fn forget(&mut self, address: IpAddr) {
        if let Some(of_address) = self.anonymous.get_mut(&address) {
            *of_address -= 1;
            if *of_address == 0 {
                self.anonymous.remove(&address);
            }
        }
    }
}

/// Counts stay right whatever happens to whoever holds the lock: each change is one step.
fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Who counts as one: an IPv4 address, or the /64 that one machine can have for itself.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        let (max_connections, max_anonymous, max_handshakes) = (4, 2, 3);
        Admission::new(&ServerConfig {
            max_connections,
            max_anonymous,
            max_handshakes,
            ..ServerConfig::default()
        })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn room_is_given_back() {
        let admission = admission();
        let one = admission.from(address("10.0.0.1")).expect("room");
        let two = admission.from(address("::ffff:10.0.0.1")).expect("room");
        assert_eq!(admission.from(address("10.0.0.1")).err(), Some(Full::Anonymous));
        let three = admission.from(address("10.0.0.2")).expect("room");
        assert_eq!(admission.from(address("10.0.0.3")).err(), Some(Full::Handshakes));
        let here = admission.here().expect("room");
        assert_eq!(admission.here().err(), Some(Full::Connections));
        drop((one, two, three, here));
        let counts = lock(&admission.0);
        assert_eq!((counts.connections, counts.handshakes, counts.anonymous.len()), (0, 0, 0));
    }

    #[test]
    fn a_certificate_makes_room_for_others_of_its_address() {
        let admission = admission();
        let mut known: Vec<_> = (0..3)
            .map(|_| {
                let mut ticket = admission.from(address("10.0.0.1")).expect("room");
                ticket.shaken(true);
                ticket
            })
            .collect();
        let mut anonymous = admission.from(address("10.0.0.1")).expect("room");
        anonymous.shaken(false);
        known.clear();
        let _second = admission.from(address("10.0.0.1")).expect("room");
        assert_eq!(admission.from(address("10.0.0.1")).err(), Some(Full::Anonymous));
    }

    #[test]
    fn neighbours_in_one_network_count_together() {
        let admission = admission();
        let _two =
            ["2001:db8::1", "2001:db8::ffff:2"].map(|text| admission.from(address(text)).expect("room"));
        assert_eq!(admission.from(address("2001:db8::3")).err(), Some(Full::Anonymous));
        assert!(admission.from(address("2001:db8:0:1::1")).is_ok());
    }
}
