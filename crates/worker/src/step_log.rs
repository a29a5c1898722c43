//! The log of one running step on its way to the coordinator. Never blocks a build: when the way is full it
//! keeps a bounded amount and marks what it had to drop.

use std::ops::ControlFlow;

use fleet_nix::daemon::LogEvent;
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;

use crate::context::Outbox;

/// Longest line; longer ones are split.
const MAX_LINE: usize = 64 << 10;
/// Bytes kept while the way is full.
const MAX_KEPT: usize = 256 << 10;

/// Sends a step's lines and phases, and counts them against its limit.
#[derive(Debug)]
pub(crate) struct StepLog {
    outbox: Outbox,
    lease: u64,
    epoch: u64,
    drv: String,
    kept: Vec<u8>,
    dropped: usize,
    left: u64,
}

impl StepLog {
    pub(crate) fn new(outbox: Outbox, lease: &v1::Lease, work: &v1::StepWork) -> Self {
        let (drv, left) = (work.drv.clone(), work.max_log_bytes);
        Self { outbox, lease: lease.lease, epoch: lease.epoch, drv, kept: Vec::new(), dropped: 0, left }
    }

    /// Takes an event of the daemon; breaks when the log is over its limit.
    pub(crate) fn observe(&mut self, event: LogEvent) -> ControlFlow<()> {
        match event {
            LogEvent::BuildLogLine { line, .. } => self.line(&line),
            LogEvent::Phase { phase, .. } => {
                let phased = v1::StepPhased { lease: self.lease, drv: self.drv.clone(), phase };
                // A phase is for display: it may be lost.
                let _ = self.outbox.try_send(Message::StepPhased(phased));
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn line(&mut self, line: &[u8]) -> ControlFlow<()> {
        let size = line.len() as u64 + 1;
        if size > self.left {
            self.left = 0;
            return ControlFlow::Break(());
        }
        self.left -= size;
        let mut pieces = line.chunks(MAX_LINE);
        self.piece(pieces.next().unwrap_or_default());
        pieces.for_each(|piece| self.piece(piece));
        ControlFlow::Continue(())
    }

    fn piece(&mut self, piece: &[u8]) {
        if self.kept.len() + piece.len() > MAX_KEPT {
            self.dropped += piece.len() + 1;
            return;
        }
        self.mark_dropped();
        self.kept.extend_from_slice(piece);
        self.kept.push(b'\n');
        let message = self.take();
        if let Err(refused) = self.outbox.try_send(message)
            && let Message::StepLogged(refused) = *refused
        {
            self.kept = refused.data.into();
        }
    }

    fn mark_dropped(&mut self) {
        if self.dropped > 0 {
            let marker = format!("[fleet: {} bytes of log were dropped here]\n", self.dropped);
            self.kept.extend_from_slice(marker.as_bytes());
            self.dropped = 0;
        }
    }

    /// Whether the limit was reached.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.left == 0
    }

    /// Sends what is left, waiting for room.
    pub(crate) async fn finish(mut self) {
        self.mark_dropped();
        if !self.kept.is_empty() {
            let message = self.take();
            self.outbox.send(message).await;
        }
    }

    fn take(&mut self) -> Message {
        let data = std::mem::take(&mut self.kept).into();
        Message::StepLogged(v1::StepLogged {
            lease: self.lease,
            epoch: self.epoch,
            drv: self.drv.clone(),
            data,
            offset: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    fn log(room: usize, limit: u64) -> (StepLog, mpsc::Receiver<v1::WorkerMessage>) {
        let (sender, receiver) = mpsc::channel(room);
        let work = v1::StepWork { max_log_bytes: limit, ..v1::StepWork::default() };
        (StepLog::new(Outbox(sender), &v1::Lease::default(), &work), receiver)
    }

    fn data(message: Option<v1::WorkerMessage>) -> Vec<u8> {
        match message.and_then(|m| m.message) {
            Some(Message::StepLogged(logged)) => logged.data.into(),
            other => panic!("not a log: {other:?}"),
        }
    }

    #[tokio::test]
    async fn lines_wait_for_room_in_order_and_long_ones_are_split() {
        let (mut log, mut receiver) = log(1, 1 << 30);
        assert!(log.line(b"one").is_continue());
        assert!(log.line(b"two").is_continue());
        assert!(log.line(&vec![b'x'; MAX_LINE + 1]).is_continue());
        assert_eq!(data(receiver.recv().await), b"one\n");
        log.finish().await;
        let rest = data(receiver.recv().await);
        assert!(rest.starts_with(b"two\nxxx"));
        assert!(rest.ends_with(b"x\nx\n"));
    }

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_with_a_marker() {
        let (mut log, mut receiver) = log(1, 1 << 30);
        for _ in 0..10 {
            assert!(log.line(&vec![b'y'; MAX_LINE]).is_continue());
        }
        let _first = receiver.recv().await;
        log.kept.truncate(10);
        assert!(log.line(b"after").is_continue());
        let rest = String::from_utf8(data(receiver.recv().await)).expect("text");
        assert!(rest.contains("bytes of log were dropped here]\nafter\n"), "{rest}");
    }

    #[tokio::test]
    async fn a_line_longer_than_all_room_is_sent_in_pieces_and_a_loss_at_the_end_is_marked() {
        let (mut log, mut receiver) = log(64, 1 << 30);
        assert!(log.line(&vec![b'z'; 2 * MAX_KEPT]).is_continue());
        for _ in 0..2 * MAX_KEPT / MAX_LINE {
            assert_eq!(data(receiver.recv().await).len(), MAX_LINE + 1);
        }
        let (mut log, mut receiver) = self::log(1, 1 << 30);
        assert!(log.line(b"first").is_continue());
        assert!(log.line(&vec![b'z'; 2 * MAX_KEPT]).is_continue());
        assert_eq!(data(receiver.recv().await), b"first\n");
        log.finish().await;
        let rest = String::from_utf8(data(receiver.recv().await)).expect("text");
        assert!(rest.ends_with("bytes of log were dropped here]\n"), "{}", &rest[rest.len() - 80..]);
    }

    #[tokio::test]
    async fn a_log_over_its_limit_breaks() {
        let (mut log, _receiver) = log(8, 10);
        assert!(log.line(b"12345").is_continue());
        assert!(!log.is_over_limit());
        assert!(log.line(b"12345").is_break());
        assert!(log.is_over_limit());
    }
}
