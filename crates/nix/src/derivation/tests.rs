use super::*;
use crate::addressing::{References, fixed_path};
use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::hash::{Hash, HashAlgorithm};
use crate::store_path::{OutputName, StoreDir, StorePath};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Files written by the real Nix, by store path; `tests/fixtures/regenerate` made them.
fn fixtures() -> BTreeMap<StorePath, Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/derivations");
    let mut fixtures = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        fixtures.insert(name.parse().expect("a store path"), std::fs::read(&path).expect("a file"));
    }
    assert!(fixtures.len() >= 20);
    fixtures
}

fn is_dynamic(path: &StorePath) -> bool {
    path.name() == "dynamic.drv"
}

/// All fixtures but the dynamic one, which cannot be read.
fn derivations() -> BTreeMap<StorePath, Derivation> {
    let read = |path: &StorePath, bytes: &[u8]| {
        let name = path.derivation_name().expect("a derivation");
        Derivation::parse(&StoreDir::default(), name, bytes).expect("Nix wrote it")
    };
    let fixtures = fixtures();
    let readable = fixtures.iter().filter(|(path, _)| !is_dynamic(path));
    readable.map(|(path, bytes)| (path.clone(), read(path, bytes))).collect()
}

fn named(name: &str) -> (StorePath, Derivation) {
    derivations().into_iter().find(|(path, _)| path.name() == name).expect("a fixture of this name")
}

fn out() -> OutputName {
    OutputName::out()
}

fn parse(text: &str) -> Result<Derivation, DerivationError> {
    Derivation::parse(&StoreDir::default(), "a", text.as_bytes())
}

fn fault(text: &str) -> Fault {
    match parse(text) {
        Err(DerivationError::Malformed { fault, .. }) => fault,
        other => panic!("{text} gave {other:?}"),
    }
}

#[test]
fn what_nix_wrote_prints_as_the_same_bytes() {
    let derivations = derivations();
    for (path, bytes) in fixtures().iter().filter(|(path, _)| !is_dynamic(path)) {
        let printed = derivations[path].to_aterm(&StoreDir::default());
        assert_eq!(String::from_utf8_lossy(&printed), String::from_utf8_lossy(bytes), "{path}");
    }
}

#[test]
fn paths_follow_from_bytes_and_references() {
    for (path, derivation) in derivations() {
        assert_eq!(derivation.path(&StoreDir::default()), Ok(path));
    }
}

#[test]
fn output_paths_follow_from_the_derivation_and_its_inputs() {
    let store = StoreDir::default();
    let derivations = derivations();
    let mut memo = ModuloMemo::new();
    let load = |path: &StorePath| Ok::<_, DerivationError>(derivations[path].clone());
    modulo_hashes(&store, derivations.keys().cloned(), &mut memo, load).expect("all inputs are there");
    assert_eq!(memo.len(), derivations.len());
    for (path, derivation) in &derivations {
        assert_eq!(derivation.check_output_paths(&store, |input| memo.get(input)), Ok(()), "{path}");
    }
}

#[test]
fn a_forged_output_path_is_refused() {
    let store = StoreDir::default();
    let (_, mut forged) = named("plain-1.0.drv");
    let (_, other) = named("multiple-2.0.drv");
    let stolen = other.output_path(&out()).expect("input-addressed").clone();
    forged.outputs.insert(out(), DerivationOutput::InputAddressed(stolen.clone()));
    let result = forged.check_output_paths(&store, |_| None);
    assert!(matches!(result, Err(DerivationError::WrongOutputPath { stated, .. }) if stated == stolen));
}

#[test]
fn how_a_fixed_output_was_fetched_does_not_matter() {
    let of = |source: &str| {
        let derivations = derivations();
        let found = derivations.values().find(|derivation| {
            let mut inputs = derivation.input_drvs.keys();
            derivation.name == "dependent" && inputs.any(|input| input.hash_part().starts_with(source))
        });
        found.expect("a fixture").output_path(&out()).expect("input-addressed").clone()
    };
    let sources: Vec<StorePath> =
        derivations().into_keys().filter(|path| path.name() == "flat.tar.gz.drv").collect();
    assert_eq!(sources.len(), 2);
    assert_eq!(of(sources[0].hash_part()), of(sources[1].hash_part()));
}

#[test]
fn hashing_needs_every_input_and_ends_on_cycles() {
    let store = StoreDir::default();
    let (path, dependent) = named("dependent-3.1.drv");
    let missing = dependent.modulo_hash(&store, |_| None);
    assert!(matches!(missing, Err(DerivationError::UnknownInput(_))));
    let mut cyclic = dependent.clone();
    cyclic.input_drvs = BTreeMap::from([(path.clone(), BTreeSet::from([out()]))]);
    let load = |_: &StorePath| Ok(cyclic.clone());
    let result = modulo_hashes(&store, [path.clone()], &mut ModuloMemo::new(), load);
    assert_eq!(result, Err(DerivationError::Cycle(path)));
}

#[test]
fn a_shared_input_is_no_cycle_and_a_deep_chain_no_overflow() {
    let store = StoreDir::default();
    let (_, plain) = named("plain-1.0.drv");
    let path = |index: usize| -> StorePath { format!("{index:032}-a.drv").parse().expect("valid") };
    let load = |wanted: &StorePath| {
        let index: usize = wanted.hash_part().parse().expect("a number");
        let mut derivation = plain.clone();
        for next in [index + 1, index + 2] {
            if next < 20_000 {
                derivation.input_drvs.insert(path(next), BTreeSet::from([out()]));
            }
        }
        Ok::<_, DerivationError>(derivation)
    };
    let mut memo = ModuloMemo::new();
    modulo_hashes(&store, [path(0)], &mut memo, load).expect("no cycle");
    assert_eq!(memo.len(), 20_000);
}

#[test]
fn kinds_are_recognised() {
    for (name, kind) in [
        ("plain-1.0.drv", DerivationKind::InputAddressed),
        ("multiple-2.0.drv", DerivationKind::InputAddressed),
        ("md5.drv", DerivationKind::Fixed),
        ("flat.tar.gz.drv", DerivationKind::Fixed),
        ("floating.drv", DerivationKind::Floating),
        ("twice-deferred.drv", DerivationKind::Deferred),
        ("impure.drv", DerivationKind::Impure),
    ] {
        assert_eq!(named(name).1.kind(), Ok(kind), "{name}");
    }
    let maker = named("maker.drv.drv").1;
    let text = DerivationOutput::Floating { method: ContentAddressMethod::Text, algo: HashAlgorithm::Sha256 };
    assert_eq!(maker.outputs.get("out"), Some(&text));
}

#[test]
fn dynamic_derivations_are_refused_by_name() {
    let (path, bytes) = fixtures().into_iter().find(|(path, _)| is_dynamic(path)).expect("a fixture");
    let name = path.derivation_name().expect("a derivation");
    let parse = |bytes: &[u8]| Derivation::parse(&StoreDir::default(), name, bytes);
    assert_eq!(parse(&bytes), Err(DerivationError::Dynamic));
    let unknown = b"DrvWithVersion(\"future\",";
    assert_eq!(parse(unknown), Err(DerivationError::UnknownVersion("future".into())));
}

#[test]
fn structured_attributes_hide_the_environment() {
    let (_, structured) = named("structured-0.1.drv");
    let json = structured.structured_attrs().expect("valid JSON").expect("structured");
    assert_eq!(json["nested"]["list"][1], 2.5);
    let attributes = structured.attributes().expect("valid JSON");
    assert_eq!(attributes.required_system_features(), BTreeSet::from(["kvm".to_owned()]));
    assert!(attributes.prefer_local_build());
    assert!(!attributes.allow_substitutes());
    assert_eq!(attributes.pname_version(), ("structured".into(), Some("0.1".into())));
    assert_eq!(attributes.string("dev"), None);
}

#[test]
fn attributes_are_read_from_the_environment() {
    let (_, multiple) = named("multiple-2.0.drv");
    assert_eq!(multiple.structured_attrs(), Ok(None));
    let attributes = multiple.attributes().expect("no JSON");
    let features: Vec<String> = attributes.required_system_features().into_iter().collect();
    assert_eq!(features, ["big-parallel", "kvm"]);
    assert!(!attributes.prefer_local_build());
    assert!(attributes.allow_substitutes());
    assert_eq!(attributes.pname_version(), ("multiple".into(), Some("2.0".into())));
    assert!(!named("dependent-3.1.drv").1.attributes().expect("no JSON").allow_substitutes());
}

#[test]
fn only_structured_attributes_discard_references_and_only_of_the_outputs_they_name() {
    let discards = |key: &[u8], value: &str, output: &str| {
        let (_, mut derivation) = named("multiple-2.0.drv");
        derivation.env.insert(key.to_vec(), value.into());
        derivation.attributes().expect("valid").discards_references(output)
    };
    let json = r#"{"unsafeDiscardReferences":{"out":true,"dev":false,"doc":"true"}}"#;
    assert!(discards(b"__json", json, "out"));
    for output in ["dev", "doc", "man"] {
        assert!(!discards(b"__json", json, output), "{output}");
    }
    assert!(!discards(b"__json", r#"{"unsafeDiscardReferences":true}"#, "out"));
    assert!(!discards(b"unsafeDiscardReferences", r#"{"out":true}"#, "out"));
}

#[test]
fn names_are_split_where_nix_splits_them() {
    assert_eq!(split_name("hello-2.12.1"), ("hello", Some("2.12.1")));
    assert_eq!(split_name("nixos-system-alpha-26.05"), ("nixos-system-alpha", Some("26.05")));
    assert_eq!(split_name("etc"), ("etc", None));
    assert_eq!(split_name("a-"), ("a-", None));
    assert_eq!(split_name("a--1"), ("a", Some("-1")));
    assert_eq!(split_name("unit-x.service"), ("unit-x.service", None));
}

#[test]
fn resolving_replaces_inputs_by_paths() {
    let store = StoreDir::default();
    let derivations = derivations();
    let (_, dependent) = named("dependent-3.1.drv");
    let output_of = |drv: &StorePath, output: &OutputName| derivations[drv].output_path(output).cloned();
    let basic = dependent.resolve(&store, output_of).expect("all outputs are known");
    assert_eq!(basic.env, dependent.env);
    assert_eq!(basic.outputs, dependent.outputs);
    assert_eq!(basic.input_srcs.len(), 5);
    let multiple = named("multiple-2.0.drv").1;
    assert!(basic.input_srcs.contains(multiple.output_path(&"dev".parse().expect("valid")).expect("known")));
    assert!(!basic.input_srcs.contains(multiple.output_path(&out()).expect("known")));
    let wire = basic.to_aterm(&store);
    assert_eq!(BasicDerivation::parse(&store, "dependent-3.1", &wire), Ok(basic));
    let refused = BasicDerivation::parse(&store, "dependent-3.1", &dependent.to_aterm(&store));
    assert_eq!(refused, Err(DerivationError::NotBasic));
    let unknown = dependent.resolve(&store, |_, _| None);
    assert!(matches!(unknown, Err(DerivationError::UnknownInputOutput { .. })));
}

#[test]
fn resolving_fills_in_what_was_deferred() {
    let store = StoreDir::default();
    let derivations = derivations();
    let (path, deferred) = derivations
        .iter()
        .find(|(path, derivation)| {
            path.name() == "deferred.drv" && derivation.env.contains_key(b"library".as_slice())
        })
        .expect("a fixture");
    let built: StorePath = "00000000000000000000000000000000-floating".parse().expect("valid");
    let output_of = |drv: &StorePath, output: &OutputName| {
        derivations[drv].output_path(output).cloned().or_else(|| Some(built.clone()))
    };
    let basic = deferred.resolve(&store, output_of).expect("all outputs are known");
    let printed = store.print(&built).into_bytes();
    assert_eq!(basic.env.get(b"library".as_slice()), Some(&printed));
    assert_eq!(basic.env.get(b"floating".as_slice()), Some(&printed));
    assert_eq!(basic.kind(), Ok(DerivationKind::InputAddressed));
    let output = basic.output_path(&out()).expect("known now");
    assert_eq!(basic.env.get(b"out".as_slice()), Some(&store.print(output).into_bytes()));
    assert_eq!(basic.clone().into_derivation().check_output_paths(&store, |_| None), Ok(()), "{path}");
}

#[test]
fn fixed_paths_that_do_not_follow_are_refused() {
    let (_, flat) = named("flat.tar.gz.drv");
    let text = String::from_utf8(flat.to_aterm(&StoreDir::default())).expect("UTF-8");
    let output = flat.output_path(&out()).expect("fixed");
    let forged = text.replacen(output.hash_part(), &"0".repeat(32), 1);
    let result = Derivation::parse(&StoreDir::default(), "flat.tar.gz", forged.as_bytes());
    assert!(matches!(result, Err(DerivationError::WrongOutputPath { .. })));
    let renamed = Derivation::parse(&StoreDir::default(), "other", text.as_bytes());
    assert!(matches!(renamed, Err(DerivationError::WrongOutputPath { .. })));
    let upper = text.replacen("e3b0c4", "E3B0C4", 1);
    let result = Derivation::parse(&StoreDir::default(), "flat.tar.gz", upper.as_bytes());
    assert!(matches!(result, Err(DerivationError::Malformed { fault: Fault::Hash(_), .. })));
}

const OUT: &str = r#"("out","/nix/store/00000000000000000000000000000000-a","","")"#;
const DRV: &str = "/nix/store/11111111111111111111111111111111-b.drv";

#[test]
fn faults_are_named() {
    let rest = r#"[],[],"s","b",[],[])"#;
    assert!(parse(&format!("Derive([{OUT}],{rest}")).is_ok());
    assert_eq!(fault(""), Fault::Expected("Derive("));
    assert_eq!(fault(&format!("Derive([{OUT}],{rest} ")), Fault::Trailing);
    assert_eq!(fault(&format!("Derive([{OUT},],{rest}")), Fault::Expected("("));
    assert_eq!(fault(&format!("Derive([{OUT},{OUT}],{rest}")), Fault::OutOfOrder);
    assert_eq!(parse(&format!("Derive([],{rest}")), Err(DerivationError::NoOutputs));
    let dotted = OUT.replace("\"out\"", "\"..\"");
    assert!(matches!(fault(&format!("Derive([{dotted}],{rest}")), Fault::Path(_)));
    let foreign = OUT.replace("/nix/store", "/gnu/store");
    assert!(matches!(fault(&format!("Derive([{foreign}],{rest}")), Fault::Path(_)));
    let input = |inputs: &str| fault(&format!("Derive([{OUT}],[{inputs}],[],\"s\",\"b\",[],[])"));
    assert_eq!(input(&format!("(\"{DRV}\",[])")), Fault::NoInputOutputs);
    assert_eq!(input(&format!("(\"{DRV}\",[\"out\",\"dev\"])")), Fault::OutOfOrder);
    let plain = DRV.trim_end_matches(".drv");
    assert_eq!(input(&format!("(\"{plain}\",[\"out\"])")), Fault::InputIsNoDerivation);
    let tail = |tail: &str| fault(&format!("Derive([{OUT}],[],[],{tail}"));
    assert_eq!(tail(r#""s\n","b",[],[])"#), Fault::BadSystem);
    assert_eq!(tail(r#""s","b\x",[],[])"#), Fault::BadEscape);
    assert_eq!(tail("\"s\",\"b\n\",[],[])"), Fault::BadEscape);
    assert_eq!(tail(r#""s","b"#), Fault::UnterminatedString);
    assert_eq!(tail(r#""s","b\"#), Fault::UnterminatedString);
    assert_eq!(tail(r#""s","b",[],[("b",""),("a","")])"#), Fault::OutOfOrder);
    assert_eq!(tail(r#""s","b",[],[("a",""),("a","")])"#), Fault::OutOfOrder);
    let bytes = [b"Derive([(\"", b"\xff".as_slice()].concat();
    let not_text = Derivation::parse(&StoreDir::default(), "a", &[&bytes, b"\"".as_slice()].concat());
    assert!(matches!(not_text, Err(DerivationError::Malformed { fault: Fault::NotUtf8, .. })));
    let name = Derivation::parse(&StoreDir::default(), "a b", b"");
    assert!(matches!(name, Err(DerivationError::Name(_))));
}

#[test]
fn outputs_of_impossible_forms_are_refused() {
    let outputs = |outputs: &str| parse(&format!("Derive([{outputs}],[],[],\"s\",\"b\",[],[])"));
    let path = "/nix/store/00000000000000000000000000000000-a";
    for form in [
        format!(r#"("out","{path}","","00")"#),
        format!(r#"("out","{path}","sha256","")"#),
        format!(r#"("out","{path}","r:sha256","impure")"#),
        r#"("out","","","impure")"#.into(),
        r#"("out","","sha256","00")"#.into(),
    ] {
        let result = outputs(&form);
        assert!(
            matches!(result, Err(DerivationError::Malformed { fault: Fault::OutputForm, .. })),
            "{form}: {result:?}"
        );
    }
    let unknown = outputs(r#"("out","","sha3","")"#);
    assert!(matches!(unknown, Err(DerivationError::Malformed { fault: Fault::Hash(_), .. })));
    let mixed = |other: &str| outputs(&format!(r#"("dev","{path}","",""),{other}"#));
    assert_eq!(mixed(r#"("out","","","")"#), Err(DerivationError::MixedOutputs));
    assert_eq!(mixed(r#"("out","","r:sha256","")"#), Err(DerivationError::MixedOutputs));
    let algorithms = outputs(r#"("dev","","r:sha1",""),("out","","r:sha256","")"#);
    assert_eq!(algorithms, Err(DerivationError::MixedOutputs));
    let ca =
        ContentAddress { method: ContentAddressMethod::Flat, hash: Hash::of(HashAlgorithm::Sha256, b"") };
    let fixed = fixed_path(&StoreDir::default(), "a-dev", &ca, &References::none()).expect("valid");
    let dev = format!(r#"("dev","/nix/store/{fixed}","sha256","{}")"#, ca.hash.to_base16());
    assert_eq!(outputs(&dev), Err(DerivationError::MixedOutputs));
}

#[test]
fn malformed_structured_attributes_are_refused() {
    for json in ["", "{", "[]", "1"] {
        let text = format!(r#"Derive([{OUT}],[],[],"s","b",[],[("__json","{json}")])"#);
        assert!(matches!(parse(&text), Err(DerivationError::StructuredAttributes(_))), "{json}");
    }
}

#[test]
fn endless_derivations_are_refused_unread() {
    let bytes = vec![b'['; MAX_DERIVATION_LEN + 1];
    let result = Derivation::parse(&StoreDir::default(), "a", &bytes);
    assert_eq!(result, Err(DerivationError::TooLarge(bytes.len())));
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    let store = StoreDir::default();
    for (path, bytes) in fixtures() {
        let name = path.derivation_name().expect("a derivation");
        for len in 0..bytes.len() {
            assert!(Derivation::parse(&store, name, &bytes[..len]).is_err(), "{path} cut at {len}");
        }
    }
}

fn any_derivation() -> impl Strategy<Value = Derivation> {
    let path =
        || "[0-9a-df-np-sv-z]{32}-[a-z]{1,8}".prop_map(|text| text.parse::<StorePath>().expect("valid"));
    let drv = path().prop_map(|path| format!("{path}.drv").parse::<StorePath>().expect("valid"));
    let output = || "[a-z]{1,6}".prop_map(|name| name.parse::<OutputName>().expect("valid"));
    let input_addressed = prop::collection::btree_map(output(), path(), 1..4).prop_map(|outputs| {
        outputs.into_iter().map(|(name, path)| (name, DerivationOutput::InputAddressed(path))).collect()
    });
    let deferred = prop::collection::btree_set(output(), 1..4).prop_map(|outputs| {
        outputs.into_iter().map(|name| (name, DerivationOutput::Deferred)).collect::<BTreeMap<_, _>>()
    });
    let bytes = || any::<Vec<u8>>();
    let inputs = prop::collection::btree_map(drv, prop::collection::btree_set(output(), 1..3), 0..4);
    let env = prop::collection::btree_map(bytes(), bytes(), 0..5);
    (
        prop_oneof![input_addressed, deferred],
        inputs,
        prop::collection::btree_set(path(), 0..4),
        "[a-z0-9_-]{0,12}",
        bytes(),
        prop::collection::vec(bytes(), 0..4),
        env,
    )
        .prop_map(|(outputs, input_drvs, input_srcs, system, builder, args, env)| Derivation {
            name: "a".into(),
            outputs,
            input_drvs,
            input_srcs,
            system,
            builder,
            args,
            env,
        })
}

proptest! {
    #[test]
    fn any_derivation_reads_back(derivation in any_derivation()) {
        let store = StoreDir::default();
        let read = Derivation::parse(&store, "a", &derivation.to_aterm(&store));
        prop_assert_eq!(read, Ok(derivation));
    }

    #[test]
    fn whatever_is_read_prints_as_the_same_bytes(index: prop::sample::Index, byte: u8) {
        let (path, bytes) = fixtures().into_iter().find(|(path, _)| path.name() == "strings.drv").expect("a fixture");
        let mut bytes = bytes;
        let index = index.index(bytes.len());
        bytes[index] = byte;
        let store = StoreDir::default();
        if let Ok(read) = Derivation::parse(&store, path.derivation_name().expect("a derivation"), &bytes) {
            prop_assert_eq!(read.to_aterm(&store), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let store = StoreDir::default();
        let _ = Derivation::parse(&store, "a", &bytes);
        let _ = Derivation::parse(&store, "a", &[b"Derive([", bytes.as_slice()].concat());
        let _ = split_name(&String::from_utf8_lossy(&bytes));
    }
}
