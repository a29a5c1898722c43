use super::source::{MAX_CHUNK, MAX_SOURCE_INPUTS};
use super::*;

const DRV: &str = "00000000000000000000000000000000-x.drv";

fn source_of(size: u32) -> v1::Source {
    let chunk = v1::ChunkRef { digest: vec![0; 32].into(), size };
    v1::Source {
        nar_hash: vec![0; 32].into(),
        nar_size: size.into(),
        manifest: Some(v1::Manifest { chunks: vec![chunk] }),
        ..v1::Source::default()
    }
}

#[test]
fn a_source_is_whole_and_names_nothing_outside() {
    let with = |change: fn(&mut v1::Source)| {
        let mut changed = source_of(10);
        change(&mut changed);
        source(&changed)
    };
    assert!(with(|_| {}).is_ok());
    assert!(with(|source| source.subdir = "a/b".into()).is_ok());
    assert_eq!(with(|source| source.manifest = None), Err(WireError::Missing("source.manifest")));
    let manifest = Err(WireError::Invalid("source.manifest"));
    assert_eq!(with(|source| source.nar_size = 11), manifest);
    assert_eq!(with(|source| *source = source_of(MAX_CHUNK + 1)), manifest);
    for subdir in ["..", "a/../b", "/a", "a/", "./a"] {
        let changed = v1::Source { subdir: subdir.into(), ..source_of(10) };
        assert_eq!(source(&changed), Err(WireError::Invalid("source.subdir")), "{subdir}");
    }
    assert!(with(|source| source.rev = "main".into()).is_err());
}

#[test]
fn inputs_that_come_along_are_whole_and_part_of_what_a_source_is() {
    let input = |name: &str, hash: u8| v1::SourceInput {
        name: name.into(),
        nar_hash: vec![hash; 32].into(),
        nar_size: 10,
        manifest: source_of(10).manifest,
    };
    let with = |inputs: Vec<v1::SourceInput>| v1::Source { inputs, ..source_of(10) };
    let known = source(&with(vec![input("a", 1), input("b", 2)])).expect("taken");
    let mut travelled = with(vec![input("other", 2), input("a", 1), input("again", 1)]);
    travelled.inputs[0].manifest = None;
    assert_eq!(source_id(&travelled), Ok(known), "names and chunks are not what it is");
    assert_ne!(source(&with(vec![input("a", 1)])), Ok(known));
    assert_eq!(source(&travelled), Err(WireError::Missing("source.inputs.manifest")));
    let bad = Err(WireError::Invalid("source.inputs"));
    assert_eq!(source(&with(vec![v1::SourceInput { nar_size: 11, ..input("a", 1) }])), bad);
    assert_eq!(source(&with(vec![v1::SourceInput { nar_hash: vec![0; 31].into(), ..input("a", 1) }])), bad);
    assert!(source(&with(vec![input("a", 1); MAX_SOURCE_INPUTS + 1])).is_err());
    assert!(source(&with(vec![input(&"x".repeat(MAX_NAME + 1), 1)])).is_err());
}

#[test]
fn only_the_names_of_store_paths_pass() {
    assert!(drv_path(DRV.to_owned()).is_ok());
    let long = format!("{}-{}.drv", "0".repeat(32), "x".repeat(208));
    for bad in ["", "x.drv", &DRV.replace('x', "/"), &DRV.replace('x', "\n"), &DRV[..34], &long] {
        assert!(drv_path(bad.to_owned()).is_err(), "{bad:?}");
    }
    assert!(output_path("00000000000000000000000000000000-x".into()).is_ok());
    assert!(output_path("/nix/store/00000000000000000000000000000000-x".into()).is_err());
}

#[test]
fn long_texts_are_cut_between_characters() {
    let long =
        v1::Failure { cause: "é".repeat(MAX_CAUSE), detail: "é".repeat(MAX_DETAIL), ..Default::default() };
    let short = failure(long);
    assert_eq!(short.cause.len(), MAX_CAUSE);
    assert_eq!(short.detail.len(), MAX_DETAIL);
    assert_eq!(short.code, FailureCode::Infrastructure, "unknown codes blame the infrastructure");
}

#[test]
fn outcomes_and_kinds_that_do_not_exist_are_refused() {
    for outcome in [0, -1, 17, i32::MAX] {
        let report = v1::StepReported { drv: DRV.into(), outcome, ..v1::StepReported::default() };
        let parsed = step_reported(WorkerId(1), report, &"".into());
        assert_eq!(parsed, Err(WireError::Invalid("outcome")));
    }
    for kind in [0, 4, -1] {
        assert!(host(v1::Host { name: "a".into(), kind }).is_err());
    }
}

#[test]
fn a_hello_is_bounded() {
    let hello = |name: &str| v1::Hello { name: name.into(), slots: u32::MAX, ..v1::Hello::default() };
    assert_eq!(worker_hello(hello("w")).expect("taken").slots, 4096);
    for name in ["", "a\nb", "\x1b[31m", &"x".repeat(MAX_NAME + 1)] {
        assert!(worker_hello(hello(name)).is_err(), "{name:?}");
    }
    let wordy = v1::Hello { systems: vec!["x".repeat(MAX_WORD + 1)], ..hello("w") };
    assert_eq!(worker_hello(wordy), Err(WireError::TooLarge("hello.systems")));
}

#[test]
fn path_infos_that_name_no_store_path_are_refused() {
    let info = v1::PathInfo { path: DRV.into(), nar_hash: vec![0; 32].into(), ..v1::PathInfo::default() };
    assert!(path_info(&info).is_ok());
    assert!(path_info(&v1::PathInfo { nar_hash: vec![0; 31].into(), ..info.clone() }).is_err());
    assert!(path_info(&v1::PathInfo { references: vec!["../x".into()], ..info.clone() }).is_err());
    assert!(path_info(&v1::PathInfo { deriver: "nobody".into(), ..info }).is_err());
}

#[test]
fn a_worker_comes_back_with_so_many_leases_and_so_much_text() {
    let hello = || v1::Hello { name: "w".into(), ..v1::Hello::default() };
    let many = v1::Hello { holds: vec![v1::HeldLease::default(); MAX_HOLDS + 1], ..hello() };
    assert_eq!(worker_hello(many), Err(WireError::TooLarge("hello.holds")));
    let long = "x".repeat(MAX_WORD + 1);
    for wordy in [
        v1::Hello { boot_id: long.clone(), ..hello() },
        v1::Hello { instance_id: long.clone(), ..hello() },
        v1::Hello { nix_version: long.clone(), ..hello() },
        v1::Hello { emulated_systems: vec!["x".into(); 65], ..hello() },
        v1::Hello { mandatory_features: vec!["x".into(); 257], ..hello() },
    ] {
        assert!(worker_hello(wordy).is_err());
    }
}

#[test]
fn heartbeats_hold_numbers() {
    let wild = v1::Heartbeat {
        load1: f64::NAN,
        cpu_pressure: f64::INFINITY,
        memory_pressure: -3.0,
        io_pressure: 12.5,
        unwell: "x".repeat(MAX_CAUSE + 1),
        ..v1::Heartbeat::default()
    };
    let tame = heartbeat(&wild);
    assert_eq!((tame.load1, tame.cpu_pressure, tame.memory_pressure), (0.0, 0.0, 0.0));
    assert!((tame.io_pressure - 12.5).abs() < f64::EPSILON);
    assert_eq!(tame.unwell.len(), MAX_CAUSE);
}

#[test]
fn limits_of_zero_are_not_asked_for() {
    let limits = v1::StepLimits { timeout_s: 5, max_log_bytes: 7, ..v1::StepLimits::default() };
    let request =
        v1::SubmitRequest { after: Some(source_of(10)), limits: Some(limits), ..Default::default() };
    let parsed = run_request(&request).expect("well formed");
    let limits = StepLimits { timeout_s: Some(5), max_log_bytes: Some(7), ..StepLimits::default() };
    assert_eq!((parsed.limits, parsed.earlier_failures), (limits, EarlierFailures::Believe));
    let again = v1::SubmitRequest { retry_failed: true, limits: None, ..request };
    let parsed = run_request(&again).expect("well formed");
    assert_eq!((parsed.limits, parsed.earlier_failures), (StepLimits::default(), EarlierFailures::Retry));
}

#[test]
fn long_lists_are_refused_by_name() {
    let many_hosts = vec![v1::Host { name: "a".into(), kind: 1 }; MAX_HOSTS + 1];
    let discovered_many = v1::HostsDiscovered { hosts: many_hosts, ..v1::HostsDiscovered::default() };
    assert_eq!(discovered(WorkerId(1), discovered_many), Err(WireError::TooLarge("hosts")));
    let evaluated = v1::Evaluated { wanted: vec![String::new(); MAX_WANTED + 1], ..v1::Evaluated::default() };
    let host = Some(v1::Host { name: "a".into(), kind: 1 });
    let result = Some(v1::host_evaluated::Result::Evaluated(evaluated));
    let message = v1::HostEvaluated { host: host.clone(), result, ..v1::HostEvaluated::default() };
    assert_eq!(host_evaluated(WorkerId(1), message), Err(WireError::TooLarge("wanted")));
    let nothing = v1::HostEvaluated { host, result: None, ..v1::HostEvaluated::default() };
    assert_eq!(host_evaluated(WorkerId(1), nothing), Err(WireError::Missing("result")));
    let nobody = v1::HostEvaluated::default();
    assert_eq!(host_evaluated(WorkerId(1), nobody), Err(WireError::Missing("host")));
    let outputs = vec![v1::BuiltOutput { name: "out".into(), path: DRV.into(), info: None }; MAX_OUTPUTS + 1];
    let report = v1::StepReported { drv: DRV.into(), outcome: 1, outputs, ..v1::StepReported::default() };
    assert!(step_reported(WorkerId(1), report, &"".into()).is_err());
    let globs = v1::Selection { hosts: vec!["*".into(); MAX_GLOBS + 1], ..v1::Selection::default() };
    let request =
        v1::SubmitRequest { after: Some(source_of(10)), selection: Some(globs), ..Default::default() };
    assert_eq!(run_request(&request), Err(WireError::TooLarge("selection")));
}

#[test]
fn every_outcome_that_exists_passes_and_keeps_its_class() {
    for outcome in 1..=16 {
        let report = v1::StepReported { drv: DRV.into(), outcome, ..v1::StepReported::default() };
        let event = step_reported(WorkerId(1), report, &"tail".into()).expect("it exists");
        let Event::StepReported { report: StepReport::Ended { outcome: parsed, .. }, .. } = event else {
            panic!("not an end: {event:?}");
        };
        let name = v1::OutcomeClass::try_from(outcome).expect("it exists").as_str_name();
        match parsed {
            StepOutcome::Built(_) => assert_eq!(name, "OUTCOME_CLASS_BUILT"),
            StepOutcome::AlreadyValid(_) => assert_eq!(name, "OUTCOME_CLASS_ALREADY_VALID"),
            StepOutcome::Failed(class, _) => {
                let words = format!("{class:?}");
                assert_eq!(name.trim_start_matches("OUTCOME_CLASS_").replace('_', ""), words.to_uppercase());
            }
        }
    }
}

#[test]
fn failures_and_counts_come_back_as_they_went() {
    for (code, name) in crate::to_wire::FAILURE_CODES {
        let drv = Some(DrvPath::from(DRV));
        let original = Failure { code, cause: "cause".into(), detail: "detail".into(), drv };
        let wire = crate::to_wire::failure(&original);
        assert_eq!(wire.code, name);
        assert_eq!(failure(wire), original);
    }
    let original = Counts {
        wanted: 1,
        built: 2,
        substituted: 3,
        cached: 4,
        failed: 5,
        deduplicated: 6,
        running: 7,
        cancelled: 8,
    };
    assert_eq!(counts(&crate::to_wire::counts(&original)), original);
    for kind in [HostKind::Nixos, HostKind::Darwin, HostKind::Home] {
        let original = Host { name: "a\u{202e}\n".into(), kind };
        assert_eq!(host(crate::to_wire::host(&original)), Ok(original));
    }
}

#[test]
fn what_is_missing_and_how_large_outputs_are_pass_the_edge() {
    let out = "00000000000000000000000000000000-x";
    let output = |nar_size| v1::BuiltOutput {
        path: out.into(),
        info: Some(v1::PathInfo { nar_size, ..v1::PathInfo::default() }),
        ..v1::BuiltOutput::default()
    };
    let report = |outputs: Vec<v1::BuiltOutput>, missing: Vec<String>| {
        let (drv, outcome) = (DRV.into(), v1::OutcomeClass::InputMissing.into());
        let report = v1::StepReported { drv, outcome, outputs, missing, ..v1::StepReported::default() };
        let event = step_reported(WorkerId(1), report, &"".into())?;
        let Event::StepReported { report: StepReport::Ended { output_bytes, missing, .. }, .. } = event
        else {
            panic!("not an end: {event:?}");
        };
        Ok((output_bytes, missing))
    };
    assert_eq!(report(vec![output(2), output(3)], vec![out.into()]), Ok((5, vec![out.into()])));
    assert_eq!(report(vec![output(u64::MAX), output(1)], Vec::new()), Ok((u64::MAX, Vec::new())));
    let (_, missing) =
        report(Vec::new(), vec![out.into(); MAX_MISSING + 1]).expect("the rest is found again");
    assert_eq!(missing.len(), MAX_MISSING);
    assert_eq!(report(Vec::new(), vec!["../x".into()]), Err(WireError::Invalid("output")));
    let wrong = v1::PathsRealised { missing: vec!["x".into()], ..v1::PathsRealised::default() };
    assert_eq!(realised(WorkerId(1), wrong), Err(WireError::Invalid("output")));
}

#[test]
fn a_store_says_what_it_has_room_for_or_nothing() {
    let heard = |store_total, store_free| {
        load(&v1::Heartbeat { store_total, store_free, ..v1::Heartbeat::default() }).store_free
    };
    assert_eq!((heard(0, 0), heard(10, 0), heard(10, 4)), (None, Some(0), Some(4)));
}
