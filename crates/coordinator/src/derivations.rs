//! Every derivation workers have sent: checked, kept as bytes, resolved when leased. Owns no files. A worker
//! cannot pass off one derivation as another: the path is recomputed from the bytes and references.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use fleet_core::{DrvPath, LeasedStep, NewStep, OutputPath};
use fleet_nix::derivation::{Derivation, DerivationError, DerivationKind, derivation_path};
use fleet_nix::store_path::{OutputName, StoreDir, StorePath, StorePathError};
use fleet_wire::v1;
use thiserror::Error;

/// Bytes of derivations that are kept; more are as if they were never sent.
pub(crate) const MAX_BYTES: usize = 2 << 30;

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
    #[error("there is no room for derivation {drv}: {limit} bytes of derivations are kept already")]
    Full { drv: String, limit: usize },
    #[error("derivation {0} has an input whose path is not known")]
    Unresolved(String, #[source] DerivationError),
}

/// Where an output is.
#[derive(Debug)]
enum Output {
    /// Its derivation says so.
    Fixed(StorePath),
    /// A worker says so.
    Said(StorePath),
}

/// What a builder sees and makes.
#[derive(Debug)]
pub(crate) struct Execution {
    /// The derivation.
    pub(crate) drv: StorePath,
    /// Store paths that it is given; it sees their closures.
    pub(crate) inputs: Vec<StorePath>,
    /// Paths that its derivation names; none for outputs that float.
    pub(crate) outputs: Vec<Option<StorePath>>,
    /// Whether it names them by what they are to contain: then the builder's word is not enough.
    pub(crate) fixed: bool,
    /// Names of the paths of those.
    pub(crate) floating: Vec<String>,
}

impl Execution {
    /// Whether it can make this path, and who says that it has this name.
    pub(crate) fn makes(&self, path: &StorePath) -> Option<fleet_paths::Named> {
        if self.outputs.iter().flatten().any(|output| output == path) {
            let named =
                if self.fixed { fleet_paths::Named::ByContent } else { fleet_paths::Named::ByDerivation };
            return Some(named);
        }
        let floats = self.floating.iter().any(|name| name == path.name());
        floats.then_some(fleet_paths::Named::ByContent)
    }
}

/// Every derivation sent so far.
#[derive(Debug)]
pub(crate) struct Derivations {
    store_dir: StoreDir,
    known: HashMap<DrvPath, Bytes>,
    bytes: usize,
    limit: usize,
    full: bool,
    /// Outputs of derivations that were looked at, and of those inputs that need no building.
    outputs: HashMap<StorePath, HashMap<OutputName, Output>>,
    /// Those whose definitions the history of the core does not hold.
    untold: HashSet<DrvPath>,
    /// Those that the journal does not hold, since it was compacted.
    unkept: HashSet<DrvPath>,
}

impl Derivations {
    /// None; of what is sent, at most `limit` bytes are kept.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            store_dir: StoreDir::default(),
            known: HashMap::new(),
            bytes: 0,
            limit,
            full: false,
            outputs: HashMap::new(),
            untold: HashSet::new(),
            unkept: HashSet::new(),
        }
    }

    /// Checks and keeps what a worker sent. Answers whether it is new.
    pub(crate) fn learn(&mut self, sent: &v1::Derivation) -> Result<bool, DerivationsError> {
        let path = store_path(&sent.drv)?;
        let references = sent.references.iter().map(|r| store_path(r)).collect::<Result<BTreeSet<_>, _>>()?;
        let derivation = self.parse(&path, &sent.aterm)?;
        let actual = derivation_path(&self.store_dir, &derivation.name, &sent.aterm, &references)
            .map_err(|error| DerivationsError::Path(sent.drv.clone(), error))?;
        if actual != path {
            return Err(DerivationsError::Forged { claimed: sent.drv.clone(), actual: actual.to_string() });
        }
        if derivation.references() != references {
            return Err(DerivationsError::References(sent.drv.clone()));
        }
        // What the core will be told of it must be sayable.
        new_step(&DrvPath::from(sent.drv.as_str()), &derivation)?;
        let new = self.keep(sent)?;
        if new {
            let own = derivation.outputs.keys();
            let own =
                own.filter_map(|n| Some((n.clone(), Output::Fixed(derivation.output_path(n)?.clone()))));
            self.outputs.entry(path).or_default().extend(own);
        }
        Ok(new)
    }

    /// Keeps what was checked before.
    pub(crate) fn keep(&mut self, sent: &v1::Derivation) -> Result<bool, DerivationsError> {
        for input in &sent.inputs {
            let (drv, output) = (store_path(&input.drv)?, store_path(&input.output)?);
            self.hear_output(drv, output_name(&input.output_name)?, output);
        }
        let drv = DrvPath::from(sent.drv.as_str());
        self.full |= self.bytes + sent.aterm.len() > self.limit;
        if self.full || self.known.contains_key(&drv) {
            return Ok(false);
        }
        self.bytes += sent.aterm.len();
        // A copy of its own: the message that it is a part of would stay with it.
        self.known.insert(drv.clone(), Bytes::copy_from_slice(&sent.aterm));
        self.untold.insert(drv);
        Ok(true)
    }

    /// The journal and the history of the core begin anew: whatever is wanted next is kept and told again.
    pub(crate) fn begin_anew(&mut self) {
        self.untold = self.known.keys().cloned().collect();
        self.unkept.clone_from(&self.untold);
    }

    /// Those of `wanted` that the journal lost by being compacted; it is taken to hold them from now on.
    pub(crate) fn take_unkept(&mut self, wanted: &[DrvPath]) -> Vec<v1::Derivation> {
        let lost: Vec<&DrvPath> = wanted.iter().filter(|drv| self.unkept.remove(*drv)).collect();
        lost.into_iter().filter_map(|drv| self.as_sent(drv)).collect()
    }

    /// A derivation with what else a worker said about it; the references follow from the bytes.
    fn as_sent(&self, drv: &DrvPath) -> Option<v1::Derivation> {
        let aterm = self.known.get(drv)?;
        let derivation = self.parse(&store_path(drv.as_str()).ok()?, aterm).ok()?;
        let mut inputs = Vec::new();
        for input in derivation.input_drvs.keys() {
            for (name, output) in self.outputs.get(input).into_iter().flatten() {
                let (drv, output_name) = (input.to_string(), name.to_string());
                if let Output::Said(output) = output {
                    inputs.push(v1::ResolvedInput { drv, output_name, output: output.to_string() });
                }
            }
        }
        let (drv, aterm) = (drv.to_string(), aterm.clone());
        Some(v1::Derivation { drv, aterm, references: Vec::new(), inputs })
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Floating outputs' paths, once built.
    pub(crate) fn realised(&mut self, drv: &DrvPath, outputs: &[(Arc<str>, OutputPath)]) {
        for (name, output) in outputs {
            if let (Ok(drv), Ok(name), Ok(output)) =
                (store_path(drv.as_str()), output_name(name), store_path(output.as_str()))
            {
                self.hear_output(drv, name, output);
            }
        }
    }

    /// A worker's word counts only where the derivation itself does not say where its output is.
    fn hear_output(&mut self, drv: StorePath, name: OutputName, output: StorePath) {
        let outputs = self.outputs.entry(drv).or_default();
        if !matches!(outputs.get(&name), Some(Output::Fixed(_))) {
            outputs.insert(name, Output::Said(output));
        }
    }

    /// Definitions of those of `wanted` that the core's history does not hold.
    pub(crate) fn news(&self, wanted: &[DrvPath]) -> Result<Vec<NewStep>, DerivationsError> {
        if let Some(unknown) = wanted.iter().find(|drv| !self.known.contains_key(*drv)) {
            let (drv, limit) = (unknown.to_string(), self.limit);
            let full = DerivationsError::Full { drv: drv.clone(), limit };
            return Err(if self.full { full } else { DerivationsError::Unknown(drv) });
        }
        wanted.iter().filter(|drv| self.untold.contains(*drv)).map(|drv| self.definition(drv)).collect()
    }

    /// From now on the core's history holds the definitions of `wanted`.
    pub(crate) fn told(&mut self, wanted: &[DrvPath]) {
        for drv in wanted {
            self.untold.remove(drv);
        }
    }

    fn definition(&self, drv: &DrvPath) -> Result<NewStep, DerivationsError> {
        let aterm = self.known.get(drv).ok_or_else(|| DerivationsError::Unknown(drv.to_string()))?;
        new_step(drv, &self.parse(&store_path(drv.as_str())?, aterm)?)
    }

    fn output(&self, drv: &StorePath, name: &OutputName) -> Option<StorePath> {
        let said = match self.outputs.get(drv).and_then(|outputs| outputs.get(name)) {
            Some(Output::Fixed(path)) => return Some(path.clone()),
            Some(Output::Said(path)) => Some(path.clone()),
            None => None,
        };
        // Of those that were kept by an earlier process, nothing was looked at yet.
        let known = self.known.get(&DrvPath::from(drv.as_str()));
        let own = known.and_then(|aterm| self.parse(drv, aterm).ok());
        own.and_then(|derivation| derivation.output_path(name).cloned()).or(said)
    }

    /// What a worker needs to execute a step.
    pub(crate) fn work(&self, step: &LeasedStep) -> Result<v1::StepWork, DerivationsError> {
        let name = step.drv.to_string();
        let path = store_path(&name)?;
        let aterm = self.known.get(&step.drv).ok_or_else(|| DerivationsError::Unknown(name.clone()))?;
        let derivation = self.parse(&path, aterm)?;
        let basic = derivation
            .resolve(&self.store_dir, |drv, output| self.output(drv, output))
            .map_err(|e| DerivationsError::Unresolved(name.clone(), e))?;
        let floats = derivation.outputs.keys().any(|output| derivation.output_path(output).is_none());
        Ok(v1::StepWork {
            drv: name,
            attempt: step.attempt,
            inputs: basic.input_srcs.iter().map(ToString::to_string).collect(),
            basic_derivation: if floats { Bytes::new() } else { basic.to_aterm(&self.store_dir).into() },
            output_names: derivation.outputs.keys().map(ToString::to_string).collect(),
            timeout_s: step.limits.timeout_s.unwrap_or(0),
            max_silent_s: step.limits.max_silent_s.unwrap_or(0),
            max_log_bytes: step.limits.max_log_bytes.unwrap_or(0),
            max_output_bytes: step.limits.max_output_bytes.unwrap_or(0),
        })
    }

    /// What a builder of a derivation sees and makes.
    pub(crate) fn execution(&self, drv: &DrvPath) -> Result<Execution, DerivationsError> {
        let name = drv.to_string();
        let path = store_path(&name)?;
        let aterm = self.known.get(drv).ok_or_else(|| DerivationsError::Unknown(name.clone()))?;
        let derivation = self.parse(&path, aterm)?;
        let basic = derivation
            .resolve(&self.store_dir, |drv, output| self.output(drv, output))
            .map_err(|e| DerivationsError::Unresolved(name, e))?;
        let outputs = derivation.outputs.keys();
        Ok(Execution {
            drv: path,
            inputs: basic.input_srcs.iter().cloned().collect(),
            outputs: outputs.map(|output| derivation.output_path(output).cloned()).collect(),
            fixed: derivation.kind() == Ok(DerivationKind::Fixed),
            floating: derivation
                .outputs
                .keys()
                .filter(|output| derivation.output_path(output).is_none())
                .map(|output| output.path_name(&derivation.name))
                .collect(),
        })
    }

    /// Whether a derivation answers for it that what this output names is not needed.
    pub(crate) fn discards_references(&self, drv: &StorePath, output: &StorePath) -> bool {
        let discards = || {
            let derivation = self.parse(drv, self.known.get(&DrvPath::from(drv.as_str()))?).ok()?;
            let attributes = derivation.attributes().ok()?;
            let mut names = derivation.outputs.keys();
            let name = names.find(|name| derivation.output_path(name) == Some(output))?;
            Some(attributes.discards_references(name.as_str()))
        };
        discards().unwrap_or(false)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(name: &str) -> v1::Derivation {
        let out = format!("/nix/store/00000000000000000000000000000000-{name}");
        let aterm = format!(
            "Derive([(\"out\",\"{out}\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],[(\"out\",\"{out}\")])"
        );
        let drv = derivation_path(&StoreDir::default(), name, aterm.as_bytes(), &BTreeSet::new());
        v1::Derivation {
            drv: drv.expect("a derivation path").to_string(),
            aterm: aterm.into(),
            ..v1::Derivation::default()
        }
    }

    #[test]
    fn derivations_beyond_the_limit_are_not_kept_and_the_limit_is_named() {
        let (first, second) = (sent("first"), sent("second"));
        let (kept, lost) = (DrvPath::from(&*first.drv), DrvPath::from(&*second.drv));
        let mut derivations = Derivations::new(first.aterm.len());
        assert!(derivations.learn(&first).expect("fits"));
        assert!(!derivations.learn(&second).expect("is no fault of the worker"));
        assert_eq!(derivations.news(std::slice::from_ref(&kept)).expect("kept").len(), 1);
        derivations.told(std::slice::from_ref(&kept));
        assert!(derivations.news(std::slice::from_ref(&kept)).expect("kept").is_empty(), "told once");
        derivations.begin_anew();
        assert_eq!(derivations.take_unkept(std::slice::from_ref(&kept)), [first]);
        assert!(derivations.take_unkept(std::slice::from_ref(&kept)).is_empty(), "kept once");
        assert_eq!(derivations.news(&[kept]).expect("kept").len(), 1, "a new history knows nothing");
        let error = derivations.news(&[lost]).expect_err("not kept");
        assert!(matches!(error, DerivationsError::Full { .. }), "{error}");
    }

    #[test]
    fn what_is_named_by_its_content_is_not_believed_on_the_word_of_its_builder() {
        use fleet_nix::addressing::{References, fixed_path};
        use fleet_nix::{ContentAddress, ContentAddressMethod, Hash, HashAlgorithm};
        let mut derivations = Derivations::new(1 << 20);
        let hash = Hash::of(HashAlgorithm::Sha256, b"fetched");
        let address = ContentAddress { method: ContentAddressMethod::Flat, hash };
        let output = fixed_path(&StoreDir::default(), "f", &address, &References::default()).expect("a path");
        let out = format!("/nix/store/{output}");
        let aterm = format!(
            "Derive([(\"out\",\"{out}\",\"sha256\",\"{}\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],[(\"out\",\"{out}\")])",
            hash.to_base16()
        );
        let drv = derivation_path(&StoreDir::default(), "f", aterm.as_bytes(), &BTreeSet::new());
        let drv = drv.expect("a derivation path").to_string();
        let fetched = v1::Derivation { drv, aterm: aterm.into(), ..v1::Derivation::default() };
        let plain = sent("plain");
        let named = |derivations: &Derivations, sent: &v1::Derivation| {
            let execution = derivations.execution(&DrvPath::from(&*sent.drv)).expect("known");
            let path = execution.outputs[0].clone().expect("named");
            execution.makes(&path)
        };
        for sent in [&fetched, &plain] {
            derivations.learn(sent).expect("sound");
        }
        assert_eq!(named(&derivations, &fetched), Some(fleet_paths::Named::ByContent));
        assert_eq!(named(&derivations, &plain), Some(fleet_paths::Named::ByDerivation));
    }
}
