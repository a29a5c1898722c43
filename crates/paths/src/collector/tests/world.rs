//! The world: a store, those who bring things to it, and a collection that goes on between their steps.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const PATHS: usize = 24;
const CHUNKS: u64 = 40;
const IN_FLIGHT: u32 = 60;
const GRACE: u64 = 300;

/// What the driver does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    None,
    AskWithoutUse,
    VerifyWithoutHold,
    AnswerWithoutUse,
    KeepWithoutReferences,
    TakeAllAtOnce,
    ReferencesFirst,
    ManifestBeforeMark,
    ForgetSources,
    NoSecondLook,
    NoGate,
    ForgetWhatIsLeft,
    SubmitWithoutUse,
}

impl Sabotage {
    pub(super) const ALL: [Self; 12] = [
        Self::AskWithoutUse,
        Self::VerifyWithoutHold,
        Self::AnswerWithoutUse,
        Self::KeepWithoutReferences,
        Self::TakeAllAtOnce,
        Self::ReferencesFirst,
        Self::ManifestBeforeMark,
        Self::ForgetSources,
        Self::NoSecondLook,
        Self::NoGate,
        Self::ForgetWhatIsLeft,
        Self::SubmitWithoutUse,
    ];
}

type Outcome = Result<(), String>;

/// What a path is, whoever makes it.
struct Content {
    references: Vec<usize>,
    chunks: Vec<ChunkKey>,
}

/// Brings a target's closure, path by path.
struct Upload {
    target: usize,
    source: Vec<ChunkKey>,
    /// Of the closure, references first.
    order: Vec<usize>,
    at: usize,
    step: Step,
    /// When each chunk was told to be here, or brought: that is counted on for a while.
    chunk_at: BTreeMap<ChunkKey, i64>,
    /// No run is known to want it.
    lone: bool,
    /// When each path before it was told to be here, or brought.
    told_at: BTreeMap<usize, i64>,
}

enum Step {
    AskSource,
    PutSource(Vec<ChunkKey>),
    Submit,
    Ask,
    Put(Vec<ChunkKey>),
    Verify,
    Verifying,
    Publish(usize),
}

/// A collection under way.
enum Pass {
    Paths {
        grace: u64,
        again: u32,
        taken: Vec<usize>,
    },
    Chunks {
        grace: u64,
        left: Vec<ChunkKey>,
        needed: HashSet<ChunkKey>,
        going: Vec<ChunkKey>,
        gone: Vec<ChunkKey>,
    },
}

pub(super) struct World {
    random: u64,
    now: i64,
    sabotage: Sabotage,
    contents: Vec<Content>,
    collector: Collector,
    saved: Condemned,
    chunks: BTreeMap<ChunkKey, i64>,
    kept: BTreeSet<usize>,
    published: BTreeSet<usize>,
    roots: BTreeSet<usize>,
    uploads: Vec<Upload>,
    pass: Option<Pass>,
    /// Nothing crashes any more.
    calm: bool,
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Sabotage) -> Self {
        let mut world = Self {
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: 0,
            sabotage,
            contents: Vec::new(),
            collector: Collector::new(IN_FLIGHT, 0, Condemned::default()),
            saved: Condemned::default(),
            chunks: BTreeMap::new(),
            kept: BTreeSet::new(),
            published: BTreeSet::new(),
            roots: BTreeSet::new(),
            uploads: Vec::new(),
            pass: None,
            calm: false,
        };
        for number in 0..PATHS {
            let references =
                (0..world.below(3)).filter(|_| number > 0).map(|_| world.below_usize(number)).collect();
            let chunks = (0..=world.below(3)).map(|_| world.below(CHUNKS)).collect();
            world.contents.push(Content { references, chunks });
        }
        world
    }

    /// So many steps, and then until all is quiet.
    pub(super) fn run(mut self, steps: usize) -> Outcome {
        for _ in 0..steps {
            self.step()?;
            self.check()?;
        }
        self.uploads.clear();
        self.calm = true;
        self.settle()
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit
    }

    fn below_usize(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).expect("small")
    }

    fn step(&mut self) -> Outcome {
        self.now += i64::try_from(self.below(8)).expect("small");
        match self.below(40) {
            0 if self.uploads.len() < 4 => self.begin_upload(),
            1 => drop(self.roots.pop_first()),
            2 => {
                let at = self.below_usize(PATHS);
                if self.kept.contains(&at) {
                    self.use_paths(&[at]);
                    self.roots.insert(at);
                }
            }
            3 => self.now += i64::try_from(self.below(200)).expect("small"),
            4 if self.below(4) == 0 => self.crash(),
            5 | 6 if self.pass.is_none() => {
                let grace = if self.below(2) == 0 { 0 } else { GRACE };
                self.begin_pass(grace, 0);
            }
            7..=19 => self.collect(),
            _ if !self.uploads.is_empty() => {
                let at = self.below_usize(self.uploads.len());
                let mut upload = self.uploads.swap_remove(at);
                if self.upload(&mut upload)? {
                    self.uploads.push(upload);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn closure(&self, from: usize) -> Vec<usize> {
        let mut seen = BTreeSet::from([from]);
        let mut ahead = vec![from];
        while let Some(at) = ahead.pop() {
            ahead.extend(self.contents[at].references.iter().copied().filter(|next| seen.insert(*next)));
        }
        // References have smaller numbers.
        seen.into_iter().collect()
    }

    fn begin_upload(&mut self) {
        let target = self.below_usize(PATHS);
        let source = (0..2).map(|_| self.below(CHUNKS)).collect();
        let order = self.closure(target);
        let lone = self.below(3) == 0;
        let step = if lone { Step::Ask } else { Step::AskSource };
        let (chunk_at, told_at) = (BTreeMap::new(), BTreeMap::new());
        self.uploads.push(Upload { target, source, order, at: 0, step, chunk_at, lone, told_at });
    }

    /// One step of an upload; false when it is done.
    fn upload(&mut self, upload: &mut Upload) -> Result<bool, String> {
        let is_fresh = |since: i64, now: i64| now - since < i64::from(IN_FLIGHT);
        match &mut upload.step {
            Step::AskSource => {
                upload.chunk_at.extend(upload.source.iter().map(|key| (*key, self.now)));
                upload.step = Step::PutSource(self.ask(&upload.source.clone()));
            }
            Step::PutSource(missing) => match missing.pop() {
                Some(key) => {
                    self.put(key);
                    upload.chunk_at.insert(key, self.now);
                }
                None => upload.step = Step::Submit,
            },
            Step::Submit => {
                if self.sabotage != Sabotage::SubmitWithoutUse {
                    self.collector.use_chunks(self.now, upload.source.iter().copied());
                }
                let gone: Vec<ChunkKey> =
                    upload.source.iter().copied().filter(|key| !self.chunks.contains_key(key)).collect();
                if gone.is_empty() {
                    upload.step = Step::Ask;
                } else if gone.iter().any(|key| is_fresh(upload.chunk_at[key], self.now)) {
                    return Err("a source that was there is gone before its run is submitted".to_owned());
                } else {
                    upload.step = Step::AskSource;
                }
            }
            Step::Ask => {
                let Some(number) = upload.order.get(upload.at).copied() else {
                    // As who pins it does: it is there, and used.
                    if self.kept.contains(&upload.target) {
                        self.use_paths(&[upload.target]);
                        self.roots.insert(upload.target);
                        upload.step = Step::Publish(0);
                    } else {
                        upload.at = 0;
                    }
                    return Ok(true);
                };
                if self.kept.contains(&number) {
                    if self.sabotage != Sabotage::AnswerWithoutUse {
                        self.use_paths(&[number]);
                    }
                    upload.told_at.insert(number, self.now);
                    upload.at += 1;
                } else {
                    let chunks = self.contents[number].chunks.clone();
                    upload.chunk_at.extend(chunks.iter().map(|key| (*key, self.now)));
                    upload.step = Step::Put(self.ask(&chunks));
                }
            }
            Step::Put(missing) => match missing.pop() {
                Some(key) => {
                    self.put(key);
                    upload.chunk_at.insert(key, self.now);
                }
                None => upload.step = Step::Verify,
            },
            Step::Verify => {
                let number = upload.order[upload.at];
                let chunks = self.contents[number].chunks.clone();
                if self.sabotage != Sabotage::VerifyWithoutHold {
                    self.collector.hold(&chunks);
                }
                if chunks.iter().all(|key| self.chunks.contains_key(key)) {
                    upload.step = Step::Verifying;
                    return Ok(true);
                }
                if self.sabotage != Sabotage::VerifyWithoutHold {
                    self.collector.let_go(self.now, &chunks);
                }
                let mut gone = chunks.iter().filter(|key| !self.chunks.contains_key(key));
                if gone.any(|key| is_fresh(upload.chunk_at[key], self.now)) {
                    return Err(format!("a chunk of {number} is gone that was there"));
                }
                upload.step = Step::Ask;
            }
            Step::Verifying => return self.keep(upload).map(|()| true),
            Step::Publish(at) => {
                let Some(number) = upload.order.get(*at).copied() else { return Ok(false) };
                *at += 1;
                // Some other run let it go since: its target is lost to both.
                if self.kept.contains(&number)
                    && self.contents[number].references.iter().all(|other| self.published.contains(other))
                {
                    self.use_paths(&[number]);
                    self.published.insert(number);
                }
            }
        }
        Ok(true)
    }

    /// However long verifying took, its chunks are there; what it refers to was there a while ago.
    fn keep(&mut self, upload: &mut Upload) -> Outcome {
        let number = upload.order[upload.at];
        let Content { references, chunks } = &self.contents[number];
        let (references, chunks) = (references.clone(), chunks.clone());
        if let Some(gone) = chunks.iter().find(|key| !self.chunks.contains_key(key)) {
            return Err(format!("chunk {gone} of {number} is gone while it was looked at"));
        }
        let mut used = vec![number];
        if self.sabotage != Sabotage::KeepWithoutReferences {
            used.extend(&references);
        }
        self.use_paths(&used);
        if let Some(lacking) = references.iter().find(|other| !self.kept.contains(other)) {
            let told_at = upload.told_at.get(lacking).copied().unwrap_or(i64::MIN / 2);
            if self.now - told_at < i64::from(IN_FLIGHT) {
                return Err(format!("{lacking} is gone that was there"));
            }
            upload.at = 0;
        } else {
            self.kept.insert(number);
            upload.told_at.insert(number, self.now);
            upload.at += 1;
        }
        if self.sabotage != Sabotage::VerifyWithoutHold {
            self.collector.let_go(self.now, &chunks);
        }
        upload.step = Step::Ask;
        Ok(())
    }

    fn ask(&mut self, keys: &[ChunkKey]) -> Vec<ChunkKey> {
        if self.sabotage != Sabotage::AskWithoutUse {
            self.collector.use_chunks(self.now, keys.iter().copied());
        }
        keys.iter().copied().filter(|key| !self.chunks.contains_key(key)).collect()
    }

    fn put(&mut self, key: ChunkKey) {
        self.collector.use_chunks(self.now, [key]);
        self.chunks.entry(key).or_insert(self.now);
    }

    fn use_paths(&mut self, numbers: &[usize]) {
        let paths: Vec<StorePath> = numbers.iter().map(|number| path(*number)).collect();
        self.collector.use_paths(self.now, &paths);
    }

    /// The coordinator is gone and comes back. Who was in the midst of something begins it again.
    fn crash(&mut self) {
        self.pass = None;
        // It comes back with another clock.
        self.collector = Collector::new(IN_FLIGHT, self.now, self.saved.clone());
        for upload in &mut self.uploads {
            upload.step = match upload.step {
                Step::AskSource | Step::PutSource(_) | Step::Submit => Step::AskSource,
                Step::Publish(_) => Step::Publish(0),
                _ => Step::Ask,
            };
        }
    }

    fn begin_pass(&mut self, grace: u64, again: u32) {
        let kept: Vec<KeptPath> =
            self.kept.iter().map(|number| kept(*number, &self.contents[*number].references)).collect();
        let mut roots: Vec<StorePath> = self.roots.iter().map(|number| path(*number)).collect();
        roots.extend(self.submitted().flat_map(|upload| &upload.order).map(|number| path(*number)));
        self.collector.begin(self.now, grace, &kept, &roots);
        let mut taken = Vec::new();
        if self.sabotage == Sabotage::TakeAllAtOnce {
            taken = numbers(self.collector.take_going(usize::MAX));
        }
        self.pass = Some(Pass::Paths { grace, again, taken });
    }

    /// Uploads whose runs are submitted.
    fn submitted(&self) -> impl Iterator<Item = &Upload> {
        let before = |step: &Step| matches!(step, Step::AskSource | Step::PutSource(_) | Step::Submit);
        self.uploads.iter().filter(move |upload| !upload.lone && !before(&upload.step))
    }

    fn collect(&mut self) {
        match self.pass.take() {
            None => {}
            Some(Pass::Paths { grace, again, mut taken }) => {
                if self.sabotage != Sabotage::TakeAllAtOnce {
                    let limit = 1 + self.below_usize(2);
                    match self.collector.take_going(limit) {
                        Some(paths) => taken = numbers(Some(paths)),
                        None if again < 3 => return self.begin_pass(grace, again + 1),
                        None => taken = Vec::new(),
                    }
                }
                if taken.is_empty() {
                    self.pass = Some(self.begin_chunks(grace));
                    return;
                }
                let now = if self.sabotage == Sabotage::TakeAllAtOnce {
                    taken.drain(..1).collect()
                } else {
                    std::mem::take(&mut taken)
                };
                if self.remove(now) {
                    self.pass = Some(Pass::Paths { grace, again, taken });
                }
            }
            Some(Pass::Chunks { grace, mut left, needed, mut going, mut gone }) => {
                // What the gate is for: nothing comes between the last look and the removal.
                for key in gone.drain(..) {
                    self.chunks.remove(&key);
                }
                match left.pop() {
                    Some(key) => {
                        if let Some(written) = self.chunks.get(&key) {
                            let found = Found {
                                needed: needed.contains(&key),
                                referred: self.sabotage != Sabotage::ForgetWhatIsLeft
                                    && self.is_referred(key),
                                young: self.now - written < i64::from(IN_FLIGHT),
                            };
                            if self.collector.judge(self.now, grace, key, found) == Verdict::Goes {
                                going.push(key);
                            }
                        }
                    }
                    None if going.is_empty() => {
                        self.collector.end();
                        self.saved = self.collector.condemned(self.now);
                        return;
                    }
                    None => {
                        let second_look = self.sabotage != Sabotage::NoSecondLook;
                        gone.extend(
                            going.drain(..).filter(|key| !second_look || self.collector.may_go(*key)),
                        );
                        if self.sabotage != Sabotage::NoGate {
                            for key in gone.drain(..) {
                                self.chunks.remove(&key);
                            }
                        }
                    }
                }
                self.pass = Some(Pass::Chunks { grace, left, needed, going, gone });
            }
        }
    }

    fn is_referred(&self, key: ChunkKey) -> bool {
        self.kept.iter().any(|number| self.contents[*number].chunks.contains(&key))
    }

    /// Removes these; false when it crashed before the end.
    fn remove(&mut self, taken: Vec<usize>) -> bool {
        let mut taken = taken;
        if self.sabotage == Sabotage::ReferencesFirst {
            taken.reverse();
        }
        let marks = taken.iter().map(|number| (*number, true));
        let manifests = taken.iter().map(|number| (*number, false));
        let order: Vec<(usize, bool)> = if self.sabotage == Sabotage::ManifestBeforeMark {
            manifests.chain(marks).collect()
        } else {
            marks.chain(manifests).collect()
        };
        for (number, is_mark) in order {
            let set = if is_mark { &mut self.published } else { &mut self.kept };
            set.remove(&number);
            if !self.calm && self.below(20) == 0 {
                self.crash();
                return false;
            }
        }
        true
    }

    fn begin_chunks(&mut self, grace: u64) -> Pass {
        let mut roots: Vec<usize> = self.roots.iter().copied().collect();
        roots.extend(self.submitted().flat_map(|upload| upload.order.iter().copied()));
        let needed = roots.into_iter().flat_map(|root| self.closure(root));
        let mut needed: HashSet<ChunkKey> = needed
            .filter(|number| self.kept.contains(number))
            .flat_map(|number| self.contents[number].chunks.clone())
            .collect();
        if self.sabotage != Sabotage::ForgetSources {
            needed.extend(self.submitted().flat_map(|upload| upload.source.iter().copied()));
        }
        let left = self.chunks.keys().copied().collect();
        Pass::Chunks { grace, left, needed, going: Vec::new(), gone: Vec::new() }
    }

    fn check(&self) -> Outcome {
        for number in &self.kept {
            let Content { references, chunks } = &self.contents[*number];
            if let Some(lacking) = references.iter().find(|other| !self.kept.contains(other)) {
                return Err(format!("{number} is kept without {lacking}"));
            }
            if let Some(lacking) = chunks.iter().find(|key| !self.chunks.contains_key(key)) {
                return Err(format!("{number} is kept without chunk {lacking}"));
            }
        }
        for number in &self.published {
            let references = &self.contents[*number].references;
            if !self.kept.contains(number) || references.iter().any(|other| !self.published.contains(other)) {
                return Err(format!("{number} is published without what it needs"));
            }
        }
        if let Some(root) = self.roots.iter().find(|root| !self.kept.contains(root)) {
            return Err(format!("the root {root} is gone"));
        }
        let mut sources = self.submitted().flat_map(|upload| &upload.source);
        match sources.find(|key| !self.chunks.contains_key(key)) {
            Some(lacking) => Err(format!("chunk {lacking} of a run's source is gone")),
            None => Ok(()),
        }
    }

    /// Everybody is gone: a few passes leave what the roots lead to.
    fn settle(&mut self) -> Outcome {
        self.crash();
        let wanted: BTreeSet<usize> = self.roots.iter().flat_map(|root| self.closure(*root)).collect();
        for _ in 0..3 {
            self.now += i64::try_from(GRACE).expect("small") + 2 * i64::from(IN_FLIGHT);
            if self.pass.is_none() {
                self.begin_pass(GRACE, 0);
            }
            while self.pass.is_some() {
                self.collect();
                self.check()?;
            }
        }
        let chunks: BTreeSet<ChunkKey> =
            wanted.iter().flat_map(|number| self.contents[*number].chunks.iter().copied()).collect();
        if self.kept != wanted || !self.chunks.keys().copied().eq(chunks) {
            return Err("what nothing needs is still there".to_owned());
        }
        Ok(())
    }
}

fn numbers(paths: Option<Vec<StorePath>>) -> Vec<usize> {
    let number = |path: StorePath| path.hash_part().parse().expect("it is all digits");
    paths.unwrap_or_default().into_iter().map(number).collect()
}
