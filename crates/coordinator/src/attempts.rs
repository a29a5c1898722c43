//! The attempts that run now: which worker holds each, and the newest bytes of its log. Owns the answer to
//! whether a worker may speak of a step; what it says of others' steps is not heard.

use std::collections::HashMap;

use fleet_core::{DrvPath, Epoch, LeaseId, LeasedStep, WorkerId};
use fleet_wire::v1;

use crate::logs::{LogFile, LogWriter};

/// What a person sees of a failed step's log, bytes.
const TAIL: usize = 16 << 10;
/// Phases of one attempt that are shown: they stay in memory as long as their run.
const MAX_PHASES: u32 = 64;
/// Longest name of a phase, bytes.
const MAX_PHASE: usize = 256;

/// Attempts by step: each step has at most one.
#[derive(Debug)]
pub(crate) struct Attempts {
    running: HashMap<DrvPath, Attempt>,
    writer: LogWriter,
}

#[derive(Debug)]
struct Attempt {
    worker: WorkerId,
    lease: LeaseId,
    epoch: Epoch,
    number: u32,
    log: LogFile,
    tail: Vec<u8>,
    phases: u32,
}

impl Attempts {
    /// None run; their logs go to `writer`.
    pub(crate) fn new(writer: LogWriter) -> Self {
        Self { running: HashMap::new(), writer }
    }

    /// An attempt was leased.
    pub(crate) fn begin(&mut self, worker: WorkerId, lease: LeaseId, epoch: Epoch, step: &LeasedStep) {
        let log = self.writer.file(&step.drv, step.attempt);
        let (number, tail) = (step.attempt, Vec::new());
        let attempt = Attempt { worker, lease, epoch, number, log, tail, phases: 0 };
        self.running.insert(step.drv.clone(), attempt);
    }

    /// Whether the worker executes this step under this lease.
    pub(crate) fn holds(&self, worker: WorkerId, lease: LeaseId, epoch: Epoch, drv: &DrvPath) -> bool {
        self.running
            .get(drv)
            .is_some_and(|held| (held.worker, held.lease, held.epoch) == (worker, lease, epoch))
    }

    /// Keeps what an attempt says. Answers which attempt, or nothing when the worker does not hold it.
    pub(crate) fn append(&mut self, worker: WorkerId, logged: &v1::StepLogged) -> Option<u32> {
        let drv = DrvPath::from(logged.drv.as_str());
        if !self.holds(worker, LeaseId(logged.lease), Epoch(logged.epoch), &drv) {
            return None;
        }
        let held = self.running.get_mut(&drv)?;
        held.tail.extend_from_slice(&logged.data);
        if held.tail.len() > 2 * TAIL {
            held.tail.drain(..held.tail.len() - TAIL);
        }
        self.writer.append(&mut held.log, &logged.data);
        Some(held.number)
    }

    /// Whether a phase is to be shown.
    pub(crate) fn phase(&mut self, worker: WorkerId, phased: &v1::StepPhased) -> bool {
        let Some(held) = self.running.get_mut(&DrvPath::from(phased.drv.as_str())) else { return false };
        held.phases += 1;
        (held.worker, held.lease.0) == (worker, phased.lease)
            && held.phases <= MAX_PHASES
            && phased.phase.len() <= MAX_PHASE
    }

    /// The newest lines of a running attempt, lossily as text.
    pub(crate) fn tail(&self, drv: &DrvPath) -> String {
        let tail = self.running.get(drv).map_or(&[][..], |held| &held.tail);
        String::from_utf8_lossy(&tail[tail.len().saturating_sub(TAIL)..]).into_owned()
    }

    /// An attempt ended; its log stays on disk.
    pub(crate) fn end(&mut self, drv: &DrvPath, number: u32) {
        if self.running.get(drv).is_some_and(|held| held.number == number)
            && let Some(mut held) = self.running.remove(drv)
        {
            self.writer.close(&mut held.log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(epoch: u64, data: &[u8]) -> v1::StepLogged {
        v1::StepLogged { lease: 1, epoch, drv: "a.drv".into(), data: data.to_vec().into(), offset: 0 }
    }

    fn step(drv: &DrvPath, attempt: u32) -> LeasedStep {
        LeasedStep { drv: drv.clone(), attempt, limits: fleet_core::StepLimits::default() }
    }

    #[tokio::test]
    async fn only_the_holder_of_an_attempt_is_heard_and_the_tail_is_bounded() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut attempts = Attempts::new(LogWriter::open(directory.path().to_owned()).expect("opens"));
        let (worker, drv) = (WorkerId(1), DrvPath::from("a.drv"));
        assert_eq!(attempts.append(worker, &logged(1, b"before its lease\n")), None);
        attempts.begin(worker, LeaseId(1), Epoch(1), &step(&drv, 2));
        for _ in 0..64 {
            assert_eq!(attempts.append(worker, &logged(1, &[b'x'; 1024])), Some(2));
        }
        assert_eq!(attempts.append(worker, &logged(2, b"of another epoch\n")), None);
        assert_eq!(attempts.append(WorkerId(2), &logged(1, b"of another worker\n")), None);
        assert_eq!(attempts.tail(&drv), "x".repeat(TAIL));
        attempts.end(&drv, 1);
        assert!(
            attempts.holds(worker, LeaseId(1), Epoch(1), &drv),
            "the end of an older attempt is not its own"
        );
        attempts.end(&drv, 2);
        assert_eq!(attempts.append(worker, &logged(1, b"after its end\n")), None);
        assert!(attempts.running.is_empty());
    }

    #[tokio::test]
    async fn phases_are_bounded() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut attempts = Attempts::new(LogWriter::open(directory.path().to_owned()).expect("opens"));
        let drv = DrvPath::from("a.drv");
        attempts.begin(WorkerId(1), LeaseId(1), Epoch(1), &step(&drv, 1));
        let phased = v1::StepPhased { lease: 1, drv: "a.drv".into(), phase: "buildPhase".into() };
        let shown = (0..1000).filter(|_| attempts.phase(WorkerId(1), &phased)).count();
        assert_eq!(shown, MAX_PHASES as usize);
    }
}
