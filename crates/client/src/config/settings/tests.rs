//! Who wins, and what is refused.

use super::*;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    Environment(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
}

#[test]
fn flags_beat_variables_beat_files_beat_defaults() {
    let project = ProjectFile {
        format: Some(ReportFormat::Nvd),
        fail_fast: Some(true),
        exclude: Some(vec!["old-*".to_owned()]),
        ..ProjectFile::default()
    };
    let user = UserFile { format: Some(ReportFormat::Json), worker_slots: Some(3), ..UserFile::default() };
    let files = Files {
        project: Some(("/f/fleet.toml".into(), project)),
        user: Some(("/c/config.toml".into(), user)),
    };
    let environment =
        environment(&[("HOME", "/home/u"), ("FLEET_EXCLUDE", "a, b"), ("FLEET_FAIL_FAST", "0")]);
    let run = RunArgs { fail_fast: true, ..RunArgs::default() };
    let settings = Settings::resolve(&GlobalArgs::default(), &run, &environment, &files).expect("settings");
    let project = Origin::File("/f/fleet.toml".into());
    assert_eq!(settings.format, Setting { value: ReportFormat::Nvd, origin: project });
    assert_eq!(settings.fail_fast, Setting { value: true, origin: Origin::Flag("--fail-fast") });
    assert_eq!(settings.exclude.value, ["a", "b"]);
    assert_eq!(settings.exclude.origin, Origin::Variable("FLEET_EXCLUDE"));
    assert_eq!(settings.worker_slots.value, Some(3));
    assert_eq!(settings.state_dir.value, PathBuf::from("/home/u/.local/state/fleetctl"));
    assert_eq!(settings.kind.origin, Origin::Default);
}

#[test]
fn a_variable_that_makes_no_sense_is_an_error() {
    for slots in ["0", "1025", "many"] {
        let environment = environment(&[("HOME", "/h"), ("FLEET_WORKER_SLOTS", slots)]);
        let run = RunArgs::default();
        let error = Settings::resolve(&GlobalArgs::default(), &run, &environment, &Files::default());
        let error = error.expect_err("refused").to_string();
        assert_eq!(error, format!("FLEET_WORKER_SLOTS is `{slots}`, not a number from 1 to 1024"));
    }
}

#[test]
fn without_a_home_the_missing_variable_is_named() {
    let run = RunArgs::default();
    let error = Settings::resolve(&GlobalArgs::default(), &run, &Environment::default(), &Files::default());
    let error = error.expect_err("refused").to_string();
    assert_eq!(error, "no directory for state: neither XDG_STATE_HOME nor HOME is set");
}
