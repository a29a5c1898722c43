//! Whether the coordinator counts on this worker now, and what it said in welcome: a worker that was away, or asleep,
//! has to be welcomed again before it speaks.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use tokio::sync::watch;

use crate::clock::Moment;
use crate::context::Outbox;

/// Beats this long apart mean that this process, or the machine, stood still: the coordinator has noticed.
const PAUSE: Duration = Duration::from_secs(20);
/// So do twice as many as were agreed, where beats are quick.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);

/// The open session, if there is one.
#[derive(Debug)]
pub(crate) struct Presence {
    open: watch::Sender<Option<Outbox>>,
    welcome: Mutex<Option<v1::Welcome>>,
    beat: Mutex<Moment>,
}

impl Presence {
    /// Nobody knows us yet.
    pub(crate) fn new() -> Self {
        Self { open: watch::Sender::new(None), welcome: Mutex::default(), beat: Mutex::new(Moment::now()) }
    }

    /// The coordinator welcomed this session.
    pub(crate) fn open(&self, outbox: Outbox, welcome: v1::Welcome) {
        *lock(&self.welcome) = Some(welcome);
        *lock(&self.beat) = Moment::now();
        self.open.send_replace(Some(outbox));
    }

    /// The session is over.
    pub(crate) fn close(&self) {
        self.open.send_replace(None);
    }

    /// What the coordinator said last in welcome.
    pub(crate) fn welcome(&self) -> v1::Welcome {
        lock(&self.welcome).clone().unwrap_or_default()
    }

    /// How long a worker may be away before others have its leases; unknown before the first welcome.
    pub(crate) fn away_limit(&self) -> Option<Duration> {
        lock(&self.welcome).as_ref().map(|welcome| Duration::from_millis(welcome.away_ms))
    }

    /// We run; false if we stood still for so long that the session cannot be trusted.
    pub(crate) fn beat(&self) -> bool {
        let is_fresh = self.is_fresh();
        *lock(&self.beat) = Moment::now();
        is_fresh
    }

    /// When we last ran, as far as we know.
    pub(crate) fn last_beat(&self) -> Moment {
        *lock(&self.beat)
    }

    /// Says something that may be lost, if somebody listens.
    pub(crate) fn mention(&self, message: Message) {
        if let Some(outbox) = &*self.open.borrow() {
            let _ = outbox.try_send(message);
        }
    }

    /// Whether we have run without a pause.
    pub(crate) fn is_fresh(&self) -> bool {
        let agreed = Duration::from_millis(self.welcome().heartbeat_ms.into());
        let pause = if agreed.is_zero() { PAUSE } else { PAUSE.min(2 * agreed).max(SHORTEST_PAUSE) };
        self.last_beat().elapsed() < pause
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
