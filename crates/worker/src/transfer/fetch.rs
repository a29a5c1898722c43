//! Brings paths that others have into the local store: from the workers that hold them, else from the coordinator. What
//! they are is known before, signed; bytes come chunk by chunk, each checked, into one import whose result the daemon
//! checks. Owns which holders are of no use right now. Asks nobody but [`Locate`] where things are.

mod feed;
mod holders;
mod importer;
mod locate;
mod outcome;
mod plan;
mod stream;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleet_nix::daemon::{CheckSignatures, Daemon, DaemonAddress, DaemonError, Substitute, ignore};
use fleet_nix::store_path::StorePath;
use fleet_wire::v1;
use futures::StreamExt;
use futures::future::BoxFuture;
use thiserror::Error;
use tonic::Status;

use super::manifest_cache::{ManifestCache, Piece};
use super::seeds::Seeds;
use crate::peer::{Holders, Keys};
use feed::Feed;
use holders::Trust;
use importer::{Import, Importer};
use outcome::Fault;
use plan::Plan;

pub(crate) use locate::Coordinator;
pub use locate::{Locate, Located, LocatedPath};

/// How often it is asked where the rest is, of what could not be had where it should have been.
const ROUNDS: usize = 4;
/// Imports that broke, each for another reason.
const TRIES: usize = 16;
/// Holders that are dialled at once.
const DIALS: usize = 8;
/// Archives for which it is worth looking whether another version is here.
const SEEDED_FROM: u64 = 1 << 20;

/// Where paths are brought to, and as whom.
#[derive(Clone, Debug)]
pub struct FetcherConfig {
    /// The daemon that takes them.
    pub daemon: DaemonAddress,
    /// How long a daemon that restarts is waited for.
    pub daemon_patience: Duration,
    /// The file with this worker's certificate; without one no other worker can be asked.
    pub credentials: Option<PathBuf>,
    /// Who says what paths are.
    pub keys: Keys,
    /// Where archives were cut before.
    pub manifests: Option<Arc<ManifestCache>>,
    /// How long a holder may take to answer.
    pub reach_within: Duration,
}

impl FetcherConfig {
    /// With the usual bounds.
    pub fn new(daemon: DaemonAddress, credentials: Option<PathBuf>, keys: Keys) -> Self {
        Self {
            daemon,
            daemon_patience: Duration::from_secs(30),
            credentials,
            keys,
            manifests: None,
            reach_within: Duration::from_secs(2),
        }
    }
}

/// What one fetch brought, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Paths that are valid now and were not.
    pub paths: Vec<StorePath>,
    /// Bytes of frames that came from other workers.
    pub from_peers: u64,
    /// Bytes of frames that came from the coordinator.
    pub from_coordinator: u64,
    /// Bytes of archives that were here, in other paths.
    pub from_here: u64,
}

/// Why paths could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The daemon.
    #[error("the Nix daemon failed")]
    Daemon(#[from] DaemonError),
    /// The daemon says no, to bytes that it should take.
    #[error("the Nix daemon refuses what was fetched")]
    Refused(#[source] DaemonError),
    /// The daemon takes only what is signed with a key of its own.
    #[error(
        "the Nix daemon does not trust the coordinator's key: add the worker's user to `trusted-users` in nix.conf, or \
         `{key}` to `trusted-public-keys`, and restart nix-daemon ({message})"
    )]
    NotTrusted {
        /// The key.
        key: String,
        /// The daemon's words.
        message: String,
    },
    /// Who knows where things are does not answer, or says no.
    #[error("the coordinator did not serve: {}", .0.message())]
    Coordinator(Box<Status>),
    /// What it says cannot be.
    #[error("the coordinator describes a path wrongly: {0}")]
    Described(String),
    /// Nobody has these.
    #[error("nobody has {} any more", .0.first().map_or_else(String::new, ToString::to_string))]
    Lost(BTreeSet<StorePath>),
    /// Nobody who has it can be reached, or gives what it should.
    #[error("no machine gives {path}: {cause}")]
    Nowhere {
        /// Which.
        path: StorePath,
        /// What the last one did.
        cause: String,
    },
}

impl From<Status> for FetchError {
    fn from(status: Status) -> Self {
        Self::Coordinator(Box::new(status))
    }
}

/// Fetches for one worker. Connections to holders and to the daemon are kept for the next fetch.
#[derive(Debug)]
pub struct Fetcher<L> {
    locate: Arc<L>,
    keys: Keys,
    holders: Holders,
    importer: Importer,
    manifests: Option<Arc<ManifestCache>>,
}

impl<L: Locate> Fetcher<L> {
    /// Nothing is connected yet.
    pub fn new(config: FetcherConfig, locate: L) -> Self {
        Self {
            locate: Arc::new(locate),
            holders: Holders::new(config.credentials, config.reach_within),
            importer: Importer::new(config.daemon, config.daemon_patience, config.keys.clone()),
            keys: config.keys,
            manifests: config.manifests,
        }
    }

    /// Where `paths` and their closures are. Whatever is said of a path is signed.
    pub async fn locate(
        &self,
        right: v1::WorkRight,
        paths: &BTreeSet<StorePath>,
    ) -> Result<Located, FetchError> {
        let paths = paths.iter().map(ToString::to_string).collect();
        self.ask(v1::LocateRequest { right: Some(right), paths, ..v1::LocateRequest::default() }).await
    }

    async fn ask(&self, request: v1::LocateRequest) -> Result<Located, FetchError> {
        let located = self.locate.locate(request).await?;
        located.check(&self.importer.address().store_dir, &self.keys.current())?;
        Ok(located)
    }

    /// Makes those of `located` valid that somebody has and that are not, each after its references; what else they
    /// refer to must be valid, and all must be rooted. What came before an error stays.
    pub fn import(
        &self,
        right: v1::WorkRight,
        located: Located,
    ) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(self.import_all(right, located))
    }

    async fn import_all(&self, right: v1::WorkRight, located: Located) -> Result<Fetched, FetchError> {
        let mut fetched = Fetched::default();
        let mut trust = Trust::default();
        let mut plan = Plan::new(located);
        let (mut rounds, mut tries) = (1, 0);
        loop {
            let mut import = self.importer.take().await?;
            let valid = valid(&mut import.daemon, &plan).await?;
            if tries > 0 {
                fetched.paths.extend(valid.iter().cloned());
            }
            plan.drop_valid(&valid);
            if plan.is_empty() {
                self.importer.give_back(import);
                return Ok(fetched);
            }
            self.reach(&plan, &mut trust).await;
            let unserved = plan.unserved(&trust);
            if !unserved.is_empty() {
                self.importer.give_back(import);
                rounds += 1;
                self.relay(right, &mut plan, unserved, &trust, rounds).await?;
                continue;
            }
            tries += 1;
            let learnt = trust.learnt();
            match self.import_once(right, import, &plan, &mut trust, &mut fetched).await {
                Ok(()) => {}
                Err(error) if tries >= TRIES || trust.learnt() == learnt => return Err(error),
                Err(error) => tracing::info!(
                    "an import goes on from elsewhere: {}",
                    fleet_telemetry::with_causes(&error)
                ),
            }
        }
    }

    /// Finds out which of the holders that are needed are there. Where one is not, others may be needed.
    async fn reach(&self, plan: &Plan, trust: &mut Trust) {
        loop {
            let unreached = plan.unreached(trust);
            if unreached.is_empty() {
                return;
            }
            let mut dials: Vec<BoxFuture<'_, _>> = Vec::new();
            for holder in unreached {
                dials.push(Box::pin(async move { (holder, self.holders.client(holder).await) }));
            }
            let mut dials = futures::stream::iter(dials).buffer_unordered(DIALS);
            while let Some((holder, dialled)) = dials.next().await {
                trust.reached(&holder.worker);
                if let Err(error) = dialled {
                    let why = fleet_telemetry::with_causes(&error);
                    tracing::info!(holder = holder.worker, "a holder cannot be reached: {why}");
                    trust.give_up(&holder.worker, why);
                }
            }
        }
    }

    /// Has the coordinator get what cannot be had from those who have it.
    async fn relay(
        &self,
        right: v1::WorkRight,
        plan: &mut Plan,
        unserved: BTreeSet<StorePath>,
        trust: &Trust,
        round: usize,
    ) -> Result<(), FetchError> {
        if let Some(path) = unserved.first()
            && round > ROUNDS
        {
            let cause = trust.why().unwrap_or_else(|| "nobody is said to have it".to_owned());
            return Err(FetchError::Nowhere { path: path.clone(), cause });
        }
        let request = v1::LocateRequest {
            right: Some(right),
            paths: unserved.iter().map(ToString::to_string).collect(),
            alone: true,
            relay: true,
            unreachable: trust.unusable(),
        };
        let located = self.ask(request).await?;
        if !located.lost.is_empty() {
            return Err(FetchError::Lost(located.lost));
        }
        plan.relocate(located);
        Ok(())
    }

    /// One import of everything that is lacking.
    async fn import_once(
        &self,
        right: v1::WorkRight,
        mut import: Import,
        plan: &Plan,
        trust: &mut Trust,
        fetched: &mut Fetched,
    ) -> Result<(), FetchError> {
        let seeds = self.seeds(&mut import.daemon, plan).await?;
        let roots_seeds = seeds.is_some();
        let feed = Feed::new((&self.locate, &self.holders), right, plan, seeds, trust.clone());
        let (entries, report) = feed.entries();
        let count = plan.len() as u64;
        let mut unheard = ignore;
        let adding = import.daemon.add_multiple_to_store(count, entries, CheckSignatures::Yes, &mut unheard);
        let imported = adding.await;
        let outcome = report.take();
        fetched.from_peers += outcome.from_peers;
        fetched.from_coordinator += outcome.from_coordinator;
        fetched.from_here += outcome.from_here;
        *trust = outcome.trust;
        self.remember(outcome.pieces).await;
        let Err(error) = imported else {
            if !roots_seeds {
                self.importer.give_back(import);
            }
            return Ok(());
        };
        match error {
            DaemonError::Source(source) => Err(match source.downcast::<Fault>() {
                Ok(fault) => fault.into_error(),
                Err(other) => FetchError::Described(other.to_string()),
            }),
            DaemonError::Remote(remote) if remote.message.contains("lacks a signature by a trusted key") => {
                let key = self.keys.current().first().map_or_else(String::new, ToString::to_string);
                Err(FetchError::NotTrusted { key, message: remote.message })
            }
            DaemonError::Remote(remote) if remote.message.contains("No space left on device") => {
                Err(FetchError::Refused(remote.into()))
            }
            DaemonError::Remote(remote) => {
                self.blame(plan, &outcome.suppliers, &remote.message, trust).await?;
                Err(FetchError::Refused(remote.into()))
            }
            other => Err(other.into()),
        }
    }

    /// Bytes were not what was promised: whoever supplied the first path that is not there did it.
    async fn blame(
        &self,
        plan: &Plan,
        suppliers: &HashMap<usize, Vec<String>>,
        what: &str,
        trust: &mut Trust,
    ) -> Result<(), DaemonError> {
        let mut import = self.importer.take().await?;
        let valid = valid(&mut import.daemon, plan).await?;
        self.importer.give_back(import);
        let culprits = plan.first_absent(&valid).and_then(|item| suppliers.get(&item));
        for culprit in culprits.into_iter().flatten() {
            tracing::warn!(holder = culprit, "a holder gave what it should not: {what}");
            trust.give_up(culprit, what.to_owned());
        }
        Ok(())
    }

    /// What is here of other versions of what is wanted, rooted by the connection.
    async fn seeds(&self, daemon: &mut Daemon, plan: &Plan) -> Result<Option<Arc<Seeds>>, DaemonError> {
        let Some(manifests) = &self.manifests else { return Ok(None) };
        let large = plan.items().iter().filter(|item| item.info.nar_size >= SEEDED_FROM);
        let kin: BTreeSet<StorePath> = large.flat_map(|item| manifests.kin(&item.info.path)).collect();
        if kin.is_empty() {
            return Ok(None);
        }
        daemon.add_temp_roots(&kin).await?;
        let here = daemon.query_valid_paths(&kin, Substitute::No).await?;
        for gone in kin.difference(&here) {
            manifests.forget(gone);
        }
        let seeds = Seeds::gather(manifests, self.importer.address(), daemon.store_dir(), &here).await;
        Ok(Some(Arc::new(seeds)).filter(|seeds| !seeds.is_empty()))
    }

    async fn remember(&self, cut: Vec<(StorePath, Vec<Piece>)>) {
        let Some(manifests) = &self.manifests else { return };
        for (path, pieces) in cut {
            manifests.put(&path, pieces).await;
        }
    }
}

async fn valid(daemon: &mut Daemon, plan: &Plan) -> Result<BTreeSet<StorePath>, DaemonError> {
    let names: BTreeSet<StorePath> = plan.items().iter().map(|item| item.info.path.clone()).collect();
    daemon.query_valid_paths(&names, Substitute::No).await
}
