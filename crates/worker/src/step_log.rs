//! The log of one running step on its way to the spool. Never blocks a build: gathers lines for a moment, counts every
//! byte, and where the spool has no room the offset of what follows shows the gap.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use fleet_nix::daemon::{ActivityKind, LogEvent};
use fleet_wire::v1;
use fleet_wire::v1::worker_message::Message;
use tokio::time::Instant;

use crate::context::Context;

/// Longest line; longer ones are split.
const MAX_LINE: usize = 64 << 10;
/// Bytes that are gathered before they are sent.
const CHUNK: usize = 32 << 10;

/// Where the log's pieces go: false for one that found no room.
pub(crate) trait Sink: Send {
    /// Something that must not be lost without a trace.
    fn keep(&mut self, message: Message) -> bool;
    /// Something that may.
    fn mention(&mut self, message: Message);
}

impl Sink for Arc<Context> {
    fn keep(&mut self, message: Message) -> bool {
        self.spool.add(message)
    }

    fn mention(&mut self, message: Message) {
        self.presence.mention(message);
    }
}

/// Sends a step's lines and phases, counts them against its limit, and knows when it last said something.
#[derive(Debug)]
pub(crate) struct StepLog<S> {
    sink: S,
    lease: u64,
    epoch: u64,
    drv: String,
    /// Not sent yet; begins at `sent`.
    gathered: Vec<u8>,
    sent: u64,
    left: u64,
    is_over_limit: bool,
    opened: Instant,
    builder: Option<Builder>,
}

/// A builder that runs.
#[derive(Clone, Copy, Debug)]
struct Builder {
    started: Instant,
    heard: Instant,
}

/// How long a step has gone without what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waited {
    /// Without a builder, before there was one.
    pub(crate) to_start: Duration,
    /// Since its builder started.
    pub(crate) since_start: Duration,
    /// Since its builder said something.
    pub(crate) silent: Duration,
}

impl<S: Sink> StepLog<S> {
    pub(crate) fn new(sink: S, lease: &v1::Lease, work: &v1::StepWork) -> Self {
        Self {
            sink,
            lease: lease.lease,
            epoch: lease.epoch,
            drv: work.drv.clone(),
            gathered: Vec::new(),
            sent: 0,
            left: if work.max_log_bytes == 0 { u64::MAX } else { work.max_log_bytes },
            is_over_limit: false,
            opened: Instant::now(),
            builder: None,
        }
    }

    /// Takes an event of the daemon; breaks when the log is over its limit.
    pub(crate) fn observe(&mut self, event: LogEvent) -> ControlFlow<()> {
        match event {
            LogEvent::BuildLogLine { line, .. } => {
                self.heard(Instant::now());
                self.line(&line)
            }
            LogEvent::Phase { phase, .. } => {
                self.heard(Instant::now());
                let phased = v1::StepPhased { lease: self.lease, drv: self.drv.clone(), phase };
                // For display.
                self.sink.mention(Message::StepPhased(phased));
                ControlFlow::Continue(())
            }
            LogEvent::ActivityStarted(activity) if activity.kind == ActivityKind::Build => {
                self.heard(Instant::now());
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    /// Sends what was gathered.
    pub(crate) fn flush(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let data = std::mem::take(&mut self.gathered);
        let size = data.len() as u64;
        self.sink.keep(Message::StepLogged(v1::StepLogged {
            lease: self.lease,
            epoch: self.epoch,
            drv: self.drv.clone(),
            data: data.into(),
            offset: self.sent,
        }));
        self.sent += size;
    }

    /// Whether the limit was reached.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.is_over_limit
    }

    /// For how long by now.
    pub(crate) fn waited(&self, now: Instant) -> Waited {
        let none = Duration::ZERO;
        match self.builder {
            None => Waited { to_start: now.duration_since(self.opened), since_start: none, silent: none },
            Some(builder) => Waited {
                to_start: none,
                since_start: now.duration_since(builder.started),
                silent: now.duration_since(builder.heard),
            },
        }
    }

    fn heard(&mut self, now: Instant) {
        self.builder.get_or_insert(Builder { started: now, heard: now }).heard = now;
    }

    fn line(&mut self, line: &[u8]) -> ControlFlow<()> {
        let size = line.len() as u64 + 1;
        if size > self.left {
            self.is_over_limit = true;
            return ControlFlow::Break(());
        }
        self.left -= size;
        let mut pieces = line.chunks(MAX_LINE);
        self.piece(pieces.next().unwrap_or_default());
        pieces.for_each(|piece| self.piece(piece));
        ControlFlow::Continue(())
    }

    fn piece(&mut self, piece: &[u8]) {
        self.gathered.extend_from_slice(piece);
        self.gathered.push(b'\n');
        if self.gathered.len() >= CHUNK {
            self.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fleet_nix::daemon::Activity;

    #[derive(Debug, Default)]
    struct Kept {
        room: usize,
        chunks: Vec<(u64, Vec<u8>)>,
    }

    impl Sink for Kept {
        fn keep(&mut self, message: Message) -> bool {
            let Message::StepLogged(logged) = message else { panic!("not a log: {message:?}") };
            if self.chunks.len() == self.room {
                return false;
            }
            self.chunks.push((logged.offset, logged.data.into()));
            true
        }

        fn mention(&mut self, _: Message) {}
    }

    fn log(room: usize, limit: u64) -> StepLog<Kept> {
        let work = v1::StepWork { max_log_bytes: limit, ..v1::StepWork::default() };
        StepLog::new(Kept { room, chunks: Vec::new() }, &v1::Lease::default(), &work)
    }

    #[tokio::test]
    async fn lines_are_gathered_in_order_and_long_ones_are_split() {
        let mut log = log(9, 1 << 30);
        assert!(log.line(b"one").is_continue());
        assert!(log.line(b"two").is_continue());
        assert!(log.sink.chunks.is_empty(), "gathered");
        log.flush();
        assert!(log.line(&vec![b'x'; MAX_LINE + 1]).is_continue());
        log.flush();
        let (first, rest) = log.sink.chunks.split_first().expect("chunks");
        assert_eq!(first, &(0, b"one\ntwo\n".to_vec()));
        let split: Vec<_> = rest.iter().map(|(offset, data)| (*offset, data.len())).collect();
        assert_eq!(split, [(8, MAX_LINE + 1), (8 + MAX_LINE as u64 + 1, 2)]);
        log.flush();
        assert_eq!(log.sink.chunks.len(), 3, "nothing is sent twice");
    }

    #[tokio::test]
    async fn what_finds_no_room_leaves_a_gap_in_the_offsets() {
        let mut log = log(1, 1 << 30);
        for line in ["first", "lost", "last"] {
            assert!(log.line(line.as_bytes()).is_continue());
            log.flush();
            log.sink.room = if line == "lost" { 2 } else { 1 };
        }
        assert_eq!(log.sink.chunks, [(0, b"first\n".to_vec()), (11, b"last\n".to_vec())]);
    }

    #[tokio::test]
    async fn a_log_over_its_limit_breaks() {
        let mut log = log(9, 12);
        assert!(log.line(b"12345").is_continue());
        assert!(log.line(b"12345").is_continue());
        assert!(!log.is_over_limit(), "as long as the limit is not too long");
        assert!(log.line(b"").is_break());
        assert!(log.is_over_limit());
    }

    #[tokio::test]
    async fn silence_counts_from_the_builders_start() {
        let mut log = log(9, 0);
        let after = |seconds| log.opened + Duration::from_secs(seconds);
        let [five, eight, ten] = [5, 8, 10].map(after);
        assert_eq!(log.waited(five).to_start, Duration::from_secs(5));
        log.heard(five);
        log.heard(eight);
        let waited = log.waited(ten);
        let seconds = [waited.to_start, waited.since_start, waited.silent].map(|time| time.as_secs());
        assert_eq!(seconds, [0, 5, 2]);
    }

    #[tokio::test]
    async fn a_builder_has_started_when_the_daemon_says_so_or_it_speaks() {
        let (id, parent, level, kind) = (1, 0, 3, ActivityKind::Build);
        let activity = Activity { id, parent, level, kind, text: String::new(), fields: Vec::new() };
        let line = LogEvent::BuildLogLine { activity: 1, line: b"x".to_vec() };
        let waiting = LogEvent::Message { text: "waiting for lock".to_owned() };
        for (event, has_started) in
            [(LogEvent::ActivityStarted(activity), true), (line, true), (waiting, false)]
        {
            let mut log = log(9, 0);
            assert!(log.observe(event).is_continue());
            assert_eq!(log.builder.is_some(), has_started);
        }
    }
}
