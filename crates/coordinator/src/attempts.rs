//! The attempts that run now: which worker holds each, and the newest bytes of its log. Owns the answer to
//! whether a worker may speak of a step; what it says of others' steps is not heard.

use std::collections::HashMap;

use bytes::Bytes;
use fleet_core::{DrvPath, Epoch, LeaseId, LeasedStep, WorkerId};
use fleet_wire::v1;

use crate::logs::{LogFile, LogWriter};

/// What a person sees of a failed step's log, bytes.
const TAIL: usize = 16 << 10;
/// Phases of one attempt that are shown: they stay in memory as long as their run.
const MAX_PHASES: u32 = 64;
/// Longest name of a phase, bytes.
const MAX_PHASE: usize = 256;
/// What a worker may send above a step's limit: it ends the build a moment after the limit is passed.
const LOG_SLACK: u64 = 1 << 20;

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
    /// Up to where its log was heard, bytes.
    heard: u64,
    /// Up to where it is kept.
    limit: u64,
    tail: Vec<u8>,
    phases: u32,
}

/// What is new in what an attempt said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) attempt: u32,
    pub(crate) data: Bytes,
}

impl Attempts {
    /// None run; their logs go to `writer`.
    pub(crate) fn new(writer: LogWriter) -> Self {
        Self { running: HashMap::new(), writer }
    }

    /// An attempt was leased.
    pub(crate) fn begin(&mut self, worker: WorkerId, lease: LeaseId, epoch: Epoch, step: &LeasedStep) {
        let log = self.writer.file(&step.drv, step.attempt);
        self.insert(worker, lease, epoch, step, log, 0);
    }

    /// An attempt was leased before the coordinator started; its log goes on.
    pub(crate) fn resume(&mut self, worker: WorkerId, lease: LeaseId, epoch: Epoch, step: &LeasedStep) {
        let log = self.writer.reopen(&step.drv, step.attempt);
        let heard = log.length();
        self.insert(worker, lease, epoch, step, log, heard);
    }

    fn insert(
        &mut self,
        worker: WorkerId,
        lease: LeaseId,
        epoch: Epoch,
        step: &LeasedStep,
        log: LogFile,
        heard: u64,
    ) {
        let limit = step.limits.max_log_bytes.map_or(u64::MAX, |limit| limit.saturating_add(LOG_SLACK));
        let (number, tail) = (step.attempt, Vec::new());
        let attempt = Attempt { worker, lease, epoch, number, log, heard, limit, tail, phases: 0 };
        if let Some(mut before) = self.running.insert(step.drv.clone(), attempt) {
            self.writer.close(&mut before.log);
        }
    }

    /// Whether the worker executes this step under this lease.
    pub(crate) fn holds(&self, worker: WorkerId, lease: LeaseId, epoch: Epoch, drv: &DrvPath) -> bool {
        self.running
            .get(drv)
            .is_some_and(|held| (held.worker, held.lease, held.epoch) == (worker, lease, epoch))
    }

    /// Keeps what an attempt says, if the worker holds it: nothing twice, and what is missing is marked. Answers
    /// what is new. Without an offset, what comes next is next.
    pub(crate) fn append(
        &mut self,
        worker: WorkerId,
        logged: &v1::StepLogged,
        offset: Option<u64>,
    ) -> Option<News> {
        let drv = DrvPath::from(logged.drv.as_str());
        if !self.holds(worker, LeaseId(logged.lease), Epoch(logged.epoch), &drv) {
            return None;
        }
        let held = self.running.get_mut(&drv)?;
        let offset = offset.unwrap_or(held.heard);
        let end = offset.saturating_add(logged.data.len() as u64).min(held.limit);
        if end <= held.heard {
            return None;
        }
        let missing = offset.saturating_sub(held.heard);
        let known = usize::try_from(held.heard.saturating_sub(offset)).ok()?;
        let until = usize::try_from(end.saturating_sub(offset)).ok()?;
        if until <= known {
            return None;
        }
        let mut data = logged.data.slice(known..until);
        if missing > 0 {
            let marker = format!("[fleet: {missing} bytes of log were lost here]\n");
            data = [marker.as_bytes(), &data].concat().into();
        }
        held.heard = end;
        held.tail.extend_from_slice(&data[data.len().saturating_sub(TAIL)..]);
        if held.tail.len() > 2 * TAIL {
            held.tail.drain(..held.tail.len() - TAIL);
        }
        self.writer.append(&mut held.log, &data);
        Some(News { attempt: held.number, data })
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
mod tests;
