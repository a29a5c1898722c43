//! What keeps store paths from being collected: pins, ended runs, and what live runs need. The lists decide about
//! themselves; here they are kept, and told to the collector.

use std::time::{SystemTime, UNIX_EPOCH};

use fleet_core::{RunId, Side};
use fleet_nix::StorePath;
use fleet_paths::Standing;
use fleet_paths::roots::{Retention, Root, RootRecord};
use fleet_store::Digest;
use fleet_wire::v1;
use tonic::Status;

use super::round::Round;
use super::{Reply, Shell};
use crate::kept;
use crate::rpc::status;

/// What services and the collector ask of roots.
#[derive(Debug)]
pub(crate) enum RootsInput {
    /// Keep this, under a name; an empty one is chosen.
    Pin(PinWhat, String, Reply<Root>),
    /// Keep it no more.
    Unpin(String, Reply<()>),
    /// All roots, pins first; true for a pin.
    List(Reply<Vec<(bool, Root)>>),
    /// How many roots there are, and paths that upstream caches serve.
    Count(Reply<(u64, u64)>),
    /// What is needed now, after the retention let go what it does not want.
    Needed(Retention, Reply<Needed>),
}

/// What is to be pinned.
#[derive(Debug)]
pub(crate) enum PinWhat {
    /// The results of this run.
    Run(String),
    /// One path.
    Path(StorePath),
}

/// What must not be collected.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// With all they refer to.
    pub(crate) paths: Vec<StorePath>,
    /// Chunks of the sources of live runs.
    pub(crate) chunks: Vec<Digest>,
}

impl Shell {
    pub(super) fn roots_asked(&mut self, input: RootsInput, round: &mut Round) {
        match input {
            RootsInput::Pin(what, name, reply) => {
                let pinned = self.pin(what, name, round);
                round.answer(reply, pinned);
            }
            RootsInput::Unpin(name, reply) => {
                let unpinned = self.roots.unpin(&name).map_err(|refusal| status::pin(&refusal));
                let unpinned = unpinned.map(|record| self.rooted(record, round));
                round.answer(reply, unpinned);
            }
            RootsInput::List(reply) => {
                let pins = self.roots.pins().map(|pin| (true, pin.clone()));
                let all = pins.chain(self.roots.runs().map(|run| (false, run.clone()))).collect();
                round.answer(reply, Ok(all));
            }
            RootsInput::Count(reply) => {
                let roots = self.roots.pins().count() + self.roots.runs().count();
                round.answer(reply, Ok((roots as u64, self.known.upstream() as u64)));
            }
            RootsInput::Needed(retention, reply) => {
                if let Some(record) = self.roots.release(retention, unix_now()) {
                    self.rooted(record, round);
                }
                let needed = self.needed();
                round.answer(reply, Ok(needed));
            }
        }
    }

    /// A run has ended: what came of it is kept as long as the retention wants.
    pub(super) fn root_results(&mut self, run: RunId, round: &mut Round) {
        let paths = self.results(run);
        if paths.is_empty() {
            return;
        }
        let branch = self.runs.request(run).map(|request| request.branch.clone()).unwrap_or_default();
        let root = Root { name: self.runs.name(run), branch, since: unix_now(), paths };
        self.rooted(RootRecord::Ended(root), round);
    }

    fn pin(&mut self, what: PinWhat, name: String, round: &mut Round) -> Result<Root, Status> {
        let (known_as, paths) = match what {
            PinWhat::Path(path) => {
                if self.known.standing(&path) != Standing::Kept {
                    return Err(status::not_kept(&path));
                }
                (path.to_string(), vec![path])
            }
            PinWhat::Run(run) => {
                let live = || self.runs.named(&run).map(|(id, _)| self.results(id));
                let paths = self.roots.run(&run).map(|root| root.paths.clone()).or_else(live);
                let mut paths = paths.ok_or_else(|| status::unknown_run(&run))?;
                paths.retain(|path| self.known.standing(path) == Standing::Kept);
                if paths.is_empty() {
                    return Err(status::nothing_to_pin(&run));
                }
                (run, paths)
            }
        };
        let name = if name.is_empty() { known_as } else { name };
        let root = Root { name, branch: String::new(), since: unix_now(), paths };
        match self.roots.pin(root.clone()) {
            Ok(record) => {
                if let Some(record) = record {
                    self.rooted(record, round);
                }
                Ok(root)
            }
            Err(refusal) => Err(status::pin(&refusal)),
        }
    }

    fn rooted(&mut self, record: RootRecord, round: &mut Round) {
        round.keep(kept::root(&record));
        self.roots.apply(record);
    }

    /// Toplevels of a run's changed side, as far as they are known.
    fn results(&self, run: RunId) -> Vec<StorePath> {
        let view = self.fleet.run_view(run);
        let targets = view.into_iter().flat_map(|view| view.targets);
        let after = targets.filter(|target| target.target.side == Side::After && target.failure.is_none());
        let mut paths: Vec<StorePath> =
            after.filter_map(|target| target.toplevel?.as_str().parse().ok()).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    fn needed(&self) -> Needed {
        let live = self.runs.live().into_iter().filter_map(|run| self.fleet.run_view(run));
        let toplevels = live.flat_map(|view| view.targets).filter_map(|target| target.toplevel);
        let toplevels: Vec<StorePath> = toplevels.filter_map(|path| path.as_str().parse().ok()).collect();
        // Their parts may be here before they are.
        let mut paths: Vec<StorePath> = self.known.closure(&toplevels).into_iter().cloned().collect();
        paths.extend(toplevels);
        paths.extend(self.roots.paths().cloned());
        let chunks = self.sources.values().flat_map(source_chunks).collect();
        Needed { paths, chunks }
    }
}

/// Chunks of a source and of the inputs that come along with it.
pub(crate) fn source_chunks(source: &v1::Source) -> impl Iterator<Item = Digest> {
    let inputs = source.inputs.iter().filter_map(|input| input.manifest.as_ref());
    let manifests = source.manifest.iter().chain(inputs);
    manifests.flat_map(|manifest| &manifest.chunks).filter_map(|chunk| Digest::try_from(&*chunk.digest).ok())
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
