//! Runs as clients know them: names, what was asked for, feeds. Owns the table; of runs that ended it keeps as many as
//! may be asked for again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use fleet_core::{DrvPath, Notice, RunId, SourceId};
use fleet_wire::v1;
use fleet_wire::v1::run_event::Event as Seen;

use super::Shell;
use super::round::{Deed, Round};
use crate::feed::Feed;
use crate::kept;
use crate::kept::KeptRun;
use crate::log_index::Fact;

/// Runs that ended and are remembered with all their events.
const KEPT_RUNS: usize = 64;
/// Events of ended runs that are kept; the newest run's are kept in any case.
const KEPT_EVENTS: usize = 1_000_000;

/// What a client asks for, and who it is.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) request: v1::SubmitRequest,
    /// Empty for a local user.
    pub(crate) client: String,
}

/// All runs that are remembered.
#[derive(Debug, Default)]
pub(super) struct RunTable {
    runs: BTreeMap<RunId, RunState>,
    names: HashMap<String, RunId>,
    /// Runs that ended, oldest first.
    ended: VecDeque<RunId>,
    last: u64,
}

/// One run.
#[derive(Debug)]
pub(super) struct RunState {
    /// Without manifests: what tells one request from another.
    pub(super) request: v1::SubmitRequest,
    pub(super) feed: Arc<Feed>,
    pub(super) sources: Vec<SourceId>,
    live: bool,
    /// Number of the last event, shown or about to be.
    sequence: u64,
    /// Steps of it that run now.
    building: HashSet<DrvPath>,
    /// Hash parts of the paths that watchers were told of.
    paths: HashSet<[u8; 32]>,
}

impl RunState {
    pub(super) fn new(request: v1::SubmitRequest, feed: Feed, sources: Vec<SourceId>) -> Self {
        let mut state = Self {
            request: without_manifests(request),
            feed: Arc::new(feed),
            sources,
            live: true,
            sequence: 0,
            building: HashSet::new(),
            paths: HashSet::new(),
        };
        for event in state.feed.all() {
            state.sequence = event.sequence;
            if let Some(event) = &event.event {
                state.heed(event);
            }
        }
        state
    }

    /// What follows from an event, whether it happens now or is restored.
    fn heed(&mut self, event: &Seen) {
        match event {
            Seen::StepStarted(started) => _ = self.building.insert(DrvPath::from(started.drv.as_str())),
            Seen::StepFinished(ended) => _ = self.building.remove(&DrvPath::from(ended.drv.as_str())),
            Seen::PathInfos(infos) => self.paths.extend(infos.infos.iter().filter_map(hash_part)),
            Seen::RunFinished(_) => {
                self.live = false;
                (self.building, self.paths) = (HashSet::new(), HashSet::new());
            }
            _ => {}
        }
    }

    fn name(&self) -> &str {
        &self.feed.origin().run
    }

    /// As the journal keeps it.
    pub(super) fn kept(&self, run: RunId, request: v1::SubmitRequest) -> fleet_journal::Entry {
        let origin = self.feed.origin();
        let kept = KeptRun {
            run: run.0,
            client: origin.client.clone(),
            submitted_unix_ms: origin.submitted_unix_ms,
            request: Some(request),
        };
        kept::run(&origin.run, &kept)
    }
}

impl RunTable {
    pub(super) fn next_id(&self) -> RunId {
        RunId(self.last + 1)
    }

    pub(super) fn insert(&mut self, run: RunId, state: RunState) {
        self.last = self.last.max(run.0);
        self.names.insert(state.name().to_owned(), run);
        if !state.live {
            self.ended.push_back(run);
        }
        self.runs.insert(run, state);
    }

    pub(super) fn named(&self, name: &str) -> Option<(RunId, &RunState)> {
        let run = *self.names.get(name)?;
        Some((run, self.runs.get(&run)?))
    }

    pub(super) fn name(&self, run: RunId) -> String {
        self.runs.get(&run).map_or_else(|| run.to_string(), |state| state.name().to_owned())
    }

    pub(super) fn feed(&self, run: RunId) -> Option<Arc<Feed>> {
        self.runs.get(&run).map(|state| Arc::clone(&state.feed))
    }

    /// What was asked for.
    pub(super) fn request(&self, run: RunId) -> Option<&v1::SubmitRequest> {
        self.runs.get(&run).map(|state| &state.request)
    }

    pub(super) fn live(&self) -> Vec<RunId> {
        self.runs.iter().filter(|(_, state)| state.live).map(|(run, _)| *run).collect()
    }

    /// All runs, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = (RunId, &RunState)> {
        self.runs.iter().map(|(run, state)| (*run, state))
    }

    /// Runs for which a step is being built.
    pub(super) fn building(&self, drv: &DrvPath) -> Vec<RunId> {
        let building = self.runs.iter().filter(|(_, state)| state.building.contains(drv));
        building.map(|(run, _)| *run).collect()
    }

    /// Leaves those that a run's watchers were not told of.
    pub(super) fn retain_new(
        &mut self,
        run: RunId,
        infos: &mut Vec<v1::PathInfo>,
        limit: usize,
    ) -> Result<(), &'static str> {
        let Some(state) = self.runs.get(&run) else { return Ok(()) };
        infos.retain(|info| hash_part(info).is_some_and(|hash| !state.paths.contains(&hash)));
        if state.paths.len() + infos.len() > limit { Err("infos") } else { Ok(()) }
    }

    /// Sources that live runs need.
    pub(super) fn needed_sources(&self) -> HashSet<SourceId> {
        let live = self.runs.values().filter(|state| state.live);
        live.flat_map(|state| state.sources.iter().copied()).collect()
    }

    /// Forgets the runs that ended longest ago, if there are too many; answers their names.
    pub(super) fn forget_oldest(&mut self) -> Vec<String> {
        let mut events: usize =
            self.ended.iter().filter_map(|run| self.runs.get(run)).map(|s| s.feed.len()).sum();
        let mut forgotten = Vec::new();
        while self.ended.len() > KEPT_RUNS || (self.ended.len() > 1 && events > KEPT_EVENTS) {
            let Some(old) = self.ended.pop_front().and_then(|old| self.runs.remove(&old)) else { break };
            events -= old.feed.len();
            self.names.remove(old.name());
            forgotten.push(old.name().to_owned());
        }
        forgotten
    }
}

impl Shell {
    /// Numbers an event of a run, for the journal and then for all who watch it. Nothing follows the end of a run.
    pub(super) fn tell(&mut self, run: RunId, event: Seen, round: &mut Round) {
        let Some(state) = self.runs.runs.get_mut(&run).filter(|state| state.live) else { return };
        state.heed(&event);
        state.sequence += 1;
        let event = v1::RunEvent { sequence: state.sequence, at_ms: state.feed.now_ms(), event: Some(event) };
        round.keep(kept::event(state.name(), &event));
        round.then(Deed::Show(Arc::clone(&state.feed), event));
        if !state.live {
            self.root_results(run, round);
            self.run_ended(run);
        }
    }

    pub(super) fn notify(&mut self, run: RunId, notice: &Notice, round: &mut Round) {
        match notice {
            Notice::StepFinished { drv, attempt, .. } => self.attempts.end(drv, *attempt),
            Notice::TargetSettled { target, settled } => {
                round.then(Deed::Index(Fact::settled(&self.runs.name(run), target, settled)));
            }
            _ => {}
        }
        self.tell(run, fleet_wire::to_wire::notice(notice), round);
    }

    /// Forgets what only this run needed, and the runs that ended longest ago.
    fn run_ended(&mut self, run: RunId) {
        self.runs.ended.push_back(run);
        self.realises.retain(|_, realising| realising.run != run);
        let needed = self.runs.needed_sources();
        self.sources.retain(|source, _| needed.contains(source));
        for name in self.runs.forget_oldest() {
            self.feeds.remove(&name);
        }
    }
}

/// A request as others may see it again: how its trees travelled is nobody's business.
pub(super) fn without_manifests(mut request: v1::SubmitRequest) -> v1::SubmitRequest {
    for source in [&mut request.before, &mut request.after].into_iter().flatten() {
        source.manifest = None;
        source.inputs.iter_mut().for_each(|input| input.manifest = None);
    }
    request
}

fn hash_part(info: &v1::PathInfo) -> Option<[u8; 32]> {
    info.path.as_bytes().first_chunk().copied()
}
