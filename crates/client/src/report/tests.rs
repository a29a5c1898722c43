//! From events to results and exit codes.

use fleet_diff::{Format, SideLabel};
use fleet_wire::v1::{self, RunOutcome, Side, TargetStatus, run_event::Event};

use super::{Record, Sides, exit, plain_lines};
use crate::exit_code::Exit;

fn settled(host: &str, side: Side, status: TargetStatus, toplevel: &str) -> Event {
    let failed = matches!(status, TargetStatus::EvalFailed | TargetStatus::BuildFailed);
    let failure = v1::Failure { code: "build_failed".into(), cause: "it broke".into(), ..Default::default() };
    Event::TargetSettled(v1::TargetSettled {
        host: host.into(),
        side: side.into(),
        status: status.into(),
        drv: "00000000000000000000000000000000-top.drv".into(),
        toplevel: toplevel.into(),
        failure: failed.then_some(failure),
        kind: v1::HostKind::Nixos.into(),
    })
}

fn path(path: &str, references: &[&str]) -> v1::PathInfo {
    let references = references.iter().map(|&path| path.to_owned()).collect();
    v1::PathInfo { path: path.into(), nar_size: 1024, references, ..Default::default() }
}

fn record(events: Vec<Event>) -> Record {
    let mut record = Record::default();
    for event in events {
        record.apply(v1::RunEvent { sequence: 1, at_ms: 0, event: Some(event) });
    }
    record
}

fn compared() -> Sides {
    Sides { before: Some(SideLabel::default()), after: SideLabel::default() }
}

fn alone() -> Sides {
    Sides { before: None, after: SideLabel::default() }
}

#[test]
fn lines_name_hosts_that_have_a_toplevel() {
    let events = vec![
        settled("web", Side::After, TargetStatus::Built, "/nix/store/aaa-web"),
        settled("db", Side::After, TargetStatus::Cached, "bbb-db"),
        settled("bad", Side::After, TargetStatus::BuildFailed, "ccc-bad"),
        settled("a b;c\u{1b}[2J", Side::After, TargetStatus::Built, "ddd-odd"),
    ];
    let report = record(events).into_report("run", alone());
    insta::assert_snapshot!(plain_lines(&report), @r"
    a b;c\u{1b}[2J  /nix/store/ddd-odd
    db  /nix/store/bbb-db
    web  /nix/store/aaa-web
    ");
    assert!(report.hosts.iter().all(|host| !host.changed), "without a base nothing has changed");
}

#[test]
fn two_closures_become_a_diff() {
    let infos = vec![
        path(
            "00000000000000000000000000000001-nixos-system-web-1",
            &["00000000000000000000000000000003-curl-8.10.1"],
        ),
        path(
            "00000000000000000000000000000002-nixos-system-web-2",
            &["00000000000000000000000000000004-curl-8.11.0"],
        ),
        path("00000000000000000000000000000003-curl-8.10.1", &[]),
        path("00000000000000000000000000000004-curl-8.11.0", &[]),
    ];
    let events = vec![
        Event::PathInfos(v1::PathInfos { infos }),
        settled(
            "web",
            Side::Before,
            TargetStatus::Cached,
            "00000000000000000000000000000001-nixos-system-web-1",
        ),
        settled(
            "web",
            Side::After,
            TargetStatus::Built,
            "00000000000000000000000000000002-nixos-system-web-2",
        ),
        settled("db", Side::Before, TargetStatus::Unchanged, "bbb-db"),
        settled("db", Side::After, TargetStatus::Unchanged, "bbb-db"),
    ];
    let report = record(events).into_report("run", compared());
    let nvd = fleet_diff::render(&report, Format::Nvd);
    assert!(
        nvd.starts_with("### web\n") && nvd.contains("curl") && nvd.contains("8.10.1 -> 8.11.0"),
        "{nvd}"
    );
    assert!(!nvd.contains("### db"), "{nvd}");
}

#[test]
fn a_closure_with_a_hole_is_noted_and_not_compared() {
    let events = vec![
        settled("web", Side::Before, TargetStatus::Cached, "aaa-old"),
        settled("web", Side::After, TargetStatus::Built, "bbb-new"),
    ];
    let report = record(events).into_report("run", compared());
    assert!(report.hosts[0].diff.is_none() && report.hosts[0].changed);
    assert_eq!(report.notices.len(), 1, "{:?}", report.notices);
}

#[test]
fn exit_codes_follow_the_outcome() {
    let good =
        record(vec![settled("web", Side::After, TargetStatus::Built, "a")]).into_report("run", alone());
    let bad =
        record(vec![settled("web", Side::After, TargetStatus::EvalFailed, "")]).into_report("run", alone());
    assert_eq!(exit(&good, RunOutcome::Succeeded, false), Exit::Success);
    assert_eq!(exit(&bad, RunOutcome::Partial, false), Exit::HostsFailed);
    assert_eq!(exit(&good, RunOutcome::Cancelled, true), Exit::Cancelled);
    // With --fail-fast the rest is cancelled without the user having asked.
    assert_eq!(exit(&bad, RunOutcome::Cancelled, false), Exit::HostsFailed);
    assert_eq!(exit(&bad, RunOutcome::Cancelled, true), Exit::Cancelled);
    assert_eq!(exit(&good, RunOutcome::Failed, false), Exit::Error);
    let codes = [Exit::Success, Exit::Error, Exit::HostsFailed, Exit::Cancelled].map(Exit::code);
    assert_eq!(codes, [0, 1, 4, 130]);
}

#[test]
fn hosts_of_one_name_and_two_kinds_stay_two() {
    let home = v1::TargetSettled {
        host: "web".into(),
        kind: v1::HostKind::Home.into(),
        side: Side::After.into(),
        status: TargetStatus::Built.into(),
        toplevel: "bbb-home".into(),
        ..Default::default()
    };
    let nixos = settled("web", Side::After, TargetStatus::Built, "aaa-web");
    let report = record(vec![nixos, Event::TargetSettled(home)]).into_report("run", alone());
    insta::assert_snapshot!(plain_lines(&report), @r"
    nixos/web  /nix/store/aaa-web
    home/web  /nix/store/bbb-home
    ");
}
