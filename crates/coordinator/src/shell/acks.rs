//! Tells workers what they may forget. Owns what is owed: the highest number of each session whose records are
//! durable. An acknowledgement goes out when the log bytes before it are written too, so many messages share one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fleet_core::Session;
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use tokio::sync::{mpsc, watch};

use crate::logs::LogWriter;

type Owed = BTreeMap<Session, (mpsc::Sender<ToWorker>, u64)>;

/// Acknowledgements on their way. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Acks {
    owed: Arc<Mutex<Owed>>,
    wake: watch::Sender<()>,
}

impl Acks {
    /// Must be called in a runtime.
    pub(super) fn spawn(logs: LogWriter) -> Self {
        let (owed, (wake, mut woken)) = (Arc::new(Mutex::new(Owed::new())), watch::channel(()));
        let due = Arc::clone(&owed);
        tokio::spawn(async move {
            while woken.changed().await.is_ok() {
                let due = std::mem::take(&mut *due.lock().unwrap_or_else(PoisonError::into_inner));
                logs.flush().await;
                for (outbound, through) in due.into_values() {
                    // A session whose queue is full hears of it with the next one, or is over.
                    let _ = outbound.try_send(ToWorker::Acknowledged(v1::Acknowledged { through }));
                }
            }
        });
        Self { owed, wake }
    }

    /// Everything up to this number is durable, but for its log bytes.
    pub(super) fn owe(&self, session: Session, outbound: &mpsc::Sender<ToWorker>, through: u64) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = owed.entry(session).or_insert_with(|| (outbound.clone(), 0));
        entry.1 = entry.1.max(through);
        drop(owed);
        self.wake.send_replace(());
    }
}
