//! Every derivation workers have sent: checked, kept as bytes, resolved when leased. Owns no files. A worker
//! cannot pass off one derivation as another: the path is recomputed from the bytes and references.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use fleet_core::{DrvPath, LeasedStep, NewStep, OutputPath};
use fleet_nix::derivation::{Derivation, DerivationError, DerivationKind, derivation_path};
use fleet_nix::store_path::{OutputName, StoreDir, StorePath, StorePathError};
use fleet_wire::v1;
use thiserror::Error;

use crate::config::StepLimits;

/// Why a derivation is refused or cannot be leased.
#[derive(Debug, Error)]
pub(crate) enum DerivationsError {
    #[error("{0} is not a store path")]
    Path(String, #[source] StorePathError),
    #[error("derivation {0} cannot be parsed")]
    Parse(String, #[source] DerivationError),
    #[error("derivation {claimed} is really {actual}")]
    Forged { claimed: String, actual: String },
    #[error("the references of derivation {0} are not its inputs")]
    References(String),
    #[error("derivation {0} was never sent")]
    Unknown(String),
    #[error("derivation {0} has an input whose path is not known")]
    Unresolved(String, #[source] DerivationError),
}

/// Every derivation sent so far.
#[derive(Debug, Default)]
pub(crate) struct Derivations {
    store_dir: StoreDir,
    known: HashMap<DrvPath, Bytes>,
    /// Outputs of known derivations and of those inputs that need no building.
    outputs: HashMap<StorePath, HashMap<OutputName, StorePath>>,
    /// Definitions the core has not been told yet.
    news: HashMap<DrvPath, NewStep>,
}

impl Derivations {
    /// Checks and keeps what a worker sent.
    pub(crate) fn learn(&mut self, sent: v1::Derivation) -> Result<(), DerivationsError> {
        let path = store_path(&sent.drv)?;
        let references = sent.references.iter().map(|r| store_path(r)).collect::<Result<BTreeSet<_>, _>>()?;
        let derivation = self.parse(&path, &sent.aterm)?;
        let actual = derivation_path(&self.store_dir, &derivation.name, &sent.aterm, &references)
            .map_err(|error| DerivationsError::Path(sent.drv.clone(), error))?;
        if actual != path {
            return Err(DerivationsError::Forged { claimed: sent.drv, actual: actual.to_string() });
        }
        if derivation.references() != references {
            return Err(DerivationsError::References(sent.drv));
        }
        for input in sent.inputs {
            let (drv, output) = (store_path(&input.drv)?, store_path(&input.output)?);
            self.outputs.entry(drv).or_default().insert(output_name(&input.output_name)?, output);
        }
        let own =
            derivation.outputs.keys().filter_map(|n| Some((n.clone(), derivation.output_path(n)?.clone())));
        self.outputs.entry(path).or_default().extend(own.collect::<Vec<_>>());
        let drv = DrvPath::from(sent.drv);
        if !self.known.contains_key(&drv) {
            self.news.insert(drv.clone(), new_step(&drv, &derivation)?);
            self.known.insert(drv, sent.aterm);
        }
        Ok(())
    }

    /// A floating output's path, once built.
    pub(crate) fn realised(&mut self, drv: &DrvPath, outputs: &[(Arc<str>, OutputPath)]) {
        let Ok(drv) = store_path(drv.as_str()) else { return };
        let paths = outputs
            .iter()
            .filter_map(|(name, path)| Some((name.parse().ok()?, store_path(path.as_str()).ok()?)));
        self.outputs.entry(drv).or_default().extend(paths.collect::<Vec<_>>());
    }

    /// Definitions of those of `wanted` that the core does not know, each once.
    pub(crate) fn take_news(&mut self, wanted: &[DrvPath]) -> Result<Vec<NewStep>, DerivationsError> {
        if let Some(unknown) = wanted.iter().find(|drv| !self.known.contains_key(*drv)) {
            return Err(DerivationsError::Unknown(unknown.to_string()));
        }
        Ok(wanted.iter().filter_map(|drv| self.news.remove(drv)).collect())
    }

    /// What a worker needs to execute a step.
    pub(crate) fn work(
        &self,
        step: &LeasedStep,
        limits: StepLimits,
    ) -> Result<v1::StepWork, DerivationsError> {
        let name = step.drv.to_string();
        let path = store_path(&name)?;
        let aterm = self.known.get(&step.drv).ok_or_else(|| DerivationsError::Unknown(name.clone()))?;
        let derivation = self.parse(&path, aterm)?;
        let lookup = |drv: &StorePath, output: &OutputName| self.outputs.get(drv)?.get(output).cloned();
        let basic = derivation
            .resolve(&self.store_dir, lookup)
            .map_err(|e| DerivationsError::Unresolved(name.clone(), e))?;
        let floats = derivation.outputs.keys().any(|output| derivation.output_path(output).is_none());
        Ok(v1::StepWork {
            drv: name,
            attempt: step.attempt,
            inputs: basic.input_srcs.iter().map(ToString::to_string).collect(),
            basic_derivation: if floats { Bytes::new() } else { basic.to_aterm(&self.store_dir).into() },
            output_names: derivation.outputs.keys().map(ToString::to_string).collect(),
            timeout_s: limits.timeout_s,
            max_silent_s: limits.max_silent_s,
            max_log_bytes: limits.max_log_bytes,
        })
    }

    /// Fills in what the deriver says about a path.
    pub(crate) fn identify(&self, info: &mut v1::PathInfo) {
        let Ok(path) = store_path(&info.deriver) else {
            return;
        };
        let Some(aterm) = self.known.get(&DrvPath::from(info.deriver.as_str())) else {
            return;
        };
        let Ok(derivation) = self.parse(&path, aterm) else {
            return;
        };
        let own =
            |output: &&OutputName| derivation.output_path(output).is_some_and(|p| p.to_string() == info.path);
        let Some(output) = derivation.outputs.keys().find(own) else {
            return;
        };
        let Ok(attributes) = derivation.attributes() else { return };
        // Only what the derivation says itself; what a name means is the diff's to decide.
        if let (Some(pname), Some(version)) = (attributes.string("pname"), attributes.string("version")) {
            (info.pname, info.version) = (pname, version);
            info.output = output.to_string();
        }
    }

    fn parse(&self, path: &StorePath, aterm: &[u8]) -> Result<Derivation, DerivationsError> {
        let name = path.derivation_name().unwrap_or(path.name());
        Derivation::parse(&self.store_dir, name, aterm)
            .map_err(|e| DerivationsError::Parse(path.to_string(), e))
    }
}

fn store_path(base_name: &str) -> Result<StorePath, DerivationsError> {
    base_name.parse().map_err(|error| DerivationsError::Path(base_name.to_owned(), error))
}

fn output_name(name: &str) -> Result<OutputName, DerivationsError> {
    name.parse().map_err(|error| DerivationsError::Path(name.to_owned(), error))
}

fn new_step(drv: &DrvPath, derivation: &Derivation) -> Result<NewStep, DerivationsError> {
    let refused = |error| DerivationsError::Parse(drv.to_string(), error);
    let attributes = derivation.attributes().map_err(refused)?;
    let paths = derivation.outputs.keys().map(|name| derivation.output_path(name));
    let outputs = paths.map(|path| path.map(|path| OutputPath::from(path.as_str()))).collect::<Option<_>>();
    Ok(NewStep {
        drv: drv.clone(),
        name: derivation.name.as_str().into(),
        outputs: outputs.unwrap_or_default(),
        system: derivation.system.as_str().into(),
        features: attributes.required_system_features().into_iter().map(Into::into).collect(),
        inputs: derivation.input_drvs.keys().map(|input| input.as_str().into()).collect(),
        fixed_output: derivation.kind().map_err(refused)? == DerivationKind::Fixed,
        prefer_local: attributes.prefer_local_build(),
    })
}
