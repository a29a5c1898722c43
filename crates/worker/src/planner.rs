//! What must be built for a target, asked on one long-lived connection, and the derivations behind the answer. Where
//! this machine builds everything, the daemon's missing query says it; where others build, `needed` finds it. Owns
//! what this session has told the coordinator, so that nothing is sent twice.

mod needed;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use fleet_nix::daemon::{Daemon, DaemonAddress, DaemonError, Settings};
use fleet_nix::derivation::{Derivation, DerivationError, MAX_DERIVATION_LEN};
use fleet_nix::evaluator::Toplevel;
use fleet_nix::nar::{NarEvent, NarReadError, read_nar};
use fleet_nix::proxy::StoreProxy;
use fleet_nix::store_path::{OutputName, StoreDir, StorePath, StorePathError};
use fleet_nix::{DerivedPath, OutputSet, PathInfo};
use fleet_wire::v1;
use thiserror::Error;

use crate::context::Context;
use crate::transfer::TransferError;
use needed::Needed;

/// Largest derivation that fits a message, bytes.
const MAX_SENT: usize = 8 << 20;
/// Derivations that are remembered; when there are more, all are forgotten and asked for again.
const MAX_KNOWN: usize = 500_000;

/// Why it cannot be said what must be built.
#[derive(Debug, Error)]
pub(crate) enum PlanError {
    #[error("the Nix daemon cannot say what must be built")]
    Daemon(#[from] DaemonError),
    #[error("the Nix daemon does not know {0} any more: was it garbage-collected?")]
    Vanished(String),
    #[error("derivation {0} cannot be read")]
    Archive(String, #[source] NarReadError),
    #[error("derivation {0} is not a file of at most {MAX_DERIVATION_LEN} bytes")]
    NotAFile(String),
    #[error("the evaluator named output {0:?}, which is no output name")]
    OutputName(String, #[source] StorePathError),
    #[error("derivation {0} cannot be parsed")]
    Parse(String, #[source] DerivationError),
    #[error("derivation {drv} has {size} bytes, more than the {MAX_SENT} that can be sent")]
    TooLarge { drv: String, size: usize },
    #[error("derivation {drv} has no output {output}")]
    NoOutput { drv: String, output: String },
    #[error("the coordinator cannot be asked what other machines have")]
    Transfer(#[from] TransferError),
    #[error(
        "builders need {0}, which only this machine has: no derivation makes it, its content does not name it, and no \
         upstream cache signed it"
    )]
    LocalOnly(String),
}

/// For whom a target is planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) context: &'a Context,
    /// Number and epoch.
    pub(crate) job: (u64, u64),
}

/// What must be built for one target, and what the coordinator has not been told.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Inputs before their users.
    pub(crate) wanted: Vec<StorePath>,
    pub(crate) news: Vec<v1::Derivation>,
    pub(crate) substitutable_new: u32,
    /// Valid here and nowhere else, and what the coordinator believes of it: others need it.
    pub(crate) here: Vec<Arc<PathInfo>>,
}

/// Knows what was asked and told in this session.
#[derive(Debug)]
pub(crate) struct Planner {
    address: DaemonAddress,
    daemon: Daemon,
    store_dir: StoreDir,
    known: HashMap<StorePath, Known>,
    told: HashSet<StorePath>,
    counted: HashSet<StorePath>,
    /// Other machines can have these, as this job found.
    elsewhere: BTreeSet<StorePath>,
    job: (u64, u64),
}

/// What planning needs of a derivation.
#[derive(Debug)]
struct Known {
    outputs: BTreeMap<OutputName, Option<StorePath>>,
    inputs: Vec<(StorePath, OutputName)>,
    sources: Vec<StorePath>,
}

impl Planner {
    /// A planner on a connection of its own.
    pub(crate) async fn new(
        address: DaemonAddress,
        mut daemon: Daemon,
        store_dir: StoreDir,
    ) -> Result<Self, DaemonError> {
        daemon.set_options(&Settings::for_substituting(daemon.trust())).await?;
        let (known, told, counted) = (HashMap::new(), HashSet::new(), HashSet::new());
        let (elsewhere, job) = (BTreeSet::new(), (0, 0));
        Ok(Self { address, daemon, store_dir, known, told, counted, elsewhere, job })
    }

    /// Asks what `toplevel` needs, and collects what the coordinator has not seen of it. A connection that was lost, or
    /// cut by a cancelled job, is made again.
    pub(crate) async fn plan(&mut self, asker: Asker<'_>, toplevel: &Toplevel) -> Result<Plan, PlanError> {
        self.stay_bounded();
        if self.job != asker.job {
            self.job = asker.job;
            self.elsewhere.clear();
        }
        if !self.daemon.is_poisoned() {
            match self.plan_once(asker, toplevel).await {
                Err(PlanError::Daemon(error)) if error.remote().is_none() => {
                    tracing::warn!(%error, "the connection that plans broke: making another");
                }
                planned => return planned,
            }
        }
        self.connect_again().await?;
        self.plan_once(asker, toplevel).await
    }

    /// Gives up its roots, which hold every path that it asked for, outputs that were made since as well.
    pub(crate) async fn let_go(&mut self) -> Result<(), DaemonError> {
        self.connect_again().await
    }

    async fn connect_again(&mut self) -> Result<(), DaemonError> {
        let mut daemon = Daemon::connect(&self.address).await?;
        daemon.set_options(&Settings::for_substituting(daemon.trust())).await?;
        self.daemon = daemon;
        Ok(())
    }

    /// The coordinator was sent these.
    pub(crate) fn was_told(&mut self, news: &[v1::Derivation]) {
        self.told.extend(news.iter().filter_map(|told| told.drv.parse().ok()));
    }

    /// A new session: what an earlier one was told counts no more.
    pub(crate) fn forget_told(&mut self) {
        self.told.clear();
        self.counted.clear();
    }

    /// Forgetting costs a question or a message again, and nothing else.
    fn stay_bounded(&mut self) {
        if self.known.len() > MAX_KNOWN {
            self.known.clear();
        }
        for paths in [&mut self.told, &mut self.counted] {
            if paths.len() > MAX_KNOWN {
                paths.clear();
            }
        }
    }

    async fn plan_once(&mut self, asker: Asker<'_>, toplevel: &Toplevel) -> Result<Plan, PlanError> {
        let output_name: OutputName = toplevel
            .output_name
            .parse()
            .map_err(|error| PlanError::OutputName(toplevel.output_name.clone(), error))?;
        let proxy = &asker.context.proxy;
        let goal = (toplevel.drv.clone(), output_name);
        let needed =
            if asker.context.relays() { self.needed(asker, goal).await? } else { self.missing(goal).await? };
        let Needed { wanted, here, substitutable_new } = needed;
        self.elsewhere.extend(here.keys().cloned());
        let mut plan = Plan {
            wanted: self.ordered(proxy, &wanted).await?,
            substitutable_new,
            news: Vec::new(),
            here: here.into_values().collect(),
        };
        for drv in &plan.wanted {
            if !self.told.contains(drv) {
                let news = self.describe(proxy, drv, &wanted).await?;
                plan.news.push(news);
            }
        }
        Ok(plan)
    }

    /// What this machine would have to build, and how much it would substitute.
    async fn missing(&mut self, (drv, output): (StorePath, OutputName)) -> Result<Needed, PlanError> {
        let outputs = OutputSet::Names(BTreeSet::from([output]));
        let missing = self.daemon.query_missing(&[DerivedPath::Built { drv, outputs }]).await?;
        if let Some(unknown) = missing.unknown.first() {
            return Err(PlanError::Vanished(self.store_dir.print(unknown)));
        }
        let fresh =
            missing.will_substitute.into_iter().filter(|path| self.counted.insert(path.clone())).count();
        let substitutable_new = u32::try_from(fresh).unwrap_or(u32::MAX);
        Ok(Needed { wanted: missing.will_build, here: BTreeMap::new(), substitutable_new })
    }

    /// `wanted` with inputs before their users. Depth first, with a stack of our own: graphs are deep.
    async fn ordered(
        &mut self,
        proxy: &StoreProxy,
        wanted: &BTreeSet<StorePath>,
    ) -> Result<Vec<StorePath>, PlanError> {
        let mut order = Vec::with_capacity(wanted.len());
        let mut seen = HashSet::with_capacity(wanted.len());
        for root in wanted {
            let mut stack = vec![(root.clone(), false)];
            while let Some((drv, done)) = stack.pop() {
                if done {
                    order.push(drv);
                } else if seen.insert(drv.clone()) {
                    let inputs = self.know(proxy, &drv).await?.inputs.iter();
                    stack.push((drv, true));
                    let inputs = inputs.map(|(input, _)| input).filter(|input| wanted.contains(*input));
                    stack.extend(inputs.map(|input| (input.clone(), false)));
                }
            }
        }
        Ok(order)
    }

    async fn describe(
        &mut self,
        proxy: &StoreProxy,
        drv: &StorePath,
        wanted: &BTreeSet<StorePath>,
    ) -> Result<v1::Derivation, PlanError> {
        let aterm = self.aterm(proxy, drv).await?;
        if aterm.len() > MAX_SENT {
            return Err(PlanError::TooLarge { drv: drv.to_string(), size: aterm.len() });
        }
        let derivation = self.parse(drv, &aterm)?;
        let mut inputs = Vec::new();
        for (input, outputs) in derivation.input_drvs.iter().filter(|(input, _)| !wanted.contains(*input)) {
            for name in outputs {
                let output = self.output(proxy, input, name).await?;
                inputs.push(v1::ResolvedInput {
                    drv: input.to_string(),
                    output_name: name.to_string(),
                    output: output.to_string(),
                });
            }
        }
        let references: BTreeSet<_> = derivation.input_drvs.keys().chain(&derivation.input_srcs).collect();
        let references = references.into_iter().map(ToString::to_string).collect();
        Ok(v1::Derivation { drv: drv.to_string(), aterm, references, inputs })
    }

    /// Where an output of a derivation that need not be built is.
    async fn output(
        &mut self,
        proxy: &StoreProxy,
        drv: &StorePath,
        name: &OutputName,
    ) -> Result<StorePath, PlanError> {
        let no_output = || PlanError::NoOutput { drv: drv.to_string(), output: name.to_string() };
        let known = self.know(proxy, drv).await?.outputs.get(name).ok_or_else(no_output)?;
        if let Some(path) = known {
            return Ok(path.clone());
        }
        let outputs = self.daemon.query_derivation_output_map(drv).await?;
        outputs.get(name).cloned().flatten().ok_or_else(no_output)
    }

    async fn know(&mut self, proxy: &StoreProxy, drv: &StorePath) -> Result<&Known, PlanError> {
        if !self.known.contains_key(drv) {
            let aterm = self.aterm(proxy, drv).await?;
            let derivation = self.parse(drv, &aterm)?;
            let paths = derivation.outputs.keys().map(|n| (n.clone(), derivation.output_path(n).cloned()));
            let inputs = derivation.input_drvs.iter();
            let inputs = inputs.flat_map(|(drv, names)| names.iter().map(|name| (drv.clone(), name.clone())));
            let known = Known {
                outputs: paths.collect(),
                inputs: inputs.collect(),
                sources: derivation.input_srcs.iter().cloned().collect(),
            };
            self.known.insert(drv.clone(), known);
        }
        Ok(&self.known[drv])
    }

    /// The bytes of a derivation: as the evaluator wrote it just now, else from the store.
    async fn aterm(&mut self, proxy: &StoreProxy, drv: &StorePath) -> Result<Bytes, PlanError> {
        if let Some(seen) = proxy.derivation(drv) {
            return Ok(seen.aterm.clone());
        }
        let mut nar = Vec::new();
        self.daemon.nar_from_path(drv, &mut nar).await?;
        only_file(drv, &nar)
    }

    fn parse(&self, drv: &StorePath, aterm: &[u8]) -> Result<Derivation, PlanError> {
        let name = drv.derivation_name().unwrap_or(drv.name());
        Derivation::parse(&self.store_dir, name, aterm).map_err(|e| PlanError::Parse(drv.to_string(), e))
    }
}

/// The contents of the one file in an archive.
fn only_file(drv: &StorePath, nar: &[u8]) -> Result<Bytes, PlanError> {
    let (mut contents, mut files) = (Vec::new(), 0);
    let size = read_nar(nar, |event| {
        match event {
            NarEvent::File { .. } => files += 1,
            NarEvent::Contents(bytes) => contents.extend_from_slice(bytes),
            _ => {}
        }
        Ok::<(), NarReadError>(())
    });
    size.map_err(|error| PlanError::Archive(drv.to_string(), error))?;
    if files == 1 && contents.len() <= MAX_DERIVATION_LEN {
        Ok(contents.into())
    } else {
        Err(PlanError::NotAFile(drv.to_string()))
    }
}
