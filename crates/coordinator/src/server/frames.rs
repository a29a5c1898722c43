//! Counts what a peer makes us do without asking for anything: HTTP/2 frames that cost us work and them nothing.
//!
//! Sees the bytes a peer sends, once decrypted, and reads frame headers only. Pure: the time is an argument. The
//! HTTP/2 library itself refuses what is malformed and what is too big; frequency is what it does not watch.

/// What a client sends before its first frame.
const PREFACE: usize = 24;
const HEADER: usize = 9;
/// Idle frames that a peer may have sent at once: a client that cancels all it asked for, twice over.
const BURST: u64 = 2_000;
/// And how many more each millisecond.
const PER_MS: u64 = 1;
/// Window updates are cheap, and as frequent as data.
const UPDATES_PER_IDLE: u64 = 32;

/// One direction of one connection.
#[derive(Debug)]
pub(super) struct FrameMeter {
    state: State,
    /// What is left to spend, in the price of a window update.
    budget: u64,
    refilled_ms: u64,
    frames: u64,
}

#[derive(Debug)]
enum State {
    /// The bytes that are there.
    Header([u8; HEADER], usize),
    /// So many bytes of the preface or of a payload are missing.
    Payload(usize),
}

/// The peer sends too many frames that ask for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

impl FrameMeter {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            state: State::Payload(PREFACE),
            budget: BURST * UPDATES_PER_IDLE,
            refilled_ms: now_ms,
            frames: 0,
        }
    }

    /// Whether the peer has said what it wants: its first request, not only its settings.
    pub(super) fn greeted(&self) -> bool {
        self.frames > 0
    }

    /// Takes bytes in the order in which they came, cut anywhere.
    pub(super) fn take(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), Flood> {
        self.refill(now_ms);
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header(header, have) => {
                    let taken = bytes.len().min(HEADER - *have);
                    header[*have..*have + taken].copy_from_slice(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    *have += taken;
                    if *have == HEADER {
                        let header = *header;
                        self.frame(header)?;
                    }
                }
                State::Payload(missing) => {
                    let taken = bytes.len().min(*missing);
                    bytes = &bytes[taken..];
                    *missing -= taken;
                    if *missing == 0 {
                        self.state = State::Header([0; HEADER], 0);
                    }
                }
            }
        }
        Ok(())
    }

    fn frame(&mut self, header: [u8; HEADER]) -> Result<(), Flood> {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        self.state = if length == 0 { State::Header([0; HEADER], 0) } else { State::Payload(length) };
        self.frames += 1;
        self.budget = self.budget.checked_sub(price(header[3], header[4], length)).ok_or(Flood)?;
        Ok(())
    }

    fn refill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.refilled_ms);
        self.refilled_ms += passed;
        let earned = passed.saturating_mul(PER_MS * UPDATES_PER_IDLE);
        self.budget = self.budget.saturating_add(earned).min(BURST * UPDATES_PER_IDLE);
    }
}

/// What a frame costs, from its type, flags and length.
fn price(kind: u8, flags: u8, length: usize) -> u64 {
    const END_STREAM: u8 = 0x1;
    const END_HEADERS: u8 = 0x4;
    const ACK: u8 = 0x1;
    match kind {
        // Requests end their data with an empty frame: only one that goes on says nothing.
        0x0 if length == 0 && flags & END_STREAM == 0 => UPDATES_PER_IDLE,
        // Headers in pieces.
        0x1 | 0x9 if flags & END_HEADERS == 0 => UPDATES_PER_IDLE,
        // Acknowledgements answer us.
        0x4 | 0x6 if flags & ACK != 0 => 1,
        // Priorities, resets, settings, pings.
        0x2..=0x4 | 0x6 => UPDATES_PER_IDLE,
        0x0 | 0x1 => 0,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn meter() -> FrameMeter {
        let mut meter = FrameMeter::new(0);
        meter.take(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0).expect("a preface");
        meter
    }

    /// Frames until it is a flood, all at once.
    fn until_flood(frame: &[u8]) -> Option<u64> {
        let mut meter = meter();
        (0..100_000).find(|_| meter.take(frame, 0) == Err(Flood))
    }

    #[test]
    fn floods_of_idle_frames_end() {
        for (name, flood) in [
            ("ping", frame(6, 0, &[0; 8])),
            ("settings", frame(4, 0, &[0; 6])),
            ("reset", frame(3, 0, &[0; 4])),
            ("priority", frame(2, 0, &[0; 5])),
            ("empty data", frame(0, 0, &[])),
            ("continuation", frame(9, 0, &[0; 10])),
            ("rapid reset", [frame(1, 5, &[0; 20]), frame(3, 0, &[0; 4])].concat()),
        ] {
            assert_eq!(until_flood(&flood), Some(BURST), "{name}");
        }
    }

    #[test]
    fn data_and_requests_are_no_flood() {
        for honest in [frame(0, 0, &[7; 100]), frame(0, 1, &[]), frame(1, 5, &[0; 40])] {
            assert_eq!(until_flood(&honest), None);
        }
        assert_eq!(until_flood(&frame(8, 0, &[0; 4])), Some(BURST * UPDATES_PER_IDLE), "window updates");
    }

    #[test]
    fn what_comes_slowly_is_no_flood() {
        let ping = frame(6, 0, &[0; 8]);
        let mut meter = meter();
        for now in 0..10_000 {
            assert_eq!(meter.take(&ping, now), Ok(()), "at {now} ms");
        }
    }

    #[test]
    fn frames_are_seen_however_they_are_cut() {
        let stream: Vec<u8> = (0..BURST).flat_map(|_| frame(6, 0, &[0x9; 8])).collect();
        for piece in [1, 2, 7, 9, 17, 64] {
            let mut meter = meter();
            for bytes in stream.chunks(piece) {
                assert_eq!(meter.take(bytes, 0), Ok(()));
            }
            assert_eq!(meter.frames, BURST);
            assert_eq!(meter.take(&frame(6, 0, &[0; 8]), 0), Err(Flood));
        }
    }

    #[test]
    fn a_preface_alone_is_no_greeting() {
        let mut meter = meter();
        assert!(!meter.greeted());
        meter.take(&frame(4, 0, &[]), 0).expect("settings");
        assert!(meter.greeted());
    }
}
