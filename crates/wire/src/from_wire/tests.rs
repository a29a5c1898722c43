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
