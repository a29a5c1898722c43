//! Sessions of workers: who is connected, how each is told its end, and what it said of itself. Owns the table; who
//! is let in is the core's to decide, and a worker's name is what its certificate says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fleet_core::{Command, Effect, Epoch, Event, LeaseId, Session, SessionEnd, WorkerHello, WorkerId};
use fleet_identity::Identity;
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use fleet_wire::{from_wire, v1};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use super::round::{Deed, Round};
use super::{Reply, Shell};
use crate::rpc::status;

/// Revisions of the protocol: the oldest that is served, and ours.
const PROTOCOLS: (u32, u32) = (1, 1);
/// Addresses of one worker that others are told.
const MAX_ADDRESSES: usize = 8;
/// Longest name of a host, bytes.
const MAX_HOST: usize = 253;
/// Leases of a session that were taken back once; more are taken back again.
const TAKEN_BACK: usize = 1024;

/// How a session ends: well, or with a status for the worker. The first that says so counts.
#[derive(Clone, Debug)]
pub(crate) struct Ending(Arc<watch::Sender<Option<Result<(), Status>>>>);

impl Ending {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    pub(crate) fn set(&self, end: Result<(), Status>) {
        self.0.send_if_modified(|set| {
            let first = set.is_none();
            if first {
                *set = Some(end);
            }
            first
        });
    }

    /// Waits for the end.
    pub(crate) async fn reached(&self) -> Result<(), Status> {
        let mut end = self.0.subscribe();
        let end = end.wait_for(Option::is_some).await;
        // The sender is ours.
        end.ok().and_then(|end| end.clone()).unwrap_or(Ok(()))
    }
}

/// A worker at the door.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) hello: v1::Hello,
    /// What its certificate says; none on this machine's own socket.
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) outbound: mpsc::Sender<ToWorker>,
    pub(crate) ending: Ending,
}

/// A session that was let in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) session: Session,
    pub(crate) heartbeat_ms: u32,
}

/// One open session.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) worker: WorkerId,
    pub(super) name: Arc<str>,
    /// What it can do, as granted.
    hello: WorkerHello,
    outbound: mpsc::Sender<ToWorker>,
    ending: Ending,
    /// Whether its logs say where each piece begins: workers from before protocol revisions do not.
    pub(super) offsets: bool,
    /// Leases that are not its own, and that it was told so.
    taken_back: BTreeSet<(LeaseId, Epoch)>,
    /// Where other workers reach it.
    addresses: Arc<[String]>,
}

impl Connected {
    pub(super) fn addresses(&self) -> &Arc<[String]> {
        &self.addresses
    }

    /// Its stream ends, and the worker hears how.
    pub(super) fn end(self, how: Result<(), Status>) {
        self.ending.set(how);
    }
}

/// A session as its worker opened it.
pub(super) struct Rejoin {
    pub(super) worker: WorkerId,
    pub(super) session: Session,
    pub(super) hello: WorkerHello,
}

/// What a worker last said of itself, whether or not it is connected.
#[derive(Clone, Debug)]
pub(super) struct SelfPortrait {
    pub(super) hello: v1::Hello,
    pub(super) load: v1::Heartbeat,
    pub(super) heard: Instant,
    /// Seconds since 1970; 0 without a certificate.
    pub(super) certificate_until: u64,
}

/// Open sessions, and which of them is each worker's.
#[derive(Debug)]
pub(super) struct Table {
    open: BTreeMap<Session, Connected>,
    current: HashMap<WorkerId, Session>,
    names: HashMap<Arc<str>, Session>,
    pub(super) portraits: HashMap<WorkerId, SelfPortrait>,
    last: u64,
    limit: usize,
}

impl Table {
    /// Numbers sessions above `last`.
    pub(super) fn new(last: u64, limit: usize) -> Self {
        let (open, current, names) = (BTreeMap::new(), HashMap::new(), HashMap::new());
        Self { open, current, names, portraits: HashMap::new(), last, limit }
    }

    pub(super) fn get(&self, session: Session) -> Option<&Connected> {
        self.open.get(&session)
    }

    /// The session that the worker of this name has now.
    pub(super) fn named(&self, name: &str) -> Option<Session> {
        self.names.get(name).copied()
    }

    pub(super) fn of(&self, worker: WorkerId) -> Option<Session> {
        self.current.get(&worker).copied()
    }

    pub(super) fn outbound(&self, session: Session) -> Option<&mpsc::Sender<ToWorker>> {
        self.open.get(&session).map(|connected| &connected.outbound)
    }

    /// Queues a message; nothing when the session is over.
    pub(super) fn say(
        &self,
        session: Session,
        message: ToWorker,
    ) -> Option<Result<(), TrySendError<ToWorker>>> {
        Some(self.open.get(&session)?.outbound.try_send(message))
    }

    pub(super) fn remove(&mut self, session: Session) -> Option<Connected> {
        let connected = self.open.remove(&session)?;
        if self.current.get(&connected.worker) == Some(&session) {
            self.current.remove(&connected.worker);
            self.names.remove(&connected.name);
        }
        Some(connected)
    }

    /// What would let the open sessions join again.
    pub(super) fn rejoins(&self) -> Vec<Rejoin> {
        let of = |(session, connected): (&Session, &Connected)| Rejoin {
            worker: connected.worker,
            session: *session,
            hello: connected.hello.clone(),
        };
        self.open.iter().map(of).collect()
    }

    /// Whether this lease is taken back from this session for the first time.
    pub(super) fn take_back(&mut self, session: Session, lease: LeaseId, epoch: Epoch) -> bool {
        let Some(connected) = self.open.get_mut(&session) else { return false };
        if connected.taken_back.len() >= TAKEN_BACK {
            connected.taken_back.clear();
        }
        connected.taken_back.insert((lease, epoch))
    }

    fn paint(&mut self, worker: WorkerId, hello: v1::Hello, certificate_until: u64) {
        if self.portraits.len() >= self.limit && !self.portraits.contains_key(&worker) {
            let oldest = self.portraits.iter().min_by_key(|(_, portrait)| portrait.heard);
            if let Some(oldest) = oldest.map(|(worker, _)| *worker) {
                self.portraits.remove(&oldest);
            }
        }
        let (load, heard) = (v1::Heartbeat::default(), Instant::now());
        let portrait = SelfPortrait { hello, load, heard, certificate_until };
        self.portraits.insert(worker, portrait);
    }
}

impl Shell {
    /// A worker at the door: the core says whether it comes in.
    pub(super) fn join(&mut self, joining: Joining, reply: Reply<Seat>, round: &mut Round) {
        let hello = match self.checked(&joining) {
            Ok(hello) => hello,
            Err(refused) => return round.answer(reply, Err(refused)),
        };
        let Joining { hello: said, identity, outbound, ending } = joining;
        let certificate_until = identity.map_or(0, |identity| identity.not_after);
        let holds: Vec<_> = said.holds.iter().map(|held| (LeaseId(held.lease), Epoch(held.epoch))).collect();
        self.sessions.last += 1;
        let session = Session(self.sessions.last);
        let worker = self.fleet.worker_named(&hello.name);
        let event = Event::WorkerJoined { worker, session, hello: hello.clone(), holds };
        let effects = self.fleet.apply(self.clock.now(), event);
        let refused = effects.iter().find_map(|effect| match effect {
            Effect::Send(_, Command::EndSession { session: ended, end }) if *ended == session => {
                Some(end.clone())
            }
            _ => None,
        });
        if let Some(end) = refused {
            round.answer(reply, Err(status::session_end(&hello.name, &end)));
            return self.absorb(effects, round);
        }
        let taken_back = BTreeSet::new();
        let (name, offsets) = (Arc::clone(&hello.name), said.protocol > 0);
        let joined = Arc::clone(&name);
        let addresses = reachable(&said.peer_addresses);
        let connected = Connected { worker, name, hello, outbound, ending, offsets, taken_back, addresses };
        self.forget_jobs(worker);
        self.sessions.open.insert(session, connected);
        self.sessions.current.insert(worker, session);
        self.sessions.names.insert(Arc::clone(&joined), session);
        let protocol = said.protocol.clamp(PROTOCOLS.0, PROTOCOLS.1);
        self.sessions.paint(worker, said, certificate_until);
        tracing::info!(worker = %joined, session = session.0, "a worker joined");
        round.then(Deed::Say(session, ToWorker::Welcome(self.welcome(session, protocol))));
        round.answer(reply, Ok(Seat { session, heartbeat_ms: self.settings.heartbeat_ms }));
        self.absorb(effects, round);
        self.relays_changed(round);
    }

    fn welcome(&self, session: Session, protocol: u32) -> v1::Welcome {
        v1::Welcome {
            epoch: session.0,
            heartbeat_ms: self.settings.heartbeat_ms,
            upload_outputs: self.settings.upload_outputs,
            away_ms: self.settings.fleet.away_ms,
            protocol,
            internal_keys: self.settings.internal_keys.clone(),
            upstream_keys: self.settings.upstream_keys.iter().map(ToString::to_string).collect(),
        }
    }

    /// What a worker says it can do, under its true name, and cut to what it was granted.
    fn checked(&self, joining: &Joining) -> Result<WorkerHello, Status> {
        let mut hello = joining.hello.clone();
        negotiate(hello.protocol, PROTOCOLS.0)?;
        let name = joining.identity.as_ref().map(|identity| &identity.name);
        if let Some(name) = name {
            if !hello.name.is_empty() && hello.name != name.as_str() {
                return Err(status::other_name(name.as_str()));
            }
            name.as_str().clone_into(&mut hello.name);
        }
        let mut hello = from_wire::worker_hello(hello).map_err(|error| status::invalid(&error))?;
        if let Some(granted) = name.and_then(|name| self.registry.worker(name)) {
            let may =
                |list: &[String], word: &str| list.is_empty() || list.iter().any(|granted| granted == word);
            hello.systems.retain(|system| may(&granted.systems, system.as_str()));
            hello.emulated.retain(|system| may(&granted.systems, system.as_str()));
            hello.features.retain(|feature| may(&granted.features, feature.as_str()));
        }
        Ok(hello)
    }

    /// A heartbeat.
    pub(super) fn heard(&mut self, session: Session, load: &v1::Heartbeat, round: &mut Round) {
        let load = from_wire::heartbeat(load);
        let Some(connected) = self.sessions.get(session) else { return };
        let worker = connected.worker;
        let told = from_wire::load(&load);
        if let Some(portrait) = self.sessions.portraits.get_mut(&worker) {
            portrait.heard = Instant::now();
            portrait.load = load;
        }
        self.apply(Event::WorkerHeard { worker, session, load: told }, round);
    }

    /// A session is over, and its worker hears why if it still can.
    pub(super) fn end_session(&mut self, session: Session, why: Status, round: &mut Round) {
        let text = why.message().to_owned();
        if let Some(connected) = self.leave(session, &text, round) {
            round.then(Deed::Cut(Box::new(connected), why));
        }
    }

    /// A session is over. Leases wait for its worker, as the core says.
    pub(super) fn leave(&mut self, session: Session, why: &str, round: &mut Round) -> Option<Connected> {
        let connected = self.sessions.remove(session)?;
        let worker = connected.worker;
        self.forget_jobs(worker);
        let text = format!("worker {} left: {why}", connected.name);
        tracing::info!("{text}");
        self.tell_all(&text, round);
        self.apply(Event::WorkerLost { worker, session }, round);
        self.relays_changed(round);
        Some(connected)
    }

    /// The core ended a session: nothing it says is heard from now on.
    pub(super) fn cut(&mut self, session: Session, end: &SessionEnd, round: &mut Round) {
        let Some(worker) = self.sessions.get(session).map(|connected| connected.worker) else { return };
        // One that was replaced has a successor, whose jobs these are now.
        let was_current = self.sessions.of(worker) == Some(session);
        let Some(connected) = self.sessions.remove(session) else { return };
        let why = status::session_end(&connected.name, end);
        tracing::warn!(worker = %connected.name, session = session.0, "a session is cut: {}", why.message());
        if was_current {
            self.forget_jobs(worker);
            self.tell_all(&format!("worker {} left: {}", connected.name, why.message()), round);
        }
        round.then(Deed::Cut(Box::new(connected), why));
    }

    /// Tells those who watch live runs.
    fn tell_all(&mut self, text: &str, round: &mut Round) {
        for run in self.runs.live() {
            self.tell(run, v1::run_event::Event::Notice(v1::Notice { text: text.to_owned() }), round);
        }
    }

    /// Realisation ends with its session.
    fn forget_jobs(&mut self, worker: WorkerId) {
        self.realises.retain(|_, realising| realising.worker != worker);
    }
}

/// Addresses as far as they can be any.
fn reachable(addresses: &[String]) -> Arc<[String]> {
    let plausible = |address: &&String| {
        let (host, port) = address.rsplit_once(':').unwrap_or_default();
        let fits =
            !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(|byte| byte.is_ascii_graphic());
        fits && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    addresses.iter().filter(plausible).take(MAX_ADDRESSES).cloned().collect()
}

/// A revision that both sides speak; 0 stands for the first.
fn negotiate(theirs: u32, oldest: u32) -> Result<(), Status> {
    if theirs.max(1) < oldest { Err(status::too_old(theirs.max(1), oldest)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn only_workers_that_speak_a_protocol_we_know_come_in() {
        for (theirs, oldest) in [(0, 1), (1, 1), (7, 1), (2, 2)] {
            assert!(negotiate(theirs, oldest).is_ok(), "{theirs}");
        }
        let refused = negotiate(0, 2).expect_err("too old");
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("upgrade the worker"), "{refused}");
    }

    #[tokio::test]
    async fn the_first_end_of_a_session_counts() {
        let ending = Ending::new();
        ending.set(Err(Status::permission_denied("revoked")));
        ending.set(Ok(()));
        assert_eq!(ending.reached().await.expect_err("the first").code(), Code::PermissionDenied);
    }
}
