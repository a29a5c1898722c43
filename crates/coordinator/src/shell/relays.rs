//! Bytes that one worker has and another cannot fetch come through here: a holder is ordered to share them, and who
//! waits is answered when they are here, or when nobody has them any more. Owns the orders and who waits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use fleet_core::{Session, WorkerId};
use fleet_nix::StorePath;
use fleet_paths::{Depth, Standing};
use fleet_wire::v1;
use fleet_wire::v1::coordinator_message::Message as ToWorker;
use tokio::time::Instant;

use super::known::learnt;
use super::locate::{LocateAnswer, LocateQuestion};
use super::round::{Deed, Round};
use super::{Reply, Shell};
use crate::rpc::status;

/// Askers that wait at a time.
const MAX_WAITING: usize = 1024;
/// Orders that are remembered; of more the oldest are forgotten.
const MAX_ORDERS: usize = 1024;
/// Paths of one order.
const MAX_SHARED: usize = 65_536;
/// Paths of which is remembered that one asker waits for them: when all are here, the rest is looked for.
const MAX_UNREACHED: usize = 4_096;
/// After so long without an end, somebody else is ordered too.
const STALLED_AFTER: Duration = Duration::from_secs(30);
/// Who brings less than this a second, after that, brings nothing.
const SLOWEST: u64 = 64 << 10;
/// So many orders for a path of which nothing came, and its holder counts as not having it.
const MAX_HUNG: usize = 2;

/// Orders and those who wait for what comes of them.
#[derive(Debug)]
pub(super) struct Relays {
    orders: BTreeMap<u64, Order>,
    /// The orders that have a path open.
    open: HashMap<StorePath, BTreeSet<u64>>,
    waiting: Vec<Waiting>,
    next: u64,
    /// How often all that somebody waits for was gone through.
    #[cfg(test)]
    pub(super) walks: usize,
}

#[derive(Debug)]
struct Order {
    worker: WorkerId,
    session: Session,
    /// What was ordered, and is not here yet.
    open: BTreeSet<StorePath>,
    /// All that may be brought for it.
    paths: HashSet<StorePath>,
    /// When it was given, or something of it came last.
    since: Instant,
    /// How long something may take to come.
    patience: Duration,
    is_hung: bool,
}

#[derive(Debug)]
struct Waiting {
    worker: WorkerId,
    question: LocateQuestion,
    reply: Reply<LocateAnswer>,
    /// Of what it cannot reach, the first: never none.
    unreached: HashSet<StorePath>,
}

impl Relays {
    /// Numbers orders above `last`.
    pub(super) fn new(last: u64) -> Self {
        Self {
            orders: BTreeMap::new(),
            open: HashMap::new(),
            waiting: Vec::new(),
            next: last + 1,
            #[cfg(test)]
            walks: 0,
        }
    }

    /// Who was given an order.
    pub(super) fn ordered_from(&self, share: u64) -> Option<WorkerId> {
        self.orders.get(&share).map(|order| order.worker)
    }

    /// Whether an order names this path.
    pub(super) fn names(&self, share: u64, path: &StorePath) -> bool {
        self.orders.get(&share).is_some_and(|order| order.paths.contains(path))
    }

    /// A worker does not have these: nothing comes of its orders for them.
    pub(super) fn answered(&mut self, worker: WorkerId, paths: &[StorePath]) {
        for path in paths {
            let Some(shares) = self.open.get_mut(path) else { continue };
            let orders = &mut self.orders;
            shares.retain(|share| {
                let Some(order) = orders.get_mut(share) else { return false };
                order.worker != worker || !order.open.remove(path)
            });
            if shares.is_empty() {
                self.open.remove(path);
            }
        }
    }

    /// A path needs no order any more: it came, or nobody has it.
    fn close(&mut self, path: &StorePath) {
        for share in self.open.remove(path).unwrap_or_default() {
            if let Some(order) = self.orders.get_mut(&share) {
                order.open.remove(path);
                order.since = Instant::now();
                order.is_hung = false;
            }
        }
    }

    /// Whether this is on its way.
    fn is_coming(&self, path: &StorePath) -> bool {
        self.orders_for(path).any(|order| order.since.elapsed() < STALLED_AFTER)
    }

    fn orders_for(&self, path: &StorePath) -> impl Iterator<Item = &Order> {
        self.open.get(path).into_iter().flatten().filter_map(|share| self.orders.get(share))
    }

    /// What workers were ordered to bring over and over, and never did.
    fn never_brought(&mut self) -> BTreeMap<WorkerId, Vec<StorePath>> {
        let mut hung = Vec::new();
        for (share, order) in &mut self.orders {
            if !order.is_hung && order.since.elapsed() >= order.patience {
                order.is_hung = true;
                hung.push(*share);
            }
        }
        let mut never: BTreeMap<WorkerId, Vec<StorePath>> = BTreeMap::new();
        for order in hung.iter().filter_map(|share| self.orders.get(share)) {
            let of_worker = |other: &&Order| other.worker == order.worker && other.is_hung;
            let often = |path: &&StorePath| self.orders_for(path).filter(of_worker).count() >= MAX_HUNG;
            never.entry(order.worker).or_default().extend(order.open.iter().filter(often).cloned());
        }
        never.retain(|_, paths| !paths.is_empty());
        never
    }

    fn order(&mut self, order: Order) -> u64 {
        while self.orders.len() >= MAX_ORDERS {
            let Some((&oldest, _)) = self.orders.first_key_value() else { break };
            self.forget(oldest);
        }
        let share = self.next;
        self.next += 1;
        for path in &order.open {
            self.open.entry(path.clone()).or_default().insert(share);
        }
        self.orders.insert(share, order);
        share
    }

    fn forget(&mut self, share: u64) {
        for path in self.orders.remove(&share).into_iter().flat_map(|order| order.open) {
            if let Some(shares) = self.open.get_mut(&path) {
                shares.remove(&share);
                if shares.is_empty() {
                    self.open.remove(&path);
                }
            }
        }
    }
}

impl Shell {
    /// Answers at once, or when what the asker cannot reach is here.
    pub(super) fn locate(&mut self, question: LocateQuestion, reply: Reply<LocateAnswer>, round: &mut Round) {
        let worker = match self.check_question(&question) {
            Ok(worker) => worker,
            Err(refused) => return round.answer(reply, Err(refused)),
        };
        if question.relay && question.depth == Depth::Alone {
            // Who wants just these brought does not have them, whatever it had.
            let record = self.known.lost(&self.name_of(worker), &question.paths);
            if record.is_some() {
                learnt(record, round);
                self.stands_otherwise(&question.paths, round);
            }
        }
        if question.relay {
            self.give_up_hung(round);
        }
        let (answer, unreached) = self.whereabouts(worker, &question);
        if !question.relay || unreached.is_empty() || !answer.lost.is_empty() {
            return round.answer(reply, Ok(answer));
        }
        self.relays.waiting.retain(|waiting| !waiting.reply.is_closed());
        if self.relays.waiting.len() >= MAX_WAITING {
            return round.answer(reply, Err(status::too_many_wait()));
        }
        self.order_shares(worker, &unreached, round);
        let unreached = unreached.into_iter().take(MAX_UNREACHED).collect();
        self.relays.waiting.push(Waiting { worker, question, reply, unreached });
    }

    /// Who never brings what it has does not have it: its step is open again in the end. Who asks does so again and
    /// again, so this is looked at often enough.
    fn give_up_hung(&mut self, round: &mut Round) {
        for (worker, paths) in self.relays.never_brought() {
            let name = self.name_of(worker);
            tracing::warn!(worker = %name, paths = paths.len(), "it never brought what it has: it counts as lost there");
            learnt(self.known.lost(&name, &paths), round);
            self.relays.answered(worker, &paths);
            self.stands_otherwise(&paths, round);
        }
    }

    /// These are here, or somebody has them, or has them no more: who waited for them is answered, the others' needs
    /// are seen to. Costs as much as changed, whatever is waited for.
    pub(super) fn stands_otherwise(&mut self, paths: &[StorePath], round: &mut Round) {
        for path in paths {
            if self.known.standing(path) != Standing::Held {
                self.relays.close(path);
            }
        }
        for mut waiting in std::mem::take(&mut self.relays.waiting) {
            let (mut unreached, mut is_lost) = (Vec::new(), false);
            let worker = waiting.worker;
            for path in paths {
                if !waiting.unreached.contains(path) {
                    continue;
                }
                is_lost |= matches!(self.known.standing(path), Standing::Lost | Standing::Unknown);
                if self.is_unreached(worker, path) {
                    unreached.push(path.clone());
                } else {
                    waiting.unreached.remove(path);
                }
            }
            if is_lost || waiting.unreached.is_empty() {
                self.see_to(waiting, round);
            } else {
                self.relays.waiting.push(waiting);
                self.order_shares(worker, &unreached, round);
            }
        }
    }

    /// Somebody came or is gone: who can reach whom is looked at anew.
    pub(super) fn relays_changed(&mut self, round: &mut Round) {
        self.tidy_orders();
        for waiting in std::mem::take(&mut self.relays.waiting) {
            self.see_to(waiting, round);
        }
    }

    /// Answers who waits if there is nothing more to wait for. Goes through all it asked for.
    fn see_to(&mut self, mut waiting: Waiting, round: &mut Round) {
        if waiting.reply.is_closed() {
            return;
        }
        #[cfg(test)]
        {
            self.relays.walks += 1;
        }
        let (answer, unreached) = self.whereabouts(waiting.worker, &waiting.question);
        if unreached.is_empty() || !answer.lost.is_empty() {
            return round.answer(waiting.reply, Ok(answer));
        }
        self.order_shares(waiting.worker, &unreached, round);
        waiting.unreached = unreached.into_iter().take(MAX_UNREACHED).collect();
        self.relays.waiting.push(waiting);
    }

    /// Orders whose worker is gone come to nothing; what is here needs no order.
    fn tidy_orders(&mut self) {
        let orders = self.relays.orders.iter();
        let over = orders.filter(|(_, order)| self.sessions.get(order.session).is_none());
        for share in over.map(|(share, _)| *share).collect::<Vec<_>>() {
            self.relays.forget(share);
        }
        let open = self.relays.open.keys().filter(|path| self.known.standing(path) != Standing::Held);
        for path in open.cloned().collect::<Vec<_>>() {
            self.relays.close(&path);
        }
    }

    /// Has a connected holder bring each of these, unless it is on its way.
    fn order_shares(&mut self, asker: WorkerId, paths: &[StorePath], round: &mut Round) {
        let mut by_holder: BTreeMap<Session, Vec<StorePath>> = BTreeMap::new();
        for path in paths.iter().filter(|path| !self.relays.is_coming(path)) {
            // Those of stalled orders come last.
            let holders = self.known.holders(path).filter_map(|name| self.sessions.named(name));
            let busy = |session: &Session| {
                self.relays.orders_for(path).filter(|order| order.session == *session).count()
            };
            let other = |session: &Session| self.sessions.get(*session).is_some_and(|c| c.worker != asker);
            if let Some(session) = holders.filter(other).min_by_key(|session| (busy(session), *session)) {
                by_holder.entry(session).or_default().push(path.clone());
            }
        }
        for (session, wanted) in by_holder {
            self.order_share(session, &wanted, round);
        }
    }

    fn order_share(&mut self, session: Session, wanted: &[StorePath], round: &mut Round) {
        let Some(worker) = self.sessions.get(session).map(|connected| connected.worker) else { return };
        // Whoever has a path has all it refers to; a path is kept only after that.
        let closure = self.known.closure(wanted);
        let lacking =
            |path: &&StorePath| matches!(self.known.standing(path), Standing::Held | Standing::Lost);
        let paths: Vec<StorePath> = closure.into_iter().filter(lacking).take(MAX_SHARED).cloned().collect();
        let sizes = paths.iter().filter_map(|path| self.known.info(path)).map(|(info, _)| info.nar_size);
        let size = sizes.fold(0, u64::saturating_add);
        let order = Order {
            worker,
            session,
            open: wanted.iter().cloned().collect(),
            paths: paths.iter().cloned().collect(),
            since: Instant::now(),
            patience: STALLED_AFTER + Duration::from_secs(size / SLOWEST),
            is_hung: false,
        };
        let share = self.relays.order(order);
        tracing::info!(share, session = session.0, paths = paths.len(), "a worker is asked to share");
        let paths = paths.iter().map(ToString::to_string).collect();
        round.then(Deed::Say(session, ToWorker::Share(v1::Share { share, paths })));
    }
}

/// How long an asker waits for what is brought.
pub(crate) const RELAYED_WITHIN: Duration = Duration::from_mins(2);

/// Asks again so often, for a holder may hang.
pub(crate) const ASK_AGAIN: Duration = STALLED_AFTER;
