//! What a worker says it built, and whether that can be. Its builder could see the closures of its direct inputs and
//! its own outputs, so what an output refers to is among these.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use fleet_nix::{PathInfo, StorePath};

use crate::record::{Described, Record};
use crate::refusal::Refusal;
use crate::table::{Execution, Id, Origin, Standing, Table, agree};

/// Outputs of one execution of a derivation.
#[derive(Clone, Debug)]
pub struct Build {
    /// What they are, and whether their derivation names them: otherwise their content must.
    pub outputs: Vec<(PathInfo, Named)>,
    /// Direct inputs of the derivation.
    pub inputs: Vec<StorePath>,
    /// Paths that the derivation names for its outputs, those above or not.
    pub beside: Vec<StorePath>,
}

/// Who says that an output has this path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Its derivation.
    ByDerivation,
    /// Nothing but its content can.
    ByContent,
}

/// What came of a worker's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// To be kept, when it is news.
    pub record: Option<Record>,
    /// Outputs that somebody has with another content: those stay, and the worker has none of them.
    pub differs: Vec<StorePath>,
}

impl Table {
    pub(crate) fn hear_built(&mut self, worker: &str, build: Build) -> Result<Heard, Refusal> {
        let Build { outputs, inputs, beside } = build;
        for (info, named) in &outputs {
            let follows = info.is_content_addressed(&self.store_dir);
            if info.content_address.is_some() && !follows {
                return Err(Refusal::ContentAddress(info.path.clone()));
            }
            if *named == Named::ByContent && !follows {
                return Err(Refusal::Unnamed(info.path.clone()));
            }
        }
        let outputs: Vec<PathInfo> = outputs.into_iter().map(|(info, _)| info).collect();
        self.check_references(&outputs, &inputs, &beside)?;
        let references = outputs.iter().map(|info| info.references.len()).sum();
        self.room(inputs.len() + beside.len() + outputs.len() + references, references)?;
        let stays = |info: &PathInfo| {
            let known = self.id(&info.path).and_then(|id| Some((id, self.known(id)?)));
            known.is_some_and(|(id, known)| {
                !agree(&known.info, info) && self.standing_of(id) != Standing::Lost
            })
        };
        let (differing, news): (Vec<_>, Vec<_>) = outputs.into_iter().partition(stays);
        let differs = differing.into_iter().map(|info| info.path).collect();
        if news.iter().all(|info| self.is_built_by(info, worker)) {
            return Ok(Heard { record: None, differs });
        }
        let described = news.iter().map(Described::from).collect();
        let record = Record::Built {
            worker: worker.to_owned(),
            outputs: described,
            inputs: inputs.clone(),
            beside: beside.clone(),
        };
        self.enter_built(worker, news, &inputs, &beside);
        Ok(Heard { record: Some(record), differs })
    }

    pub(crate) fn enter_built(
        &mut self,
        worker: &str,
        outputs: Vec<PathInfo>,
        inputs: &[StorePath],
        beside: &[StorePath],
    ) {
        let own: BTreeSet<&StorePath> = outputs.iter().map(|info| &info.path).chain(beside).collect();
        let execution = Arc::new(Execution {
            inputs: inputs.iter().map(|path| self.intern(path)).collect(),
            outputs: own.into_iter().map(|path| self.intern(path)).collect(),
        });
        for info in outputs {
            let by_content = info.is_content_addressed(&self.store_dir);
            let origin = if by_content { Origin::ContentAddressed } else { Origin::Built };
            self.enter(info, origin, Some(Arc::clone(&execution)), worker);
        }
    }

    fn is_built_by(&self, info: &PathInfo, worker: &str) -> bool {
        let known = self.id(&info.path).and_then(|id| self.known(id));
        known.is_some_and(|known| {
            agree(&known.info, info) && known.execution.is_some() && self.has_holder(known, worker)
        })
    }

    /// Walks the inputs' closures only as far as it must: most references are inputs themselves.
    fn check_references(
        &self,
        outputs: &[PathInfo],
        inputs: &[StorePath],
        beside: &[StorePath],
    ) -> Result<(), Refusal> {
        let mut wanted: HashSet<&StorePath> = outputs.iter().flat_map(|info| &info.references).collect();
        for own in outputs.iter().map(|info| &info.path).chain(inputs).chain(beside) {
            wanted.remove(own);
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut unknown = None;
        let mut seen: HashSet<Id> = HashSet::new();
        let mut ahead: Vec<Id> = Vec::new();
        for input in inputs {
            match self.id(input) {
                Some(id) if seen.insert(id) => ahead.push(id),
                Some(_) => {}
                None => unknown = unknown.or_else(|| Some(input.clone())),
            }
        }
        while let Some(id) = ahead.pop() {
            let Some(known) = self.known(id) else {
                unknown = unknown.or_else(|| Some(self.path(id).clone()));
                continue;
            };
            for reference in &known.references {
                if seen.insert(*reference) {
                    wanted.remove(self.path(*reference));
                    ahead.push(*reference);
                }
            }
            if wanted.is_empty() {
                return Ok(());
            }
        }
        // The least, so that one fault is always told alike.
        let Some(reference) = wanted.into_iter().min().cloned() else { return Ok(()) };
        let refers = outputs.iter().find(|info| info.references.contains(&reference));
        let path = refers.map_or_else(|| reference.clone(), |info| info.path.clone());
        Err(match unknown {
            Some(unknown) => Refusal::UnknownInput { path, reference, unknown },
            None => Refusal::ForeignReference { path, reference },
        })
    }
}
