use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::report::model::{Failure, HostKind, SideLabel, StepCounts, TargetReport};
use crate::testing::{base_name, compare, fact, failed, fleet, host, report, target};

#[test]
fn a_fleet_reads_from_verdict_to_details() {
    assert_snapshot!(markdown(&fleet()), @"
    **4 of 5 hosts change**, 1 unchanged: packages: 3 upgraded, 1 downgraded, 1 added, 1 removed, 2 rebuilt.

    `aaaaaaaaaaaa` → `bbbbbbbbbbbb` · 12 steps wanted: 9 built, 3 there already · 1,204 paths substituted · 7 duplicates saved · 3 min 12 s · run `r1`

    ## Warnings

    - Reboot: kernel or initrd changed on all 4 changed hosts
    - Downgrade: `grafana` `10.4.0` → `10.3.4` on `mon1`
    - Removed: `cowsay` `3.8` on `web3`

    ## Changes

    ### On all 4 changed hosts

    | | package | versions | size |
    |---|---|---|---:|
    | U | **`curl`** | `8.11.0` → `8.12.0` | ±0 |
    | U | `linux` | `6.12.1` → `6.12.2` | ±0 |
    | U | `openssl` | `3.3.2` → `3.4.0` | ±0 |

    U upgraded, D downgraded, C changed without an order, V other interpreter or kernel, A added, R removed, O other outputs, N other number of copies; **bold** is chosen by a configuration, not a dependency.

    <details><summary>Configuration</summary>

    On all 4 changed hosts:

    Configuration changed: `etc-hosts`

    </details>

    ## Hosts

    <details><summary><code>mon1</code>: 1 change of its own</summary>

    | | package | versions | size |
    |---|---|---|---:|
    | D | **`grafana`** | `10.4.0` → `10.3.4` | ±0 |

    </details>
    <details><summary><code>web2</code>: 1 change of its own</summary>

    | | package | versions | size |
    |---|---|---|---:|
    | A | **`jq`** | `1.7.1` | +1000 B |

    </details>
    <details><summary><code>web3</code>: 1 change of its own</summary>

    | | package | versions | size |
    |---|---|---|---:|
    | R | **`cowsay`** | `3.8` | −1000 B |

    </details>
    <details><summary>Closure sizes</summary>

    | host | paths | size | change |
    |---|---:|---:|---:|
    | `mon1` | 9 → 9 | 8.8 KiB → 8.8 KiB | ±0 |
    | `web1` | 8 → 8 | 7.8 KiB → 7.8 KiB | ±0 |
    | `web2` | 9 → 10 | 8.8 KiB → 9.8 KiB | +1000 B |
    | `web3` | 9 → 8 | 8.8 KiB → 7.8 KiB | −1000 B |

    </details>

    Rebuilt without another version: 2 packages, 1 to 2 on a host.
    ");
}

#[test]
fn failures_stand_first_once_per_derivation_with_the_hosts_they_block() {
    let drv = "00000000000000000000000000000007-nginx-1.27.drv";
    let log = "building\n\u{1b}[31mmake: *** [all] Error 2\u{1b}[0m\n```\n";
    let broken =
        || failed(TargetStatus::BuildFailed, "builder for nginx failed with exit code 2", log, Some(drv));
    let lost = || failed(TargetStatus::BuildFailed, "an input failed", "", Some(drv));
    let eval = failed(TargetStatus::EvalFailed, "attribute `x|y` missing @ops", "error:\n  at <flake>", None);
    let mut report = report(vec![
        host("web1", target("system h1"), broken(), None),
        host("web2", target("system h2"), lost(), None),
        host("web3", target("system h3"), lost(), None),
        host("db1", eval.clone(), eval, None),
    ]);
    report.steps.failed = 3;
    assert_snapshot!(markdown(&report), @"
    **0 of 4 hosts change**, **4 failed**.

    `aaaaaaaaaaaa` → `bbbbbbbbbbbb` · 12 steps wanted: 9 built, 3 there already, 3 failed · 1,204 paths substituted · 7 duplicates saved · 3 min 12 s · run `r1`

    ## Failures

    ### `nginx-1.27` failed

    builder for nginx failed with exit code 2

    Blocks 3 hosts (after): `web1–3`

    `/nix/store/00000000000000000000000000000007-nginx-1.27.drv`

    ````text
    building
    make: *** [all] Error 2
    ```
    ````

    ### Evaluation failed

    attribute &#96;x&#124;y&#96; missing @&#8203;ops

    Blocks 1 host (before and after): `db1`

    ```text
    error:
      at <flake>
    ```
    ");
}

#[test]
fn nothing_changed_is_said_in_one_line() {
    let same = || TargetReport { status: TargetStatus::Unchanged, ..target("system h1") };
    let mut report = report(vec![host("a", same(), same(), None), host("b", same(), same(), None)]);
    report.steps = StepCounts::default();
    assert_snapshot!(markdown(&report), @"
    **Nothing changed**: all hosts have the same closure on both sides (2 hosts).

    `aaaaaaaaaaaa` → `bbbbbbbbbbbb` · nothing to build · 3 min 12 s · run `r1`
    ");
}

#[test]
fn a_plain_build_lists_its_toplevels() {
    let mut report = report(vec![
        host("a", TargetReport::default(), target("system h1"), None),
        host(
            "b",
            TargetReport::default(),
            failed(TargetStatus::EvalFailed, "no such option", "", None),
            None,
        ),
    ]);
    report.before = None;
    report.notices.push("the tree is dirty: `dirtyRev` is not carried".to_owned());
    assert_snapshot!(markdown(&report), @"
    **1 of 2 hosts built, 1 failed.**

    `bbbbbbbbbbbb` · 12 steps wanted: 9 built, 3 there already · 1,204 paths substituted · 7 duplicates saved · 3 min 12 s · run `r1`

    ## Failures

    ### Evaluation failed

    no such option

    Blocks 1 host: `b`

    | host | store path |
    |---|---|
    | `a` | `/nix/store/00000000000000000000000000000001-system` |

    ## Notices

    - the tree is dirty: &#96;dirtyRev&#96; is not carried
    ");
}

#[test]
fn a_run_that_could_not_begin_says_why() {
    let mut report = report(Vec::new());
    report.failure = Some(Failure { cause: "the flake has no hosts".into(), ..Failure::default() });
    assert!(markdown(&report).starts_with("**Nothing could be done**: the flake has no hosts\n"));
}

#[test]
fn a_plan_speaks_of_what_would_happen() {
    let planned = |drv: &str| TargetReport {
        drv: Some(base_name(drv)),
        status: TargetStatus::Planned,
        ..TargetReport::default()
    };
    let hosts = vec![
        host("a", planned("a.drv h1"), planned("a.drv h2"), None),
        host("b", planned("b.drv h1"), planned("b.drv h1"), None),
    ];
    assert!(markdown(&report(hosts)).starts_with("**1 of 2 hosts would change**, 1 unchanged.\n"));
}

#[test]
fn one_name_of_two_kinds_is_told_apart() {
    let mut home = host("eve", target("home h1"), target("home h2"), None);
    home.kind = HostKind::Home;
    let report = report(vec![host("eve", target("system h1"), target("system h2"), None), home]);
    let names: Vec<String> = report.named_hosts().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["home/eve", "nixos/eve"]);
}

fn foreign() -> impl Strategy<Value = String> {
    prop_oneof![".{0,20}", "[|`\\\\<>@#*_\\[\\]a-z\u{1b}\u{202e}\r\n~-]{0,20}"]
}

proptest! {
    #[test]
    fn foreign_text_keeps_tables_fences_and_details_whole(
        name in foreign(),
        package in foreign(),
        cause in foreign(),
        detail in foreign(),
        rev in foreign(),
    ) {
        let mut table = crate::PathTable::new();
        let (old, new) = (format!("{package}-1.0|`\n"), format!("{package}-2.0|`\n"));
        table.add(fact(&old, &[]));
        table.add(fact(&new, &[]));
        table.add(fact("nixos-system-t-1 h1", &[&old]));
        table.add(fact("nixos-system-t-1 h2", &[&new]));
        let diff = compare(&table, "nixos-system-t-1 h1", "nixos-system-t-1 h2");
        let nothing = compare(&table, "nixos-system-t-1 h1", "nixos-system-t-1 h1");
        let mut report = report(vec![
            host(&name, target("s h1"), target("s h2"), Some(diff)),
            host(&cause, target("s h1"), target("s h2"), Some(nothing)),
            host("x", target("s h3"), failed(TargetStatus::BuildFailed, &cause, &detail, None), None),
        ]);
        report.after = SideLabel { rev: Some(rev), dirty: true };
        let text = markdown(&report);
        prop_assert!(text.chars().all(|char| char == '\n' || char == '\t' || !char.is_control()));
        let mut fence: Option<String> = None;
        let (mut details, mut tables) = (0, 0);
        for line in text.lines() {
            let ticks: String = line.chars().take_while(|&char| char == '`').collect();
            match &fence {
                Some(open) => {
                    if line == open { fence = None; }
                    continue;
                }
                None if ticks.len() >= 3 => fence = Some(ticks),
                None => {}
            }
            if line.starts_with('|') && fence.is_none() {
                prop_assert_eq!(line.matches('|').count(), 5, "{}", line);
                tables += 1;
            }
            details += line.matches("<details>").count();
            details -= line.matches("</details>").count();
        }
        prop_assert_eq!((fence, details), (None, 0));
        prop_assert!(tables >= 4);
    }
}
