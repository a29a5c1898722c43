//! From the journal to a shell that goes on where the last one stopped: the registry, runs with the same events under
//! the same numbers, derivations that live runs need, the core, and the logs of attempts that run now.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fleet_core::{Epoch, Event, Fleet, Record, RestoreError, RunId, StepOutcome, StepReport};
use fleet_identity::Registry;
use fleet_journal::{Journal, JournalError};
use fleet_nix::StoreDir;
use fleet_paths::Table;
use fleet_paths::roots::Roots;
use fleet_wire::{from_wire, v1};
use thiserror::Error;
use tokio::sync::watch;

use super::acks::Acks;
use super::known::MAX_KNOWN;
use super::locate::Unreachable;
use super::relays::Relays;
use super::runs::{RunState, RunTable};
use super::timers::Timers;
use super::{Clock, Settings, Shell, inbound, sessions};
use crate::attempts::Attempts;
use crate::derivations::{Derivations, MAX_BYTES};
use crate::feed::{Feed, Feeds, Origin};
use crate::kept::{self, Kept, KeptRun};
use crate::log_index::LogIndex;
use crate::logs::LogWriter;

/// Why the journal cannot be gone on with.
#[derive(Debug, Error)]
pub enum RestoreFailed {
    /// It cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What it says does not follow from itself.
    #[error("the journal holds no history of a fleet")]
    History(#[from] RestoreError),
}

/// What is gathered while the journal is read.
struct Gathered {
    records: Vec<Record>,
    registry: Registry,
    runs: BTreeMap<RunId, (String, KeptRun)>,
    events: HashMap<String, Vec<v1::RunEvent>>,
    derivations: Derivations,
    known: Table,
    roots: Roots,
}

impl Gathered {
    fn new() -> Self {
        Self {
            records: Vec::new(),
            registry: Registry::default(),
            runs: BTreeMap::new(),
            events: HashMap::new(),
            derivations: Derivations::new(MAX_BYTES),
            known: Table::new(StoreDir::default(), MAX_KNOWN),
            roots: Roots::default(),
        }
    }

    fn add(&mut self, kept: Kept) -> Result<(), String> {
        match kept {
            Kept::Core(record) => self.record(*record)?,
            Kept::Run(name, run) => self.run(name, *run),
            Kept::Event(run, event) => {
                let events = self.events.entry(run).or_default();
                if event.sequence != events.len() as u64 + 1 {
                    return Err(format!("event {} follows event {}", event.sequence, events.len()));
                }
                events.push(event);
            }
            Kept::Derivation(derivation) => {
                self.derivations.keep(&derivation).map_err(|error| error.to_string())?;
            }
            Kept::Identity(record) => self.registry.apply(record),
            Kept::Path(record) => self.known.apply(record),
            Kept::Root(record) => self.roots.apply(record),
        }
        Ok(())
    }

    /// A key that was used again after its run was forgotten names another run: what stands before was of the first.
    fn run(&mut self, name: String, run: KeptRun) {
        if self.events.insert(name.clone(), Vec::new()).is_some() {
            self.runs.retain(|_, (earlier, _)| *earlier != name);
        }
        self.runs.insert(RunId(run.run), (name, run));
    }

    /// Fills in what was left out because it follows from the derivations.
    fn record(&mut self, record: Record) -> Result<(), String> {
        let mut record = record;
        if let Record::Happened { event, .. } = &mut record {
            if let Event::EvalReported { report, .. } = event
                && let Some(evaluated) = inbound::evaluated(report)
            {
                let news = self.derivations.news(&evaluated.wanted).map_err(|error| error.to_string())?;
                self.derivations.told(&evaluated.wanted);
                evaluated.new_steps = news;
            }
            hear_outputs(&mut self.derivations, event);
        }
        self.records.push(record);
        Ok(())
    }
}

impl Shell {
    /// As the journal says. Sessions, timers and jobs are gone: the core has to be told.
    pub(super) async fn restore(
        settings: Settings,
        mut journal: Box<dyn Journal>,
        index: LogIndex,
        logs: LogWriter,
    ) -> Result<Self, RestoreFailed> {
        let mut gathered = Gathered::new();
        let mut entries = 0;
        journal
            .load(&mut |loaded| {
                let seq = loaded.seq;
                entries += 1;
                gathered.add(kept::read(loaded)?).map_err(|why| JournalError::Unreadable { seq, why })
            })
            .await?;
        let Gathered { records, registry, runs, mut events, derivations, known, roots } = gathered;
        let fleet = Fleet::restore(settings.fleet.clone(), records)?;
        let (feeds, mut table, mut sources) = (Feeds::default(), RunTable::default(), HashMap::new());
        for (run, (name, kept)) in runs {
            let KeptRun { client, submitted_unix_ms, request, .. } = kept;
            let request = request.unwrap_or_default();
            let named = request.before.iter().chain(&request.after);
            let named = named.filter_map(|source| Some((from_wire::source_id(source).ok()?, source.clone())));
            let named: Vec<_> = named.collect();
            let ids = named.iter().map(|(id, _)| *id).collect();
            let origin = Origin { run: name.clone(), client, submitted_unix_ms };
            let feed = Feed::restored(origin, events.remove(&name).unwrap_or_default());
            let state = RunState::new(request, feed, ids);
            feeds.insert(name, Arc::clone(&state.feed));
            table.insert(run, state);
            sources.extend(named);
        }
        for name in table.forget_oldest() {
            feeds.remove(&name);
        }
        let needed = table.needed_sources();
        sources.retain(|source, _| needed.contains(source));
        let attempts = resumed(&fleet, logs.clone());
        let first_session = epoch_floor(journal.epoch()).0;
        Ok(Self {
            clock: Clock::from(fleet.now()),
            sessions: sessions::Table::new(first_session, settings.fleet.max_workers),
            fleet,
            settings,
            journal,
            appended: entries,
            index,
            attempts,
            acks: Acks::spawn(logs),
            derivations,
            feeds,
            runs: table,
            sources,
            realises: HashMap::new(),
            evals: HashMap::new(),
            known,
            relays: Relays::new(first_session),
            hints: BTreeMap::new(),
            unreachable: Unreachable::default(),
            publisher: None,
            roots,
            timers: Timers::default(),
            durable_registry: watch::Sender::new(Arc::new(registry.clone())),
            registry,
            read_only: watch::Sender::new(String::new()),
        })
    }
}

/// The attempts of leases that are open, with their logs.
fn resumed(fleet: &Fleet, logs: LogWriter) -> Attempts {
    let mut attempts = Attempts::new(logs);
    for lease in fleet.leases() {
        for step in &lease.steps {
            attempts.resume(lease.worker, lease.lease, lease.epoch, step);
        }
    }
    attempts
}

/// Where floating outputs are, once a worker that may say so has built them.
pub(super) fn hear_outputs(derivations: &mut Derivations, event: &Event) {
    if let Event::StepReported { drv, report: StepReport::Ended { outcome, .. }, .. } = event
        && let StepOutcome::Built(outputs) | StepOutcome::AlreadyValid(outputs) = outcome
    {
        derivations.realised(drv, outputs);
    }
}

/// Above every epoch of every earlier process: the journal's term rises with each opening of one history, and the wall
/// clock tells a restored backup from what was done since it was made.
pub(super) fn epoch_floor(term: u64) -> Epoch {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    // 42 bits of milliseconds last for 139 years.
    Epoch((term << 42) | (u64::try_from(wall).unwrap_or(u64::MAX) & ((1 << 42) - 1)))
}
