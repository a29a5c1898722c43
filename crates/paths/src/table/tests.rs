use std::collections::BTreeMap;

use fleet_nix::addressing::{References, fixed_path};
use fleet_nix::{ContentAddress, ContentAddressMethod, NarHash, SecretKey};
use proptest::prelude::*;

use super::*;
use crate::{Depth, Named};

const PATHS: usize = 12;
const WORKERS: [&str; 3] = ["anna", "bert", "carl"];

fn key() -> SecretKey {
    SecretKey::from_seed("upstream-1", &[7; 32]).expect("a name")
}

fn upstream() -> Vec<PublicKey> {
    vec![key().public_key()]
}

fn table() -> Table {
    Table::new(StoreDir::default(), 10_000)
}

/// The info of path `number` with this content, without references.
fn info(number: usize, content: u8) -> PathInfo {
    let hash = NarHash::of(&[u8::try_from(number).expect("small"), content]);
    PathInfo {
        path: path(number),
        deriver: None,
        nar_hash: hash,
        references: BTreeSet::new(),
        registration_time: 0,
        nar_size: 8 + number as u64,
        ultimate: false,
        signatures: Vec::new(),
        content_address: None,
    }
}

/// Every third path follows from its first content.
fn path(number: usize) -> StorePath {
    match address(number) {
        Some(address) => {
            fixed_path(&StoreDir::default(), &format!("p{number}"), &address, &References::default())
                .expect("a path")
        }
        None => format!("{number:0>32}-p{number}").parse().expect("a path"),
    }
}

fn address(number: usize) -> Option<ContentAddress> {
    let hash = NarHash::of(&[u8::try_from(number).expect("small"), 0]).to_hash();
    (number % 3 == 1).then_some(ContentAddress { method: ContentAddressMethod::NixArchive, hash })
}

/// As it can be vouched for: signed, or by its content.
fn vouched(number: usize, references: &BTreeSet<usize>) -> PathInfo {
    let mut info = info(number, 0);
    info.content_address = address(number);
    if info.content_address.is_none() {
        info.references = references.iter().map(|number| path(*number)).collect();
        info.sign(&StoreDir::default(), &key());
    }
    info
}

fn built(number: usize, content: u8, references: &BTreeSet<usize>, inputs: &BTreeSet<usize>) -> Build {
    let mut info = info(number, content);
    info.references = references.iter().map(|number| path(*number)).collect();
    Build {
        outputs: vec![(info, Named::ByDerivation)],
        inputs: inputs.iter().map(|number| path(*number)).collect(),
        beside: Vec::new(),
    }
}

#[derive(Clone, Debug)]
enum Op {
    Build { worker: usize, number: usize, content: u8, references: BTreeSet<usize>, inputs: BTreeSet<usize> },
    Vouch { worker: usize, number: usize, references: BTreeSet<usize> },
    Held(usize, BTreeSet<usize>),
    Lost(usize, BTreeSet<usize>),
    Gone(usize),
    Keep(usize, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let worker = 0..WORKERS.len();
    let some = || proptest::collection::btree_set(0..PATHS, 0..4);
    let op = prop_oneof![
        4 => (worker.clone(), 0..PATHS, 0..2u8, some(), some()).prop_map(
            |(worker, number, content, references, inputs)| Op::Build { worker, number, content, references, inputs }
        ),
        3 => (worker.clone(), 0..PATHS, some())
            .prop_map(|(worker, number, references)| Op::Vouch { worker, number, references }),
        1 => (worker.clone(), some()).prop_map(|(worker, paths)| Op::Held(worker, paths)),
        2 => (worker.clone(), some()).prop_map(|(worker, paths)| Op::Lost(worker, paths)),
        1 => worker.prop_map(Op::Gone),
        2 => (0..PATHS, any::<bool>()).prop_map(|(number, kept)| Op::Keep(number, kept)),
    ];
    proptest::collection::vec(op, 0..40)
}

/// What a table should know, as simply as it can be said.
#[derive(Clone, Debug, Default)]
struct Model(BTreeMap<usize, Believed>);

#[derive(Clone, Debug)]
struct Believed {
    content: PathInfo,
    references: BTreeSet<usize>,
    inputs: Option<BTreeSet<usize>>,
    origin: Origin,
    holders: BTreeSet<usize>,
    kept: bool,
}

impl Model {
    fn standing(&self, number: usize) -> Standing {
        match self.0.get(&number) {
            None => Standing::Unknown,
            Some(known) if known.origin == Origin::Upstream => Standing::Upstream,
            Some(known) if known.kept => Standing::Kept,
            Some(known) if known.holders.is_empty() => Standing::Lost,
            Some(_) => Standing::Held,
        }
    }

    /// Everything that these lead to, and they themselves.
    fn closure(&self, roots: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut closure = roots.clone();
        loop {
            let known = closure.iter().filter_map(|number| self.0.get(number));
            let next: BTreeSet<usize> =
                known.flat_map(|known| known.references.clone()).chain(closure.clone()).collect();
            if next == closure {
                return closure;
            }
            closure = next;
        }
    }

    fn enter(&mut self, number: usize, info: &PathInfo, believed: Believed) {
        let merged = match self.0.remove(&number) {
            Some(earlier) if agree(&earlier.content, info) => Believed {
                holders: &earlier.holders | &believed.holders,
                kept: earlier.kept,
                inputs: earlier.inputs.or(believed.inputs),
                origin: believed.origin.max(earlier.origin),
                ..believed
            },
            _ => believed,
        };
        self.0.insert(number, merged);
    }

    fn stays(&self, number: usize, info: &PathInfo) -> bool {
        let differs = self.0.get(&number).is_some_and(|known| !agree(&known.content, info));
        differs && self.standing(number) != Standing::Lost
    }

    fn build(
        &mut self,
        worker: usize,
        number: usize,
        build: &Build,
        references: &BTreeSet<usize>,
        inputs: &BTreeSet<usize>,
    ) -> bool {
        let mut seen = self.closure(inputs);
        seen.insert(number);
        if !references.is_subset(&seen) {
            return false;
        }
        let info = build.outputs[0].0.clone();
        if !self.stays(number, &info) {
            let believed = Believed {
                content: info.clone(),
                references: references.clone(),
                inputs: Some(inputs.clone()),
                origin: Origin::Built,
                holders: BTreeSet::from([worker]),
                kept: false,
            };
            self.enter(number, &info, believed);
        }
        true
    }

    fn vouch(&mut self, worker: usize, number: usize, info: &PathInfo, references: &BTreeSet<usize>) -> bool {
        if self.stays(number, info) {
            return false;
        }
        let by_content = info.content_address.is_some();
        let believed = Believed {
            content: info.clone(),
            references: if by_content { BTreeSet::new() } else { references.clone() },
            inputs: None,
            origin: if by_content { Origin::ContentAddressed } else { Origin::Upstream },
            holders: by_content.then_some(worker).into_iter().collect(),
            kept: false,
        };
        self.enter(number, info, believed);
        true
    }
}

/// Does the same to both, and sees that they answer alike.
fn act(table: &mut Table, model: &mut Model, op: Op) -> Option<Record> {
    let paths = |numbers: &BTreeSet<usize>| numbers.iter().map(|number| path(*number)).collect::<Vec<_>>();
    match op {
        Op::Build { worker, number, content, references, inputs } => {
            let build = built(number, content, &references, &inputs);
            let expected = model.build(worker, number, &build, &references, &inputs);
            let heard = table.built(WORKERS[worker], build);
            assert_eq!(heard.is_ok(), expected, "{heard:?}");
            heard.ok().and_then(|heard| heard.record)
        }
        Op::Vouch { worker, number, references } => {
            let info = vouched(number, &references);
            let expected = model.vouch(worker, number, &info, &references);
            let heard = table.vouch(WORKERS[worker], info, &upstream());
            assert_eq!(heard.is_ok(), expected, "{heard:?}");
            heard.ok().flatten()
        }
        Op::Held(worker, numbers) => {
            for number in &numbers {
                if let Some(known) = model.0.get_mut(number).filter(|known| known.origin != Origin::Upstream)
                {
                    known.holders.insert(worker);
                }
            }
            table.held(WORKERS[worker], &paths(&numbers))
        }
        Op::Lost(worker, numbers) => {
            for number in &numbers {
                model.0.get_mut(number).map(|known| known.holders.remove(&worker));
            }
            table.lost(WORKERS[worker], &paths(&numbers))
        }
        Op::Gone(worker) => {
            for known in model.0.values_mut() {
                known.holders.remove(&worker);
            }
            table.worker_gone(WORKERS[worker])
        }
        Op::Keep(number, kept) => {
            if let Some(known) = model.0.get_mut(&number) {
                known.kept = kept;
            }
            if kept { table.kept(&path(number)) } else { table.forgotten(&path(number)) }
        }
    }
}

fn standings(table: &Table) -> Vec<Standing> {
    (0..PATHS).map(|number| table.standing(&path(number))).collect()
}

fn holders(table: &Table, number: usize) -> BTreeSet<String> {
    table.holders(&path(number)).map(ToString::to_string).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_table_knows_what_a_simple_one_knows_and_its_records_make_it_again(ops in ops()) {
        let (mut table, mut model, mut again) = (table(), Model::default(), self::table());
        for op in ops {
            if let Some(record) = act(&mut table, &mut model, op) {
                let text = serde_json::to_string(&record).expect("plain data");
                again.apply(serde_json::from_str(&text).expect("what was written"));
            }
        }
        for number in 0..PATHS {
            prop_assert_eq!(table.standing(&path(number)), model.standing(number));
            prop_assert_eq!(again.standing(&path(number)), model.standing(number));
            prop_assert_eq!(holders(&again, number), holders(&table, number));
            prop_assert_eq!(again.scan_candidates(&path(number)), table.scan_candidates(&path(number)));
        }
    }

    #[test]
    fn closures_come_references_first_and_whole(ops in ops(), roots in proptest::collection::btree_set(0..PATHS, 0..4)) {
        let (mut table, mut model) = (table(), Model::default());
        for op in ops {
            act(&mut table, &mut model, op);
        }
        let asked: Vec<StorePath> = roots.iter().map(|number| path(*number)).collect();
        let found = table.locate(&asked, Depth::Closure);
        let mut listed: BTreeSet<StorePath> = found.lost.iter().cloned().collect();
        let mut unmet = 0;
        for place in &found.places {
            let upstream = place.standing == Standing::Upstream;
            let before = |other: &&StorePath| **other != place.info.path && !listed.contains(*other);
            unmet += if upstream { 0 } else { place.info.references.iter().filter(before).count() };
            prop_assert!(listed.insert(place.info.path.clone()), "each once");
            prop_assert_ne!(place.standing, Standing::Lost);
            prop_assert!(upstream || place.standing == Standing::Kept || !place.holders.is_empty());
        }
        // Below what upstream serves nothing is listed; otherwise it is the whole closure.
        let mut below = model.clone();
        below.0.values_mut().filter(|known| known.origin == Origin::Upstream).for_each(|known| known.references.clear());
        let whole: BTreeSet<StorePath> = below.closure(&roots).into_iter().map(path).collect();
        prop_assert_eq!(listed, whole);
        let is_cyclic = |number: usize| below.0.get(&number).is_some_and(|known| {
            let others: BTreeSet<usize> = known.references.iter().copied().filter(|other| *other != number).collect();
            below.closure(&others).contains(&number)
        });
        if !(0..PATHS).any(is_cyclic) {
            prop_assert_eq!(unmet, 0, "references first");
        }
        let wanted: Vec<StorePath> = (0..PATHS).map(path).collect();
        let reached = table.reaches(&asked, &wanted.iter().collect());
        let closure: HashSet<StorePath> = model.closure(&roots).into_iter().map(path).collect();
        prop_assert_eq!(reached, closure);
    }

    #[test]
    fn what_a_built_path_may_name_is_what_its_builder_saw(ops in ops()) {
        let (mut table, mut model) = (table(), Model::default());
        for op in ops {
            act(&mut table, &mut model, op);
        }
        for (number, known) in &model.0 {
            let seen = match &known.inputs {
                Some(inputs) => &(&model.closure(inputs) | &model.closure(&known.references)) | &BTreeSet::from([*number]),
                None => known.references.clone(),
            };
            let seen: BTreeSet<StorePath> = seen.into_iter().map(path).collect();
            let candidates = table.scan_candidates(&path(*number)).expect("known");
            prop_assert_eq!(candidates.into_iter().collect::<BTreeSet<_>>(), seen);
        }
    }

    #[test]
    fn a_snapshot_makes_the_same_table_but_for_what_nobody_has_and_nothing_leads_to(ops in ops()) {
        let (mut table, mut model) = (table(), Model::default());
        for op in ops {
            act(&mut table, &mut model, op);
        }
        let mut again = self::table();
        let snapshot = table.snapshot();
        for record in &snapshot {
            let text = serde_json::to_string(record).expect("plain data");
            again.apply(serde_json::from_str(&text).expect("what was written"));
        }
        for (number, (now, then)) in standings(&again).into_iter().zip(standings(&table)).enumerate() {
            prop_assert!(now == then || (now, then) == (Standing::Unknown, Standing::Lost), "{number}: {now:?} {then:?}");
            if then != Standing::Lost {
                prop_assert_eq!(again.scan_candidates(&path(number)), table.scan_candidates(&path(number)));
            }
            if matches!(then, Standing::Held | Standing::Kept) {
                prop_assert_eq!(holders(&again, number), holders(&table, number));
            }
        }
        let sizes = |table: &Table| table.snapshot().len();
        prop_assert_eq!(sizes(&again), snapshot.len(), "a second one leaves nothing out");
    }
}

#[test]
fn references_that_no_builder_could_have_seen_are_told_from_those_that_nobody_can_judge() {
    let mut table = table();
    table.vouch("anna", vouched(0, &BTreeSet::new()), &upstream()).expect("signed");
    let foreign = built(5, 0, &BTreeSet::from([2]), &BTreeSet::from([0]));
    let refusal = table.built("anna", foreign).expect_err("it could not see it");
    assert_eq!(refusal, Refusal::ForeignReference { path: path(5), reference: path(2) });
    let unknown = built(5, 0, &BTreeSet::from([2]), &BTreeSet::from([0, 3]));
    let refusal = table.built("anna", unknown).expect_err("nobody knows what its input leads to");
    assert_eq!(refusal, Refusal::UnknownInput { path: path(5), reference: path(2), unknown: path(3) });
    assert!(refusal.to_string().contains("cache.upstream_keys"), "{refusal}");
    assert_eq!(table.standing(&path(5)), Standing::Unknown, "nothing was learnt");
    let itself = built(5, 0, &BTreeSet::from([5, 3]), &BTreeSet::from([3]));
    table.built("anna", itself).expect("an output may refer to itself, and to an input that nobody knows");
}

#[test]
fn what_one_machine_alone_knows_is_refused_whatever_it_claims() {
    let mut table = table();
    let unsigned = info(0, 0);
    let mut by_another = info(0, 0);
    by_another.sign(&StoreDir::default(), &SecretKey::from_seed("upstream-1", &[8; 32]).expect("a name"));
    let mut altered = vouched(0, &BTreeSet::new());
    altered.nar_size += 1;
    for info in [unsigned, by_another, altered] {
        assert_eq!(table.vouch("evil", info, &upstream()), Err(Refusal::LocalOnly(path(0))));
    }
    let mut elsewhere = vouched(1, &BTreeSet::new());
    elsewhere.path = path(0);
    assert_eq!(table.vouch("evil", elsewhere, &upstream()), Err(Refusal::ContentAddress(path(0))));
    let mut other_bytes = vouched(1, &BTreeSet::new());
    other_bytes.nar_hash = info(1, 1).nar_hash;
    assert_eq!(table.vouch("evil", other_bytes, &upstream()), Err(Refusal::ContentAddress(path(1))));
    let mut build = built(2, 0, &BTreeSet::new(), &BTreeSet::new());
    build.outputs[0].1 = Named::ByContent;
    assert_eq!(table.built("evil", build.clone()), Err(Refusal::Unnamed(path(2))));
    build.outputs[0].0.content_address = address(1);
    assert_eq!(table.built("evil", build), Err(Refusal::ContentAddress(path(2))));
    assert!(table.is_empty());
}

#[test]
fn many_paths_that_refer_to_the_same_are_too_much_as_well() {
    const LIMIT: usize = 60;
    let mut table = Table::new(StoreDir::default(), LIMIT);
    let all: BTreeSet<usize> = (0..PATHS).collect();
    let signed = (0..100).filter(|number| number % 3 != 1);
    let heard = signed.map(|number| table.vouch("evil", vouched(number, &all), &upstream()));
    let believed = heard.flatten().count();
    assert_eq!(believed, LIMIT * REFERENCES / PATHS);
    assert!(table.len() < LIMIT, "names were not the limit");
}

#[test]
fn of_two_contents_the_first_stays_as_long_as_somebody_has_it() {
    let mut table = table();
    let none = BTreeSet::new();
    table.built("anna", built(2, 0, &none, &none)).expect("new");
    let heard = table.built("bert", built(2, 1, &none, &none)).expect("heard");
    assert_eq!((heard.record, heard.differs), (None, vec![path(2)]));
    assert_eq!(holders(&table, 2), BTreeSet::from(["anna".to_owned()]));
    table.worker_gone("anna").expect("she had it");
    let heard = table.built("bert", built(2, 1, &none, &none)).expect("heard");
    assert!(heard.record.is_some() && heard.differs.is_empty());
    assert_eq!(table.info(&path(2)).expect("known").0.nar_hash, info(2, 1).nar_hash);
    assert_eq!(holders(&table, 2), BTreeSet::from(["bert".to_owned()]));
}

#[test]
fn a_table_names_no_more_paths_than_it_may() {
    let mut table = Table::new(StoreDir::default(), 3);
    let references = BTreeSet::from([3, 6, 9]);
    assert_eq!(table.vouch("anna", vouched(0, &references), &upstream()), Err(Refusal::Full(3)));
    let build = built(2, 0, &BTreeSet::new(), &BTreeSet::from([3, 6, 9]));
    assert_eq!(table.built("anna", build), Err(Refusal::Full(3)));
    assert!(table.is_empty());
    table.vouch("anna", vouched(0, &BTreeSet::from([3])), &upstream()).expect("there is room");
}

#[test]
fn stock_is_taken_of_what_is_known() {
    let mut table = table();
    let none = BTreeSet::new();
    for number in [2, 5, 8] {
        table.built("anna", built(number, 0, &none, &none)).expect("new");
    }
    table.kept(&path(2)).expect("new");
    table.kept(&path(5)).expect("new");
    let mut records = table.take_stock(&[path(5), path(8), path(11)]);
    records.sort_by_key(|record| format!("{record:?}"));
    assert_eq!(records, [Record::Forgotten(path(2)), Record::Kept(path(8))]);
    assert_eq!(standings(&table)[11], Standing::Unknown);
}

#[test]
fn deep_closures_are_walked_without_recursion() {
    let mut table = Table::new(StoreDir::default(), 1 << 20);
    let deep = |number: u32| -> StorePath { format!("{number:0>32}-deep").parse().expect("a path") };
    for number in 0..100_000u32 {
        let mut info = info(2, 0);
        info.path = deep(number);
        info.references = number.checked_sub(1).map(deep).into_iter().collect();
        let inputs = info.references.iter().cloned().collect();
        let build = Build { outputs: vec![(info, Named::ByDerivation)], inputs, beside: Vec::new() };
        table.built("anna", build).expect("sound");
    }
    assert_eq!(table.locate(&[deep(99_999)], Depth::Closure).places.len(), 100_000);
    assert_eq!(table.scan_candidates(&deep(99_999)).expect("known").len(), 100_000);
}
