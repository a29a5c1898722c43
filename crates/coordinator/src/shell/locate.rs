//! Where paths can be had, for one asker: holders that it can reach, or the coordinator itself. Decides nothing that
//! lasts but who cannot reach whom.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_core::WorkerId;
use fleet_nix::{PathInfo, StorePath};
use fleet_paths::{Depth, Place, Standing, Whereabouts};
use tokio::time::Instant;
use tonic::Status;

use super::{Asking, Shell};

/// Holders that are named for one path: more are of no use to a receiver.
const MAX_HOLDERS: usize = 4;
/// How long it is remembered that one worker cannot reach another.
const UNREACHABLE_FOR: Duration = Duration::from_mins(10);
/// Pairs of which that is remembered.
const MAX_PAIRS: usize = 65_536;

/// What somebody wants to know.
#[derive(Clone, Debug)]
pub(crate) struct LocateQuestion {
    pub(crate) asking: Asking,
    pub(crate) paths: Vec<StorePath>,
    pub(crate) depth: Depth,
    /// Workers that cannot be reached from there.
    pub(crate) unreachable: Vec<String>,
    /// Whether to wait until what cannot be reached is here.
    pub(crate) relay: bool,
}

/// The answer, not signed yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocateAnswer {
    /// Who asks, by name.
    pub(crate) receiver: Arc<str>,
    /// Names and addresses.
    pub(crate) holders: Vec<(Arc<str>, Arc<[String]>)>,
    /// Each after what it refers to.
    pub(crate) found: Vec<Found>,
    /// Paths that nobody has.
    pub(crate) lost: Vec<StorePath>,
}

/// Where one path is.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) info: Arc<PathInfo>,
    pub(crate) standing: Standing,
    /// Positions among the holders.
    pub(crate) holders: Vec<u32>,
}

/// Who cannot reach whom, for a while.
#[derive(Debug, Default)]
pub(super) struct Unreachable(HashMap<(Arc<str>, Arc<str>), Instant>);

impl Unreachable {
    pub(super) fn note(&mut self, from: &Arc<str>, to: &str) {
        let now = Instant::now();
        if self.0.len() >= MAX_PAIRS {
            self.0.retain(|_, noted| now.duration_since(*noted) < UNREACHABLE_FOR);
        }
        if self.0.len() < MAX_PAIRS {
            self.0.insert((Arc::clone(from), to.into()), now);
        }
    }

    fn holds(&self, from: &Arc<str>, to: &Arc<str>) -> bool {
        let noted = self.0.get(&(Arc::clone(from), Arc::clone(to)));
        noted.is_some_and(|noted| noted.elapsed() < UNREACHABLE_FOR)
    }
}

impl Shell {
    /// Refuses what the asker may not read; remembers whom it cannot reach.
    pub(super) fn check_question(&mut self, question: &LocateQuestion) -> Result<WorkerId, Status> {
        let worker = self.entitled(&question.asking)?;
        self.may_read(worker, question.asking.right, &question.paths)?;
        let name = self.name_of(worker);
        for unreachable in &question.unreachable {
            // Of others than workers nothing is remembered.
            if self.fleet.worker_view(self.fleet.worker_named(unreachable)).is_some() {
                self.unreachable.note(&name, unreachable);
            }
        }
        Ok(worker)
    }

    /// The answer as things stand, and the paths that somebody has whom the asker cannot reach.
    pub(super) fn whereabouts(
        &self,
        worker: WorkerId,
        question: &LocateQuestion,
    ) -> (LocateAnswer, Vec<StorePath>) {
        let receiver = self.name_of(worker);
        let Whereabouts { places, lost } = self.known.locate(&question.paths, question.depth);
        let mut answer = LocateAnswer { receiver, lost, ..LocateAnswer::default() };
        let mut positions: HashMap<Arc<str>, Option<u32>> = HashMap::new();
        let mut unreached = Vec::new();
        for Place { info, standing, holders } in places {
            let mut reached = Vec::new();
            let own = holders.contains(&answer.receiver);
            for holder in &holders {
                if reached.len() == MAX_HOLDERS {
                    break;
                }
                let position = positions.entry(Arc::clone(holder)).or_insert_with(|| {
                    let addresses = self.addresses(&answer.receiver, holder)?;
                    answer.holders.push((Arc::clone(holder), addresses));
                    u32::try_from(answer.holders.len() - 1).ok()
                });
                reached.extend(*position);
            }
            // Whoever has it itself does not fetch it.
            if standing == Standing::Held && reached.is_empty() && !own {
                unreached.push(info.path.clone());
            }
            answer.found.push(Found { info, standing, holders: reached });
        }
        (answer, unreached)
    }

    /// Whether somebody has a path whom the asker cannot reach, and nobody else has it.
    pub(super) fn is_unreached(&self, worker: WorkerId, path: &StorePath) -> bool {
        let asker = self.name_of(worker);
        let has = |holder: &Arc<str>| *holder == asker || self.addresses(&asker, holder).is_some();
        self.known.standing(path) == Standing::Held && !self.known.holders(path).any(has)
    }

    /// Where a worker is to be reached from another, if it is.
    fn addresses(&self, from: &Arc<str>, holder: &Arc<str>) -> Option<Arc<[String]>> {
        if from == holder || self.unreachable.holds(from, holder) {
            return None;
        }
        let addresses = self.sessions.get(self.sessions.named(holder)?)?.addresses();
        (!addresses.is_empty()).then(|| Arc::clone(addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_cannot_reach_whom_is_forgotten_after_a_while_and_is_not_remembered_without_bound() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut unreachable = Unreachable::default();
        unreachable.note(&a, &b);
        assert!(unreachable.holds(&a, &b) && !unreachable.holds(&b, &a));
        tokio::time::advance(UNREACHABLE_FOR).await;
        assert!(!unreachable.holds(&a, &b));
        for number in 0..MAX_PAIRS + 10 {
            unreachable.note(&a, &number.to_string());
        }
        assert_eq!(unreachable.0.len(), MAX_PAIRS, "the oldest made room, then nothing more is noted");
    }
}
