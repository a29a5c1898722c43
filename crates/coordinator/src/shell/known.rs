//! What is said of store paths, and what is believed of it: reports of builders, vouchers, who has what. The table
//! decides; here it is kept, and told to whoever waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fleet_core::view::{WorkerState, WorkerView};
use fleet_core::{DrvPath, LeaseId, WorkerId};
use fleet_nix::{PathInfo, StorePath};
use fleet_paths::{Build, Named, Record, Refusal, Standing};
use fleet_wire::v1;
use tonic::Status;

use super::round::Round;
use super::{Asking, Input, Right, Shell};
use crate::derivations::Execution;
use crate::infos;
use crate::kept;
use crate::paths::Expected;
use crate::rpc::status;

/// Paths that are known at a time.
pub(super) const MAX_KNOWN: usize = 1 << 21;
/// Paths in one message of who has what.
const MAX_HELD: usize = 65_536;

/// Notes what the table learnt.
pub(super) fn learnt(record: Option<Record>, round: &mut Round) {
    if let Some(record) = record {
        round.keep(kept::path(&record));
    }
}

impl Shell {
    pub(super) fn look(&self, paths: &[StorePath]) -> Vec<Standing> {
        paths.iter().map(|path| self.known.standing(path)).collect()
    }

    /// A worker tells of paths that nobody built here.
    pub(super) fn vouch(
        &mut self,
        asking: &Asking,
        infos: Vec<PathInfo>,
        round: &mut Round,
    ) -> Result<Vec<Standing>, Status> {
        let name = self.name_of(self.entitled(asking)?);
        let mut standings = Vec::with_capacity(infos.len());
        let paths: Vec<_> = infos.iter().map(|info| info.path.clone()).collect();
        for (info, path) in infos.into_iter().zip(&paths) {
            let standing = match self.known.vouch(&name, nameless(info), &self.settings.upstream_keys) {
                Ok(record) => {
                    learnt(record, round);
                    self.known.standing(path)
                }
                Err(refusal) => {
                    tracing::debug!(worker = %name, %refusal, "not vouched for");
                    Standing::Unknown
                }
            };
            standings.push(standing);
        }
        self.stands_otherwise(&paths, round);
        Ok(standings)
    }

    /// A worker has built these. What it says must be what its step can make.
    pub(super) fn hear_built(
        &mut self,
        worker: WorkerId,
        drv: &DrvPath,
        outputs: &[v1::BuiltOutput],
        round: &mut Round,
    ) -> Result<(), ReportRefused> {
        if !self.settings.upload_outputs {
            return Ok(());
        }
        let execution =
            self.derivations.execution(drv).map_err(|error| ReportRefused::Form(error.to_string()))?;
        let mut infos = Vec::with_capacity(outputs.len());
        for output in outputs {
            let path = infos::store_path(&output.path).map_err(|e| ReportRefused::Form(e.to_string()))?;
            let Some(info) = &output.info else {
                if self.known.standing(&path) == Standing::Kept {
                    self.check_known(&execution, &path)?;
                    continue;
                }
                return Err(ReportRefused::Form(format!("the report says nothing of {path}")));
            };
            let info = infos::from_wire(info).map_err(|e| ReportRefused::Form(e.to_string()))?;
            if info.path != path {
                return Err(ReportRefused::Form(format!("the info of {path} is of {}", info.path)));
            }
            infos.push(info);
        }
        self.believe(worker, execution, infos, round)
    }

    /// Of what is here already nothing need be said, but that it is an output of the step.
    fn check_known(&self, execution: &Execution, path: &StorePath) -> Result<(), ReportRefused> {
        let may = match execution.makes(path) {
            Some(Named::ByDerivation) => true,
            Some(Named::ByContent) => self.known.info(path).is_some_and(|(_, origin)| origin.is_by_content()),
            None => false,
        };
        if may { Ok(()) } else { Err(ReportRefused::Form(format!("{path} is no output of the step"))) }
    }

    /// What a report says of outputs is heard before the core hears that they are there. A report that cannot be true
    /// is one of a failure: elsewhere the step may succeed, and who says such things again gets no more work.
    pub(super) fn hear_report(
        &mut self,
        worker: WorkerId,
        drv: &DrvPath,
        report: &mut v1::StepReported,
        round: &mut Round,
    ) {
        let Err(refused) = self.hear_built(worker, drv, &report.outputs, round) else { return };
        let name = self.name_of(worker);
        tracing::warn!(worker = %name, %drv, "a report is not believed: {refused}");
        let class = if refused.is_honest() {
            v1::OutcomeClass::OutputRejected
        } else {
            v1::OutcomeClass::Infrastructure
        };
        report.set_outcome(class);
        report.outputs.clear();
        report.message = format!("what {name} says it built is refused: {refused}");
    }

    /// Outputs of one execution.
    pub(super) fn believe(
        &mut self,
        worker: WorkerId,
        execution: Execution,
        infos: Vec<PathInfo>,
        round: &mut Round,
    ) -> Result<(), ReportRefused> {
        let name = self.name_of(worker);
        let mut outputs = Vec::with_capacity(infos.len());
        for info in infos {
            let named = execution.makes(&info.path);
            let named = named
                .ok_or_else(|| ReportRefused::Form(format!("{} is no output of the step", info.path)))?;
            // Not by the worker's word: its derivation says more of it later.
            outputs.push((PathInfo { deriver: Some(execution.drv.clone()), ..info }, named));
        }
        if outputs.is_empty() {
            return Ok(());
        }
        let beside = execution.outputs.into_iter().flatten().collect();
        let paths: Vec<_> = outputs.iter().map(|(info, _)| info.path.clone()).collect();
        let build = Build { outputs, inputs: execution.inputs, beside };
        let heard = self.known.built(&name, build).map_err(ReportRefused::Table)?;
        learnt(heard.record, round);
        for path in &heard.differs {
            tracing::warn!(worker = %name, %path, "built again with another content: not reproducible; the first stays");
        }
        self.stands_otherwise(&paths, round);
        Ok(())
    }

    /// A worker has fetched these.
    pub(super) fn paths_held(
        &mut self,
        worker: WorkerId,
        said: &v1::PathsHeld,
        round: &mut Round,
    ) -> Result<(), Status> {
        let paths = held(&said.paths)?;
        let record = self.known.held(&self.name_of(worker), &paths);
        if record.is_some() {
            learnt(record, round);
            self.stands_otherwise(&paths, round);
        }
        Ok(())
    }

    /// A worker has these no more.
    pub(super) fn paths_lost(
        &mut self,
        worker: WorkerId,
        said: &v1::PathsLost,
        round: &mut Round,
    ) -> Result<(), Status> {
        let paths = held(&said.paths)?;
        let record = self.known.lost(&self.name_of(worker), &paths);
        if record.is_some() {
            learnt(record, round);
        }
        self.relays.answered(worker, &paths);
        self.stands_otherwise(&paths, round);
        Ok(())
    }

    /// A worker will not come back.
    pub(super) fn forget_holder(&mut self, name: &str, round: &mut Round) {
        let record = self.known.worker_gone(name);
        if record.is_some() {
            learnt(record, round);
            self.relays_changed(round);
        }
    }

    /// A worker for which nothing waits any more is not waited for as a holder.
    pub(super) fn forget_holder_if_gone(&mut self, worker: WorkerId, round: &mut Round) {
        let Some(view) = self.fleet.worker_view(worker) else { return };
        if matches!(view.state, WorkerState::Gone | WorkerState::Revoked) {
            self.forget_holder(&view.name, round);
        }
    }

    /// Holders that the core does not expect back, after a restart.
    pub(super) fn forget_strangers(&mut self, round: &mut Round) {
        let returns = |view: &WorkerView| !matches!(view.state, WorkerState::Gone | WorkerState::Revoked);
        let expected: BTreeSet<_> = self.fleet.worker_views().filter(returns).map(|view| view.name).collect();
        let strangers: Vec<_> =
            self.known.holder_names().filter(|name| !expected.contains(*name)).cloned().collect();
        for name in strangers {
            self.forget_holder(&name, round);
        }
    }

    /// The bytes of a path are here, or are no more.
    pub(super) fn set_kept(&mut self, path: &StorePath, here: bool, round: &mut Round) {
        let record = if here { self.known.kept(path) } else { self.known.forgotten(path) };
        if record.is_some() {
            learnt(record, round);
            self.stands_otherwise(std::slice::from_ref(path), round);
        }
    }

    /// What the services ask of paths.
    pub(super) fn asked(&mut self, input: Input, round: &mut Round) {
        match input {
            Input::Look(paths, reply) => round.answer(reply, Ok(self.look(&paths))),
            Input::Vouch(asking, infos, reply) => {
                let standings = self.vouch(&asking, infos, round);
                round.answer(reply, standings);
            }
            Input::Locate(question, reply) => self.locate(*question, reply, round),
            Input::MayKeep(asking, info, reply) => {
                let admission = self.may_keep(&asking, &info, round);
                round.answer(reply, admission);
            }
            Input::MayRead(asking, paths, digests, reply) => {
                round.answer(reply, self.may_fetch(&asking, &paths, &digests));
            }
            Input::Kept(path, here, reply) => {
                self.set_kept(&path, here, round);
                round.answer(reply, Ok(()));
            }
            Input::Published(published) => self.published(*published, round),
            Input::Roots(input) => self.roots_asked(input, round),
            // The others are taken elsewhere.
            _ => {}
        }
    }

    /// Whether a path may be brought, and what it may name.
    pub(super) fn may_keep(
        &mut self,
        asking: &Asking,
        info: &PathInfo,
        round: &mut Round,
    ) -> Result<Expected, Status> {
        let worker = self.entitled(asking)?;
        let path = info.path.clone();
        match asking.right {
            Right::Lease(id, _) => {
                let execution = self.execution_of(id, &path)?;
                self.believe(worker, execution, vec![info.clone()], round)
                    .map_err(|refused| status::refused(&refused))?;
            }
            Right::Eval(..) => {
                let name = self.name_of(worker);
                let info = nameless(info.clone());
                let record = self.known.vouch(&name, info, &self.settings.upstream_keys);
                learnt(record.map_err(|refusal| status::refused(&refusal))?, round);
            }
            Right::Realise(..) => self.may_read(worker, asking.right, std::slice::from_ref(&path))?,
            Right::Share(id) => {
                if !self.relays.names(id, &path) {
                    return Err(status::no_right(&format!("{path} was not asked for")));
                }
            }
        }
        let (known, _) = self.known.info(&path).ok_or_else(|| status::unheard_of(&path))?;
        let same = (known.nar_hash, known.nar_size, &known.references)
            == (info.nar_hash, info.nar_size, &info.references);
        if !same {
            return Err(status::differs(&path));
        }
        if self.known.standing(&path) == Standing::Upstream {
            return Err(status::comes_from_upstream(&path));
        }
        let upstream = |reference: &&StorePath| self.known.standing(reference) == Standing::Upstream;
        let upstream = info.references.iter().filter(upstream).cloned().collect();
        let candidates = self.known.scan_candidates(&path).unwrap_or_default();
        let known = self.known.info(&path).map(|(known, _)| Arc::clone(known));
        let deriver = known.as_ref().and_then(|known| known.deriver.as_ref());
        let discards = deriver.is_some_and(|drv| self.derivations.discards_references(drv, &path));
        Ok(Expected { known, candidates, upstream, discards })
    }

    /// The execution of the lease's open step that makes a path.
    fn execution_of(&self, lease: LeaseId, path: &StorePath) -> Result<Execution, Status> {
        let lease = self.fleet.lease_view(lease);
        let steps = lease.into_iter().flat_map(|lease| lease.steps);
        let mut executions = steps.filter_map(|step| self.derivations.execution(&step.drv).ok());
        let made = executions.find(|execution| execution.makes(path).is_some());
        made.ok_or_else(|| status::no_right(&format!("{path} is no output of an open step of this lease")))
    }

    /// A worker's name, by which the table knows it.
    pub(super) fn name_of(&self, worker: WorkerId) -> Arc<str> {
        self.fleet.worker_view(worker).map_or_else(|| "".into(), |view| view.name)
    }

    /// Inputs that a worker may fetch ahead, with its right.
    pub(super) fn prefetch(
        &mut self,
        worker: WorkerId,
        drv: &DrvPath,
        lease: LeaseId,
    ) -> Option<Vec<String>> {
        // Where nothing is shared, there is nobody to fetch it from.
        let execution = self.derivations.execution(drv).ok().filter(|_| self.settings.upload_outputs)?;
        self.hints.retain(|_, (lease, _)| self.fleet.lease_view(*lease).is_some());
        self.hints.insert(worker, (lease, drv.clone()));
        Some(execution.inputs.iter().map(ToString::to_string).collect())
    }
}

/// Without what nothing proves: who made a path is known where it was made by a lease.
fn nameless(info: PathInfo) -> PathInfo {
    PathInfo { deriver: None, ..info }
}

/// Why a report is not believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportRefused {
    /// It does not say what its step can make.
    #[error("{0}")]
    Form(String),
    /// What it says cannot be.
    #[error(transparent)]
    Table(Refusal),
}

impl ReportRefused {
    /// Whether an honest worker could have said it.
    pub(super) fn is_honest(&self) -> bool {
        matches!(self, Self::Table(Refusal::UnknownInput { .. } | Refusal::Full(_)))
    }
}

fn held(paths: &[String]) -> Result<Vec<StorePath>, Status> {
    if paths.len() > MAX_HELD {
        return Err(Status::invalid_argument(format!("at most {MAX_HELD} paths a message")));
    }
    infos::store_paths(paths).map_err(|error| status::refused(&error))
}

/// Next steps of workers: a lease that each has, and the step it will probably be given.
pub(super) type Hints = BTreeMap<WorkerId, (LeaseId, DrvPath)>;
