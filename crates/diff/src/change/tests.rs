use super::*;

fn instance(version: &str, output: &str, variant: &str) -> Instance {
    Instance { version: Arc::from(version), output: Arc::from(output), variant: Arc::from(variant) }
}

fn classified(before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]) -> What {
    let side = |parts: &[(&str, &str, &str)]| parts.iter().map(|(v, o, w)| instance(v, o, w)).collect();
    classify(&Arc::from("x"), side(before), side(after))
}

#[test]
fn outputs_that_move_between_versions_are_named() {
    let what = classified(
        &[("1", "", ""), ("1", "dev", ""), ("2", "", "")],
        &[("1", "", ""), ("2", "", ""), ("2", "dev", "")],
    );
    assert_eq!(what.kind, ChangeKind::OutputsChanged);
    assert_eq!((&*what.outputs_removed[0], &*what.outputs_added[0]), ("dev", "dev"));
}

#[test]
fn copies_that_move_between_versions_are_a_change_without_numbers() {
    let what = classified(
        &[("1", "", ""), ("1", "", ""), ("2", "", "")],
        &[("1", "", ""), ("2", "", ""), ("2", "", "")],
    );
    assert_eq!((what.kind, what.copies), (ChangeKind::CopiesChanged, None));
}

#[test]
fn version_and_interpreter_may_change_together() {
    let what = classified(&[("2.31", "", "python3.12")], &[("2.32", "", "python3.13")]);
    assert_eq!(what.kind, ChangeKind::Upgraded);
    assert_eq!((&*what.variants_before[0], &*what.variants_after[0]), ("python3.12", "python3.13"));
}

#[test]
fn versions_pair_with_their_nearest() {
    let what = classified(&[("1.2.3", "", ""), ("2.0", "", "")], &[("1.2.4", "", ""), ("3.0", "", "")]);
    let pairs: Vec<_> = what.versions.iter().map(|pair| (&*pair.before, &*pair.after)).collect();
    assert_eq!(pairs, [("1.2.3", "1.2.4"), ("2.0", "3.0")]);
    let what = classified(&[("1.0", "", ""), ("2.0", "", "")], &[("2.1", "", ""), ("3.0", "", "")]);
    assert_eq!(
        (what.kind, &*what.versions[0].before, &*what.versions[0].after),
        (ChangeKind::Upgraded, "2.0", "2.1")
    );
    assert_eq!((&*what.versions_removed[0], &*what.versions_added[0]), ("1.0", "3.0"));
}

#[test]
fn hundreds_of_versions_are_paired_in_no_time() {
    let versions = |from: u32| (from..from + 400).map(|n| instance(&n.to_string(), "", "")).collect();
    let what = classify(&Arc::from("x"), versions(0), versions(1000));
    assert_eq!((what.kind, what.versions.len()), (ChangeKind::Upgraded, 400));
}
