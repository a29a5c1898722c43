//! The table itself. Owns every path that was heard of: what it is, who has it, whether its bytes are here.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use fleet_nix::{PathInfo, PublicKey, StoreDir, StorePath};
use serde::{Deserialize, Serialize};

use crate::build::{Build, Heard};
use crate::record::{Described, Record};
use crate::refusal::Refusal;

/// Why an info is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Origin {
    /// A worker built it when it was that worker's to build.
    Built,
    /// The path follows from its content.
    ContentAddressed,
    /// An upstream cache signed it, and serves it.
    Upstream,
}

impl Origin {
    /// Whether everybody who has the content can see that it has this name.
    pub fn is_by_content(self) -> bool {
        self == Self::ContentAddressed
    }
}

/// How a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never heard of.
    Unknown,
    /// Known, and nobody has it.
    Lost,
    /// At least one worker has it.
    Held,
    /// Its bytes are here.
    Kept,
    /// An upstream cache has it.
    Upstream,
}

/// A path by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id(u32);

impl Id {
    /// Whoever adds a path asks for room first, and the limit is far below.
    pub(crate) fn from_number(number: usize) -> Self {
        Self(u32::try_from(number).expect("the limit of paths fits"))
    }
}

/// A worker by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HolderId(u32);

/// What is known of a path that has been named.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: StorePath,
    /// None for what is only referred to.
    pub(crate) known: Option<Known>,
}

#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) info: Arc<PathInfo>,
    pub(crate) origin: Origin,
    pub(crate) references: Vec<Id>,
    /// Of a built path: what its builder could see, and what it made beside it.
    pub(crate) execution: Option<Arc<Execution>>,
    pub(crate) holders: BTreeSet<HolderId>,
    pub(crate) kept: bool,
}

#[derive(Debug)]
pub(crate) struct Execution {
    pub(crate) inputs: Vec<Id>,
    pub(crate) outputs: Vec<Id>,
}

/// Every path that was heard of.
#[derive(Debug)]
pub struct Table {
    pub(crate) store_dir: StoreDir,
    pub(crate) entries: Vec<Entry>,
    ids: HashMap<StorePath, Id>,
    holders: Vec<Arc<str>>,
    holder_ids: HashMap<Arc<str>, HolderId>,
    limit: usize,
    /// References of all paths together.
    references: usize,
}

/// References that paths have on average, at most: one of them may have very many.
const REFERENCES: usize = 8;

impl Table {
    /// Empty; it names at most `limit` paths.
    pub fn new(store_dir: StoreDir, limit: usize) -> Self {
        let (entries, ids) = (Vec::new(), HashMap::new());
        Self {
            store_dir,
            entries,
            ids,
            holders: Vec::new(),
            holder_ids: HashMap::new(),
            limit,
            references: 0,
        }
    }

    /// How many paths are named.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many paths upstream caches serve.
    pub fn upstream(&self) -> usize {
        let known = self.entries.iter().filter_map(|entry| entry.known.as_ref());
        known.filter(|known| known.origin == Origin::Upstream).count()
    }

    /// Whether nothing was heard of.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How a path stands.
    pub fn standing(&self, path: &StorePath) -> Standing {
        self.id(path).map_or(Standing::Unknown, |id| self.standing_of(id))
    }

    /// What a path is, and why that is believed.
    pub fn info(&self, path: &StorePath) -> Option<(&Arc<PathInfo>, Origin)> {
        let known = self.known(self.id(path)?)?;
        Some((&known.info, known.origin))
    }

    /// A worker that may build them tells of outputs of one derivation.
    pub fn built(&mut self, worker: &str, build: Build) -> Result<Heard, Refusal> {
        self.hear_built(worker, build)
    }

    /// A worker tells of a path that nobody built here: the first of `upstream` that signed it, or its content, vouches
    /// for it. A content-addressed one is taken to be at the worker.
    pub fn vouch(
        &mut self,
        worker: &str,
        info: PathInfo,
        upstream: &[PublicKey],
    ) -> Result<Option<Record>, Refusal> {
        let origin = if info.is_signed_by(&self.store_dir, upstream) {
            Origin::Upstream
        } else if info.is_content_addressed(&self.store_dir) {
            Origin::ContentAddressed
        } else if info.content_address.is_some() {
            return Err(Refusal::ContentAddress(info.path));
        } else {
            return Err(Refusal::LocalOnly(info.path));
        };
        let worker = if origin == Origin::Upstream { "" } else { worker };
        if let Some(id) = self.id(&info.path)
            && let Some(known) = self.known(id)
        {
            let same = agree(&known.info, &info);
            if !same && self.standing_of(id) != Standing::Lost {
                return Err(Refusal::Differs(info.path));
            }
            let has = worker.is_empty() || self.has_holder(known, worker);
            if same && known.origin >= origin && has {
                return Ok(None);
            }
        }
        self.room(info.references.len() + 1, info.references.len())?;
        let record = Record::Vouched { worker: worker.to_owned(), path: Described::from(&info), origin };
        self.enter(info, origin, None, worker);
        Ok(Some(record))
    }

    /// A worker has these. Of what is not known, nothing is remembered.
    pub fn held(&mut self, worker: &str, paths: &[StorePath]) -> Option<Record> {
        let mut news = Vec::new();
        let holder = self.holder(worker);
        for path in paths {
            let known = self.id(path).and_then(|id| self.known_mut(id));
            let known = known.filter(|known| known.origin != Origin::Upstream);
            if known.is_some_and(|known| known.holders.insert(holder)) {
                news.push(path.clone());
            }
        }
        (!news.is_empty()).then(|| Record::Held { worker: worker.to_owned(), paths: news })
    }

    /// A worker has these no more.
    pub fn lost(&mut self, worker: &str, paths: &[StorePath]) -> Option<Record> {
        let mut news = Vec::new();
        let holder = self.holder(worker);
        for path in paths {
            let known = self.id(path).and_then(|id| self.known_mut(id));
            if known.is_some_and(|known| known.holders.remove(&holder)) {
                news.push(path.clone());
            }
        }
        (!news.is_empty()).then(|| Record::Lost { worker: worker.to_owned(), paths: news })
    }

    /// A worker will not come back, or comes back empty.
    pub fn worker_gone(&mut self, worker: &str) -> Option<Record> {
        let holder = *self.holder_ids.get(worker)?;
        let mut had = false;
        for known in self.entries.iter_mut().filter_map(|entry| entry.known.as_mut()) {
            had |= known.holders.remove(&holder);
        }
        had.then(|| Record::Gone { worker: worker.to_owned() })
    }

    /// The bytes of a known path are here.
    pub fn kept(&mut self, path: &StorePath) -> Option<Record> {
        self.set_kept(path, true).then(|| Record::Kept(path.clone()))
    }

    /// The bytes of a path are here no more.
    pub fn forgotten(&mut self, path: &StorePath) -> Option<Record> {
        self.set_kept(path, false).then(|| Record::Forgotten(path.clone()))
    }

    /// Makes the bytes of exactly these paths count as here, as far as they are known.
    pub fn take_stock(&mut self, here: &[StorePath]) -> Vec<Record> {
        let here: HashSet<&StorePath> = here.iter().collect();
        let counts = |entry: &&Entry| entry.known.as_ref().is_some_and(|known| known.kept);
        let gone = self.entries.iter().filter(counts).filter(|entry| !here.contains(&entry.path));
        let gone: Vec<StorePath> = gone.map(|entry| entry.path.clone()).collect();
        let mut records: Vec<Record> = gone.iter().filter_map(|path| self.forgotten(path)).collect();
        records.extend(here.into_iter().filter_map(|path| self.kept(path)));
        records
    }

    /// Names of the workers that have a path.
    pub fn holders(&self, path: &StorePath) -> impl Iterator<Item = &Arc<str>> {
        let known = self.id(path).and_then(|id| self.known(id));
        known.into_iter().flat_map(|known| &known.holders).map(|holder| &self.holders[holder.0 as usize])
    }

    /// Names of all workers that ever had something.
    pub fn holder_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.holders.iter()
    }

    /// Learns again what a table learnt before.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Built { worker, outputs, inputs, beside } => {
                let outputs = outputs.into_iter().map(PathInfo::from).collect();
                self.enter_built(&worker, outputs, &inputs, &beside);
            }
            Record::Vouched { worker, path, origin } => self.enter(path.into(), origin, None, &worker),
            Record::Held { worker, paths } => drop(self.held(&worker, &paths)),
            Record::Lost { worker, paths } => drop(self.lost(&worker, &paths)),
            Record::Gone { worker } => drop(self.worker_gone(&worker)),
            Record::Kept(path) => drop(self.kept(&path)),
            Record::Forgotten(path) => drop(self.forgotten(&path)),
        }
    }

    /// Puts an info in place. Whoever had another content under this name does not have this one.
    pub(crate) fn enter(
        &mut self,
        info: PathInfo,
        origin: Origin,
        execution: Option<Arc<Execution>>,
        worker: &str,
    ) {
        let id = self.intern(&info.path);
        let references: Vec<Id> = info.references.iter().map(|path| self.intern(path)).collect();
        self.references += references.len();
        let holder = (!worker.is_empty()).then(|| self.holder(worker));
        let entry = &mut self.entries[id.0 as usize];
        let earlier = entry.known.take();
        self.references -= earlier.as_ref().map_or(0, |known| known.references.len());
        let earlier = earlier.filter(|known| agree(&known.info, &info));
        let (mut holders, mut kept, mut execution, mut origin) = (BTreeSet::new(), false, execution, origin);
        let mut info = info;
        if let Some(earlier) = earlier {
            // Who says less of it does not make others forget the rest.
            info.content_address = info.content_address.or_else(|| earlier.info.content_address);
            info.deriver = info.deriver.or_else(|| earlier.info.deriver.clone());
            (holders, kept) = (earlier.holders, earlier.kept);
            execution = earlier.execution.or(execution);
            origin = origin.max(earlier.origin);
        }
        holders.extend(holder);
        let info = Arc::new(PathInfo { signatures: Vec::new(), ..info });
        entry.known = Some(Known { info, origin, references, execution, holders, kept });
    }

    pub(crate) fn standing_of(&self, id: Id) -> Standing {
        match self.known(id) {
            None => Standing::Unknown,
            Some(known) if known.origin == Origin::Upstream => Standing::Upstream,
            Some(known) if known.kept => Standing::Kept,
            Some(known) if !known.holders.is_empty() => Standing::Held,
            Some(_) => Standing::Lost,
        }
    }

    /// Whether so many more paths can be named, that have so many references.
    pub(crate) fn room(&self, more: usize, references: usize) -> Result<(), Refusal> {
        let limit = self.limit;
        let is_full = self.entries.len() + more > limit || self.references + references > limit * REFERENCES;
        if is_full { Err(Refusal::Full(limit)) } else { Ok(()) }
    }

    pub(crate) fn id(&self, path: &StorePath) -> Option<Id> {
        self.ids.get(path).copied()
    }

    pub(crate) fn path(&self, id: Id) -> &StorePath {
        &self.entries[id.0 as usize].path
    }

    pub(crate) fn known(&self, id: Id) -> Option<&Known> {
        self.entries[id.0 as usize].known.as_ref()
    }

    pub(crate) fn intern(&mut self, path: &StorePath) -> Id {
        if let Some(id) = self.ids.get(path) {
            return *id;
        }
        let id = Id::from_number(self.entries.len());
        self.entries.push(Entry { path: path.clone(), known: None });
        self.ids.insert(path.clone(), id);
        id
    }

    pub(crate) fn holder_name(&self, holder: HolderId) -> &Arc<str> {
        &self.holders[holder.0 as usize]
    }

    pub(crate) fn has_holder(&self, known: &Known, worker: &str) -> bool {
        self.holder_ids.get(worker).is_some_and(|holder| known.holders.contains(holder))
    }

    fn known_mut(&mut self, id: Id) -> Option<&mut Known> {
        self.entries[id.0 as usize].known.as_mut()
    }

    fn set_kept(&mut self, path: &StorePath, kept: bool) -> bool {
        let Some(known) = self.id(path).and_then(|id| self.known_mut(id)) else { return false };
        std::mem::replace(&mut known.kept, kept) != kept
    }

    fn holder(&mut self, name: &str) -> HolderId {
        if let Some(holder) = self.holder_ids.get(name) {
            return *holder;
        }
        let name: Arc<str> = name.into();
        // There are as many as workers that were ever let in.
        let holder = HolderId(u32::try_from(self.holders.len()).expect("workers are few"));
        self.holders.push(Arc::clone(&name));
        self.holder_ids.insert(name, holder);
        holder
    }
}

/// Whether two infos say the same of the bytes.
pub(crate) fn agree(one: &PathInfo, other: &PathInfo) -> bool {
    (&one.nar_hash, one.nar_size, &one.references) == (&other.nar_hash, other.nar_size, &other.references)
}

#[cfg(test)]
mod tests;
