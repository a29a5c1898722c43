//! Bugs to plant, so that the invariants can be seen to catch them.
//!
//! Without the feature `sabotage` none can be planted.

use crate::fleet::Fleet;

/// A way to be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "sabotage")),
    allow(dead_code, unreachable_pub, reason = "only tests plant bugs")
)]
pub enum Sabotage {
    /// To be right.
    #[default]
    Nothing,
    /// No fencing: whoever reports a step as built is believed.
    AcceptStaleReports,
    /// A built step does not wake what waits for it.
    ForgetDependents,
    /// A step may be leased before its inputs are there.
    IgnoreInputs,
    /// A leased step stays in the queue.
    LeaseTwice,
    /// An ended lease keeps its slot.
    LeakSlot,
    /// Cancelling a run stops its steps, whoever else wants them.
    ForgetInterest,
    /// A lost worker's leases are dropped, their steps with them.
    LoseBatches,
    /// Hosts that an evaluator did not start are dropped.
    LoseHosts,
    /// Slots are not counted.
    OverfillWorkers,
    /// Systems and features are not looked at.
    IgnoreNeeds,
    /// Infrastructure failures are retried for ever.
    RetryForEver,
    /// A failure stops at the step itself.
    FailAlone,
    /// A failure takes an innocent bystander with it.
    FailBystander,
    /// The end of a run is told twice.
    FinishTwice,
    /// A built step is not counted.
    Miscount,
    /// A realise job of a lost worker is not given to another.
    LoseRealises,
    /// A rest never ends.
    OversleepRetries,
    /// Ready work waits for the next event but one.
    LeaveIdle,
    /// After a restart, numbers begin again.
    ReuseGrants,
    /// After a restart, attempts begin again.
    LoseAttempts,
    /// A worker that comes back keeps nothing.
    ForgetHolds,
    /// A worker that comes back keeps what it has not.
    AdoptUnheld,
    /// The leases of a worker that stays away wait for ever.
    WaitForEver,
    /// A drained worker gets work.
    PlaceOnDrained,
    /// A worker that is not well gets work.
    PlaceOnUnwell,
    /// A quarantined worker gets work before it has rested.
    PlaceOnQuarantined,
    /// A revoked worker is let in, and gets work.
    WelcomeRevoked,
    /// A revoked worker keeps its leases.
    KeepRevokedLeases,
    /// Failures of workers and networks are remembered as the step's own.
    RememberInfrastructure,
    /// Any run that wants a step limits it.
    LimitByAny,
    /// What is lost is not made again.
    ForgetLost,
    /// What is lost is made again however often that was.
    RemakeForEver,
    /// With what is lost, something is made again that is not.
    RemakeBystander,
    /// Leases reserve nothing of a worker's disk.
    ReserveNothing,
    /// What a lease reserved stays so when it is over.
    LeakReservation,
    /// Two workers are told that they will build the same step.
    HintTwice,
    /// A worker with a free slot is told to wait for one.
    HintIdle,
    /// What a run compares with is brought to the coordinator, too.
    PublishBefore,
    /// A grant is not recorded.
    ForgetGrants,
    /// The loss of a session is not recorded.
    ForgetLosses,
}

impl Fleet {
    /// Plants a bug.
    #[cfg(any(test, feature = "sabotage"))]
    pub fn sabotage(&mut self, sabotage: Sabotage) {
        self.sabotage = sabotage;
        self.graph.sabotage = sabotage;
    }

    pub(crate) fn sabotaged(&self, sabotage: Sabotage) -> bool {
        self.sabotage == sabotage
    }
}
