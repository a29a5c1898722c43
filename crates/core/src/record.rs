//! What must survive a restart: records, from which [`Fleet::restore`](crate::Fleet::restore) makes the same
//! fleet again.
//!
//! A history is what happened and what was decided about it. What happened goes through the same code again,
//! but nothing is decided a second time: what was decided is recorded with its values, so that another way of
//! placing work never falsifies an older history. Facts for people are no records: they follow from notices
//! and commands.

use serde::{Deserialize, Serialize};

use crate::config::FleetConfig;
use crate::effect::LeasedStep;
use crate::event::{Event, Failure};
use crate::id::{DrvPath, Epoch, EvalJobId, LeaseId, RealiseJobId, RunId, Side, Time, WorkerId};
use crate::memory::Memory;

/// One entry of a fleet's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The settings that hold from here on.
    Configured(Box<FleetConfig>),
    /// An event that was heeded.
    Happened {
        /// When.
        at: Time,
        /// What.
        event: Event,
    },
    /// What was decided about the event before it.
    Decided(Decision),
    /// Stands for all that was before it.
    Condensed(Box<Memory>),
}

/// One choice among several that were open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// A worker evaluates.
    EvalGranted {
        /// Who.
        worker: WorkerId,
        /// Names the job.
        job: EvalJobId,
        /// Fences it.
        epoch: Epoch,
        /// For which run.
        run: RunId,
        /// Which of the run's trees.
        tree: usize,
        /// Which of the run's hosts; none to discover them.
        hosts: Option<Vec<u32>>,
    },
    /// A worker builds.
    LeaseGranted {
        /// Who.
        worker: WorkerId,
        /// Names the lease.
        lease: LeaseId,
        /// Fences it.
        epoch: Epoch,
        /// In dependency order.
        steps: Vec<LeasedStep>,
    },
    /// A worker realises a target's toplevel.
    RealiseGranted {
        /// Who.
        worker: WorkerId,
        /// Names the job.
        job: RealiseJobId,
        /// Fences it.
        epoch: Epoch,
        /// Of which run.
        run: RunId,
        /// Which of the run's hosts.
        host: u32,
        /// Which of the host's sides.
        side: Side,
    },
    /// Nobody evaluates, and the patience is over: all evaluation that waits has failed.
    EvalsGivenUp {
        /// Why.
        failure: Failure,
    },
    /// Nobody builds this step, and the patience is over.
    StepGivenUp {
        /// Which.
        drv: DrvPath,
        /// Why.
        failure: Failure,
    },
    /// Nobody realises this target's toplevel, and the patience is over.
    RealiseGivenUp {
        /// Of which run.
        run: RunId,
        /// Which of the run's hosts.
        host: u32,
        /// Which of the host's sides.
        side: Side,
        /// Why.
        failure: Failure,
    },
    /// A step of a cycle is made in another way, or has failed where there is none.
    CycleBroken {
        /// Which.
        drv: DrvPath,
    },
}

/// Why records are no history of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A decision comes before anything happened.
    #[error("record {record} decides about nothing")]
    Headless {
        /// Counted from 1.
        record: usize,
    },
    /// A decision names what is not there.
    #[error("record {record} does not follow from those before it: {decision}")]
    Unfit {
        /// Counted from 1.
        record: usize,
        /// Which.
        decision: String,
    },
}
