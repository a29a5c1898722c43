//! Workers: what each offers, how it stands, and what it holds.
//!
//! Owns what is known of one worker, across its sessions. Must not know steps beyond their names.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::FleetConfig;
use crate::event::WorkerHello;
use crate::graph::Need;
use crate::id::{DrvPath, EvalJobId, Feature, LeaseId, RealiseJobId, Session, System, Time};

/// Builds on any worker: Nix itself is the builder.
const BUILTIN: &str = "builtin";

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Worker {
    pub(crate) name: Arc<str>,
    pub(crate) offer: Offer,
    pub(crate) presence: Presence,
    pub(crate) standing: Standing,
    /// Why it should get nothing now, by its own word.
    pub(crate) unwell: Option<Arc<str>>,
    /// Bytes that its store has room for: by its last word, less what it built since.
    #[serde(default)]
    pub(crate) store_free: Option<u64>,
    /// Bytes that its leases will probably take of these.
    #[serde(default)]
    pub(crate) reserved: u64,
    pub(crate) leases: BTreeSet<LeaseId>,
    /// Leases it had when its session began.
    pub(crate) kept: usize,
    pub(crate) evals: BTreeSet<EvalJobId>,
    pub(crate) realises: BTreeSet<RealiseJobId>,
}

/// What a worker can do, as its last hello says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) systems: BTreeSet<System>,
    /// Of these, those that are emulated.
    pub(crate) emulated: BTreeSet<System>,
    pub(crate) features: BTreeSet<Feature>,
    /// Features that a step must require.
    pub(crate) mandatory: BTreeSet<Feature>,
    pub(crate) slots: usize,
    pub(crate) eval_slots: usize,
    pub(crate) boot: Arc<str>,
    pub(crate) instance: Arc<str>,
}

/// How well a worker fits a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fit {
    Native,
    /// Only for what fits nowhere else.
    Emulated,
}

/// Where a worker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Presence {
    /// Never seen: an order came first.
    Unmet,
    Connected {
        session: Session,
        contender: Option<Contender>,
    },
    /// Its session ended; its leases wait for it.
    Away {
        session: Session,
        since: Time,
    },
    /// Nothing waits for it.
    Gone {
        since: Time,
    },
}

/// Another instance that knocked while the session was open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contender {
    pub(crate) instance: Arc<str>,
    /// When it knocked first.
    pub(crate) since: Time,
    /// Whether the older session was heard so much later that it cannot be dead.
    pub(crate) outlived: bool,
}

/// What a worker may do, and why not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) drained: Option<Arc<str>>,
    pub(crate) locked: Option<Arc<str>>,
    pub(crate) revoked: Option<Arc<str>>,
    pub(crate) quarantine: Option<Quarantine>,
    /// Steps it failed since its last success, by no fault of theirs, each once.
    pub(crate) strikes: Vec<DrvPath>,
}

/// A worker that fails what others manage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quarantine {
    /// For people.
    pub(crate) reason: Arc<str>,
    /// When it may be tried with one step; none when it may be now.
    pub(crate) until: Option<Time>,
}

impl Offer {
    pub(crate) fn of(hello: &WorkerHello, config: &FleetConfig) -> Self {
        let slots = |offered: u32| offered.min(config.max_slots) as usize;
        Self {
            systems: hello.systems.iter().cloned().collect(),
            emulated: hello.emulated.iter().cloned().collect(),
            features: hello.features.iter().cloned().collect(),
            mandatory: hello.mandatory_features.iter().cloned().collect(),
            slots: slots(hello.slots),
            eval_slots: slots(hello.eval_slots),
            boot: Arc::clone(&hello.boot),
            instance: Arc::clone(&hello.instance),
        }
    }
}

impl Worker {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            offer: Offer::default(),
            presence: Presence::Unmet,
            standing: Standing::default(),
            unwell: None,
            store_free: None,
            reserved: 0,
            leases: BTreeSet::new(),
            kept: 0,
            evals: BTreeSet::new(),
            realises: BTreeSet::new(),
        }
    }

    pub(crate) fn session(&self) -> Option<Session> {
        match self.presence {
            Presence::Connected { session, .. } => Some(session),
            _ => None,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.presence, Presence::Connected { .. })
    }

    /// Whether it is there, or will soon be again.
    pub(crate) fn is_present(&self) -> bool {
        matches!(self.presence, Presence::Connected { .. } | Presence::Away { .. })
    }

    /// Whether it may be let in at all.
    pub(crate) fn is_trusted(&self) -> bool {
        self.standing.locked.is_none() && self.standing.revoked.is_none()
    }

    /// Whether it may get anything new now.
    pub(crate) fn takes_work(&self) -> bool {
        self.is_connected() && self.is_trusted() && self.standing.drained.is_none() && self.unwell.is_none()
    }

    /// Whether it may get leases now, or will be able to without anybody's help.
    pub(crate) fn is_expected(&self) -> bool {
        self.is_present() && self.is_trusted() && self.standing.drained.is_none() && self.unwell.is_none()
    }

    /// Whether what it built is best realised by it: it is there or comes back, and a drain does not end what it
    /// began.
    pub(crate) fn realises_its_own(&self) -> bool {
        self.is_present() && self.is_trusted() && self.unwell.is_none()
    }

    pub(crate) fn builds_for(&self, system: &System) -> bool {
        system.as_str() == BUILTIN || self.offer.systems.contains(system)
    }

    /// How well a step's needs fit what it offers, whatever its standing.
    pub(crate) fn fit(&self, need: &Need) -> Option<Fit> {
        let Offer { emulated, features, mandatory, slots, .. } = &self.offer;
        let fits = *slots > 0
            && self.builds_for(&need.system)
            && need.features.iter().all(|feature| features.contains(feature))
            && mandatory.iter().all(|feature| need.features.contains(feature));
        let fit = if emulated.contains(&need.system) { Fit::Emulated } else { Fit::Native };
        fits.then_some(fit)
    }

    /// Whether it is quarantined, and not to be tried yet.
    pub(crate) fn is_resting(&self) -> bool {
        self.standing.quarantine.as_ref().is_some_and(|quarantine| quarantine.until.is_some())
    }

    /// Leases it may get now.
    pub(crate) fn free_slots(&self) -> usize {
        let slots = match &self.standing.quarantine {
            None => self.offer.slots,
            Some(Quarantine { until: None, .. }) => self.offer.slots.min(1),
            Some(_) => 0,
        };
        slots.saturating_sub(self.leases.len())
    }

    pub(crate) fn free_eval_slots(&self) -> usize {
        self.offer.eval_slots.saturating_sub(self.evals.len())
    }
}
