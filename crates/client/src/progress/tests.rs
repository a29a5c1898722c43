//! Frames, lasting lines and what reaches the stream, as text.

use fleet_wire::v1::{self, RunEvent, Side, StepStatus, TargetStatus, run_event::Event};

use super::console::{Console, ConsoleOptions, Mode, choose_mode, colored, folds};
use super::narrate::{Narrator, Saying};
use super::render::{Size, duration, render};
use super::state::Progress;
use crate::args::ColorChoice;
use crate::config::Environment;

fn event(at_ms: u64, event: Event) -> RunEvent {
    RunEvent { sequence: 1, at_ms, event: Some(event) }
}

fn found(side: Side, names: &[&str]) -> Event {
    let hosts = names.iter().map(|name| v1::Host { name: (*name).into(), kind: v1::HostKind::Nixos.into() });
    Event::HostsFound(v1::HostsFound { side: side.into(), hosts: hosts.collect() })
}

fn evaluating(host: &str, side: Side) -> Event {
    Event::TargetStarted(v1::TargetStarted {
        host: host.into(),
        kind: v1::HostKind::Nixos.into(),
        side: side.into(),
    })
}

fn evaluated(host: &str, side: Side, steps: u32) -> Event {
    let target = v1::TargetEvaluated {
        host: host.into(),
        kind: v1::HostKind::Nixos.into(),
        side: side.into(),
        steps,
        ..Default::default()
    };
    Event::TargetEvaluated(target)
}

fn settled(host: &str, side: Side, status: TargetStatus, failure: impl Into<Option<v1::Failure>>) -> Event {
    Event::TargetSettled(v1::TargetSettled {
        host: host.into(),
        kind: v1::HostKind::Nixos.into(),
        side: side.into(),
        status: status.into(),
        failure: failure.into(),
        ..Default::default()
    })
}

fn started(name: &str) -> Event {
    Event::StepStarted(v1::StepStarted {
        drv: format!("hash-{name}.drv"),
        name: name.into(),
        worker: "embedded".into(),
        attempt: 1,
        ..Default::default()
    })
}

fn finished(
    name: &str,
    status: StepStatus,
    duration_ms: u64,
    failure: impl Into<Option<v1::Failure>>,
) -> Event {
    Event::StepFinished(v1::StepFinished {
        drv: format!("hash-{name}.drv"),
        name: name.into(),
        status: status.into(),
        attempt: 1,
        duration_ms,
        failure: failure.into(),
    })
}

fn log(name: &str, text: &str) -> Event {
    Event::StepLog(v1::StepLog {
        drv: format!("hash-{name}.drv"),
        name: name.into(),
        attempt: 1,
        data: text.to_owned().into(),
    })
}

fn failure(cause: &str, detail: &str, drv: &str) -> v1::Failure {
    let drv = if drv.is_empty() { String::new() } else { format!("hash-{drv}.drv") };
    v1::Failure { code: "build_failed".into(), cause: cause.into(), detail: detail.into(), drv }
}

/// A run in its middle: two sides, six hosts in every state, three builds.
fn middle() -> Vec<RunEvent> {
    let names = ["db", "mail", "router", "web1", "web2", "web3"];
    let counts = v1::Counts { wanted: 240, built: 117, running: 3, ..Default::default() };
    vec![
        event(100, found(Side::Before, &names)),
        event(200, found(Side::After, &names)),
        event(300, settled("db", Side::Before, TargetStatus::Unchanged, None)),
        event(300, settled("db", Side::After, TargetStatus::Unchanged, None)),
        event(400, settled("mail", Side::Before, TargetStatus::Cached, None)),
        event(500, settled("mail", Side::After, TargetStatus::Built, None)),
        event(
            600,
            settled(
                "router",
                Side::After,
                TargetStatus::EvalFailed,
                failure("no disk", "error: no disk", ""),
            ),
        ),
        event(700, evaluated("web1", Side::Before, 3)),
        event(800, evaluated("web1", Side::After, 90)),
        event(900, evaluating("web2", Side::After)),
        event(1_000, started("linux-6.18.17")),
        event(
            1_000,
            Event::StepPhase(v1::StepPhase {
                drv: "hash-linux-6.18.17.drv".into(),
                phase: "buildPhase".into(),
            }),
        ),
        event(30_000, started("firefox-151.0")),
        event(60_000, started("etc")),
        event(60_000, Event::Counts(counts)),
    ]
}

fn frame(events: &[RunEvent], columns: usize, rows: usize, now_ms: u64) -> String {
    let mut progress = Progress::default();
    for event in events {
        progress.apply(event);
    }
    let lines = render(&progress, Size { columns, rows }, now_ms);
    assert!(lines.len() <= (rows / 3).max(1), "a third of the screen");
    lines.iter().map(|line| line.text() + "\n").collect()
}

fn said(narrator: &mut Narrator, events: &[RunEvent]) -> String {
    let sayings = events.iter().flat_map(|event| narrator.narrate(event));
    let lines = sayings.map(|saying| match saying {
        Saying::Line(importance, line) => format!("{importance:?}: {}\n", line.text()),
        Saying::Block(title, lines) => {
            let lines: Vec<String> = lines.iter().map(|line| format!("  {}\n", line.text())).collect();
            format!("[{title}]\n{}", lines.concat())
        }
    });
    lines.collect()
}

#[test]
fn the_region_shows_every_host_and_what_is_built() {
    insta::assert_snapshot!(frame(&middle(), 72, 30, 65_000), @r"
    1m05s  6 hosts · 5 to evaluate · 117/240 steps · 3 building · 1 host f…
      =✓✗be·
      ▸ linux-6.18.17  buildPhase  1m04s
      ▸ firefox-151.0  35s
      ▸ etc  5s
    ");
}

#[test]
fn a_small_terminal_gets_fewer_lines_and_never_a_wrapped_one() {
    insta::assert_snapshot!(frame(&middle(), 30, 12, 65_000), @r"
    1m05s  6 hosts · 5 to evalua…
      =✓✗be·
      ▸ linux-6.18.17  buildPhas…
      and 2 more
    ");
    insta::assert_snapshot!(frame(&middle(), 10, 3, 65_000), @"1m05s  6…");
}

#[test]
fn before_hosts_are_known_the_region_says_so() {
    insta::assert_snapshot!(frame(&[], 80, 24, 2_500), @"2s  looking for hosts");
}

#[test]
fn more_hosts_than_cells_are_counted() {
    let names: Vec<String> = (0..500).map(|n| format!("host{n:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    insta::assert_snapshot!(frame(&[event(0, found(Side::After, &names))], 60, 24, 1_000), @r"
    1s  500 hosts · 500 to evaluate
      ·························································
      ·························································
      ······································ and 348 more hosts
    ");
}

#[test]
fn a_hostile_name_stays_on_its_line() {
    let events = [event(0, found(Side::After, &["a"])), event(0, started("x\u{1b}[2J\u{202e}\ny"))];
    insta::assert_snapshot!(frame(&events, 60, 24, 1_000), @r"
    1s  1 host · 1 to evaluate · 1 building
      ·
      ▸ x\u{1b}[2J\u{202e} y  1s
    ");
}

#[test]
fn a_finished_step_leaves_the_region() {
    let mut events = middle();
    events.push(event(66_000, finished("etc", StepStatus::Built, 6_000, None)));
    assert!(!frame(&events, 72, 30, 66_000).contains("etc"));
    assert!(frame(&events, 72, 30, 66_000).contains("118/240 steps"));
}

#[test]
fn a_failure_is_told_once_with_its_log_and_then_by_whom_it_hits() {
    let tail = "building\n\x1b[31merror: broken\x1b[0m\n";
    let cause = "builder failed with exit code 2";
    let events = [
        event(0, finished("lib-1.0", StepStatus::Failed, 1_000, failure(cause, tail, "lib-1.0"))),
        event(0, settled("web1", Side::After, TargetStatus::BuildFailed, failure(cause, tail, "lib-1.0"))),
        event(0, settled("web2", Side::Before, TargetStatus::BuildFailed, failure(cause, tail, "lib-1.0"))),
        event(
            0,
            settled("db", Side::Before, TargetStatus::EvalFailed, failure("no disk", "trace\nno disk", "")),
        ),
        event(
            0,
            settled("db", Side::After, TargetStatus::EvalFailed, failure("no disk", "trace\nno disk", "")),
        ),
    ];
    insta::assert_snapshot!(said(&mut Narrator::new(0, false, false), &events), @r"
    Important:       Failed lib-1.0: builder failed with exit code 2
    Important:              │ building
    Important:              │ error: broken
    Important:       Failed web1: it needs lib-1.0
    Important:       Failed web2 (before): it needs lib-1.0
    Important:       Failed db (before): no disk
    Important:              │ trace
    Important:              │ no disk
    Important:       Failed db: no disk
    ");
}

#[test]
fn long_logs_are_cut_to_their_end_and_say_where_the_rest_is() {
    let tail = (1..=30).map(|n| format!("line {n}\n")).collect::<Vec<_>>().concat();
    let events = [event(0, finished("lib", StepStatus::Failed, 0, failure("it failed", &tail, "lib")))];
    let short = said(&mut Narrator::new(0, false, false), &events);
    assert!(!short.contains("line 20\n") && short.contains("line 21\n"), "{short}");
    assert!(short.contains("whole log: fleetctl logs hash-lib.drv"), "{short}");
    for mut narrator in [Narrator::new(0, false, true), Narrator::new(1, false, false)] {
        let long = said(&mut narrator, &events);
        assert!(long.contains("line 1\n") && !long.contains("whole log"), "{long}");
    }
}

#[test]
fn a_trace_is_cut_between_its_frames() {
    let source = "  8| a\n  9| b\n   | ^\n 10| c\n";
    let trace = format!(
        "error:\n … while one\n{source}\n … while two\n{source}\n error: no disk\n at flake.nix:9:1:\n"
    );
    let failed = settled("db", Side::After, TargetStatus::EvalFailed, failure("no disk", &trace, ""));
    insta::assert_snapshot!(said(&mut Narrator::new(0, false, false), &[event(0, failed)]), @r"
    Important:       Failed db: no disk
    Important:              │  … while two
    Important:              │   8| a
    Important:              │   9| b
    Important:              │    | ^
    Important:              │  10| c
    Important:              │  error: no disk
    Important:              │  at flake.nix:9:1:
    ");
}

#[test]
fn logs_stream_with_the_name_of_their_build() {
    let events =
        [event(0, log("lib", "one\ntwo\n")), event(0, finished("lib", StepStatus::Built, 900, None))];
    insta::assert_snapshot!(said(&mut Narrator::new(0, true, false), &events), @r"
    Routine: lib> one
    Routine: lib> two
    ");
    // Where blocks can be folded, a build is one of them.
    insta::assert_snapshot!(said(&mut Narrator::new(0, true, true), &events), @r"
    [lib built in 0s]
      lib> one
      lib> two
    ");
    assert_eq!(said(&mut Narrator::new(0, false, true), &events), "");
}

#[test]
fn success_is_told_in_few_words() {
    let counts = v1::Counts { built: 3, substituted: 20, cached: 7, deduplicated: 12, ..Default::default() };
    let mut events = middle();
    events.truncate(6);
    events.push(event(0, finished("linux-6.18.17", StepStatus::Built, 65_000, None)));
    let run = v1::RunFinished { counts: Some(counts), total_ms: 70_000, ..Default::default() };
    events.push(event(0, Event::RunFinished(run)));
    insta::assert_snapshot!(said(&mut Narrator::new(0, false, false), &events), @r"
    Routine:        Found 6 hosts (before)
    Routine:        Found 6 hosts
    Routine:    Unchanged db
    Routine:     Finished mail
    Routine:        Built linux-6.18.17 in 1m05s
    Closing:         Done in 1m10s: 3 steps built, 20 substituted, 7 there already, 12 shared
    ");
}

fn size() -> Size {
    Size { columns: 60, rows: 24 }
}

fn shown(mode: Mode, fold: bool, show: impl FnOnce(&mut Console<&mut Vec<u8>>, &mut Narrator)) -> String {
    let mut bytes = Vec::new();
    let mut console = Console::new(&mut bytes, ConsoleOptions { mode, color: false, fold, size });
    show(&mut console, &mut Narrator::new(0, true, fold));
    console.finish();
    String::from_utf8(bytes).expect("text").replace('\u{1b}', "ESC").replace('\r', "CR")
}

fn play(console: &mut Console<&mut Vec<u8>>, narrator: &mut Narrator) {
    let events = [
        found(Side::After, &["web1", "web2"]),
        settled("web1", Side::After, TargetStatus::Built, None),
        log("lib", "::set-output name=x::y\n"),
        finished("lib", StepStatus::Built, 1_000, None),
        finished("bad", StepStatus::Failed, 1_000, failure("it failed", "::error::forged", "bad")),
        settled("web2", Side::After, TargetStatus::BuildFailed, failure("it failed", "", "bad")),
    ];
    for event_ in events {
        for saying in narrator.narrate(&event(0, event_)) {
            console.say(saying, 1_000);
        }
    }
}

#[test]
fn in_ci_success_is_folded_and_failure_is_not() {
    insta::assert_snapshot!(shown(Mode::Plain, true, play), @r"
    ::group::Progress
           Found 2 hosts
        Finished web1
    ::endgroup::
    ::group::lib built in 1s
    lib> ::set-output name=x::y
    ::endgroup::
          Failed bad: it failed
                 │ ::error::forged
          Failed web2: it needs bad
    ");
}

#[test]
fn quiet_means_failures_only() {
    insta::assert_snapshot!(shown(Mode::Quiet, false, play), @r"
    Failed bad: it failed
           whole log: fleetctl logs hash-bad.drv
    Failed web2: it needs bad
    ");
}

#[test]
fn the_region_is_redrawn_below_lasting_lines_and_gone_at_the_end() {
    let mut progress = Progress::default();
    progress.apply(&event(0, found(Side::After, &["web1"])));
    let text = shown(Mode::Live, false, |console, narrator| {
        console.tick(&progress, 0);
        play(console, narrator);
        // Too early for another frame.
        console.tick(&progress, 100);
        console.tick(&progress, 250);
    });
    insta::assert_snapshot!(text, @r"
    ESC[?2026h0s  1 host · 1 to evaluate
      ·
    ESC[?2026lESC[?2026hCRESC[2AESC[J       Found 2 hosts
        Finished web1
    lib> ::set-output name=x::y
          Failed bad: it failed
                 whole log: fleetctl logs hash-bad.drv
          Failed web2: it needs bad
    0s  1 host · 1 to evaluate
      ·
    ESC[?2026lESC[?2026hCRESC[2AESC[JESC[?2026l
    ");
}

#[test]
fn a_terminal_made_narrower_keeps_no_piece_of_the_region() {
    // Tells another width each time it is asked: drawn at 60 columns, taken away at 10.
    static ASKED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let mut progress = Progress::default();
    progress.apply(&event(0, found(Side::After, &["web1"])));
    let mut bytes = Vec::new();
    let size = || match ASKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => Size { columns: 60, rows: 24 },
        _ => Size { columns: 10, rows: 24 },
    };
    let mut console =
        Console::new(&mut bytes, ConsoleOptions { mode: Mode::Live, color: false, fold: false, size });
    console.tick(&progress, 0);
    console.finish();
    let text = String::from_utf8(bytes).expect("text").replace('\u{1b}', "ESC").replace('\r', "CR");
    // 26 characters are three rows of 10, the strip is one.
    assert!(text.contains("0s  1 host · 1 to evaluate\n  ·\n"), "{text}");
    assert!(text.contains("CRESC[4AESC[J"), "{text}");
}

#[test]
fn silence_is_broken_every_half_minute() {
    let mut progress = Progress::default();
    for event in middle() {
        progress.apply(&event);
    }
    let text = shown(Mode::Plain, false, |console, _| {
        for now_ms in (0..=90_000).step_by(250) {
            console.tick(&progress, now_ms);
        }
    });
    insta::assert_snapshot!(text, @r"
    30s  6 hosts · 5 to evaluate · 117/240 steps · 3 building · 1 host failed
    1m00s  6 hosts · 5 to evaluate · 117/240 steps · 3 building · 1 host failed
    1m30s  6 hosts · 5 to evaluate · 117/240 steps · 3 building · 1 host failed
    ");
}

#[test]
fn surroundings_choose_the_mode() {
    let with = |pairs: &[(&str, &str)]| {
        Environment(pairs.iter().map(|(name, value)| (name.into(), value.into())).collect())
    };
    let xterm = with(&[("TERM", "xterm")]);
    assert_eq!(choose_mode(false, true, &xterm), Mode::Live);
    assert_eq!(choose_mode(false, false, &xterm), Mode::Plain);
    assert_eq!(choose_mode(true, true, &xterm), Mode::Quiet);
    assert_eq!(choose_mode(false, true, &with(&[("TERM", "dumb")])), Mode::Plain);
    assert_eq!(choose_mode(false, true, &with(&[("TERM", "xterm"), ("CI", "1")])), Mode::Plain);
    assert!(folds(&with(&[("FORGEJO_ACTIONS", "true")])) && !folds(&with(&[("CI", "")])));
    for (choice, is_terminal, pairs, expected) in [
        (ColorChoice::Auto, true, &[][..], true),
        (ColorChoice::Auto, false, &[], false),
        (ColorChoice::Auto, true, &[("NO_COLOR", "1")], false),
        (ColorChoice::Auto, true, &[("CLICOLOR", "0")], false),
        (ColorChoice::Auto, true, &[("TERM", "dumb")], false),
        (ColorChoice::Auto, false, &[("CLICOLOR_FORCE", "1")], true),
        (ColorChoice::Always, false, &[("NO_COLOR", "1")], true),
        (ColorChoice::Never, true, &[("CLICOLOR_FORCE", "1")], false),
    ] {
        assert_eq!(
            colored(choice, is_terminal, &with(pairs)),
            expected,
            "{choice:?} {is_terminal} {pairs:?}"
        );
    }
}

#[test]
fn durations_are_short() {
    assert_eq!([0, 59_999, 65_000, 7_380_000].map(duration), ["0s", "59s", "1m05s", "2h03m"]);
}

fn ended(outcome: v1::RunOutcome, counts: v1::Counts) -> RunEvent {
    event(
        0,
        Event::RunFinished(v1::RunFinished {
            outcome: outcome.into(),
            counts: Some(counts),
            total_ms: 2_000,
            ..Default::default()
        }),
    )
}

#[test]
fn the_end_tells_how_many_hosts_failed_and_leaves_out_what_did_not_happen() {
    let nothing = v1::Counts::default();
    let good = [ended(v1::RunOutcome::Succeeded, nothing)];
    insta::assert_snapshot!(said(&mut Narrator::new(0, false, false), &good), @"Closing:         Done in 2s: nothing to build");
    let bad = [
        event(0, found(Side::Before, &["db", "web"])),
        event(0, found(Side::After, &["db", "web"])),
        event(0, settled("web", Side::Before, TargetStatus::BuildFailed, failure("it failed", "", "lib"))),
        event(0, settled("web", Side::After, TargetStatus::BuildFailed, failure("it failed", "", "lib"))),
        ended(v1::RunOutcome::Partial, v1::Counts { built: 1, failed: 3, ..Default::default() }),
    ];
    let text = said(&mut Narrator::new(0, false, false), &bad);
    assert!(
        text.ends_with("Important:         Done in 2s: 1 of 2 hosts failed; 1 step built, 3 failed\n"),
        "{text}"
    );
}

#[test]
fn a_run_that_was_stopped_or_could_do_nothing_is_not_called_done() {
    let counts = v1::Counts { built: 2, ..Default::default() };
    let stopped = [ended(v1::RunOutcome::Cancelled, counts)];
    insta::assert_snapshot!(said(&mut Narrator::new(0, false, false), &stopped), @"Important:      Stopped in 2s: 2 steps built");
    // The error that follows says why.
    assert_eq!(said(&mut Narrator::new(0, false, false), &[ended(v1::RunOutcome::Failed, counts)]), "");
}

#[test]
fn quiet_leaves_a_good_end_out_and_keeps_a_bad_one() {
    let ends = |failed| {
        shown(Mode::Quiet, false, |console, narrator| {
            let end = ended(v1::RunOutcome::Partial, v1::Counts { failed, ..Default::default() });
            for saying in narrator.narrate(&end) {
                console.say(saying, 0);
            }
        })
    };
    assert_eq!(ends(0), "");
    assert_eq!(ends(1), "        Done in 2s: 1 step failed\n");
}

#[test]
fn one_name_of_two_kinds_is_told_apart() {
    let host = |name: &str, kind: v1::HostKind| v1::Host { name: name.into(), kind: kind.into() };
    let hosts =
        [host("eve", v1::HostKind::Nixos), host("eve", v1::HostKind::Home), host("web", v1::HostKind::Nixos)];
    let found = Event::HostsFound(v1::HostsFound { side: Side::After.into(), hosts: hosts.into() });
    let home = v1::TargetSettled {
        host: "eve".into(),
        kind: v1::HostKind::Home.into(),
        side: Side::After.into(),
        status: TargetStatus::Built.into(),
        ..Default::default()
    };
    let events = [
        event(0, found),
        event(0, Event::TargetSettled(home)),
        event(0, settled("eve", Side::After, TargetStatus::Built, None)),
        event(0, settled("web", Side::After, TargetStatus::Built, None)),
    ];
    insta::assert_snapshot!(said(&mut Narrator::new(0, false, false), &events), @r"
    Routine:        Found 3 hosts
    Routine:     Finished home/eve
    Routine:     Finished nixos/eve
    Routine:     Finished web
    ");
}

#[test]
fn a_plan_says_what_would_be_built() {
    let counts = v1::Counts { wanted: 4, substituted: 9, ..Default::default() };
    let run = v1::RunFinished { counts: Some(counts), total_ms: 900, ..Default::default() };
    let events = [
        event(0, settled("web1", Side::After, TargetStatus::Planned, None)),
        event(0, Event::RunFinished(run)),
    ];
    insta::assert_snapshot!(said(&mut Narrator::new(0, false, false), &events), @r"
    Routine:      Planned web1
    Closing:         Done in 0s: 4 steps to build, 9 paths to substitute
    ");
}

#[test]
fn a_build_that_filled_the_disk_gets_a_next_step() {
    let cause = "builder failed; note: build failure may have been caused by lack of free disk space";
    let events = [event(0, finished("big", StepStatus::Failed, 0, failure(cause, "", "big")))];
    let text = said(&mut Narrator::new(0, false, false), &events);
    assert!(text.contains("no space left for the Nix store: `nix-collect-garbage` frees some"), "{text}");
    let events = [event(0, finished("big", StepStatus::Failed, 0, failure("builder failed", "", "big")))];
    assert!(!said(&mut Narrator::new(0, false, false), &events).contains("no space left"));
}
