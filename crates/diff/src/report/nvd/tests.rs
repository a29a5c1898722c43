use insta::assert_snapshot;

use super::*;
use crate::testing::{failed, fleet, host, report, target};

#[test]
fn changed_hosts_stand_in_name_order_each_in_its_fence() {
    assert_snapshot!(nvd(&fleet()), @"
    ### mon1
    ```
    <<< result-before-mon1
    >>> result-after-mon1
    Version changes:
    [U*]  #1  curl     8.11.0, 8.11.0-man -> 8.12.0, 8.12.0-man
    [D*]  #2  grafana  10.4.0 -> 10.3.4
    [U.]  #3  linux    6.12.1 -> 6.12.2
    [U.]  #4  openssl  3.3.2 -> 3.4.0
    Closure size: 9 -> 9 (9 paths added, 9 paths removed, delta +0, disk usage +0B).
    ```

    ### web1
    ```
    <<< result-before-web1
    >>> result-after-web1
    Version changes:
    [U*]  #1  curl     8.11.0, 8.11.0-man -> 8.12.0, 8.12.0-man
    [U.]  #2  linux    6.12.1 -> 6.12.2
    [U.]  #3  openssl  3.3.2 -> 3.4.0
    Closure size: 8 -> 8 (8 paths added, 8 paths removed, delta +0, disk usage +0B).
    ```

    ### web2
    ```
    <<< result-before-web2
    >>> result-after-web2
    Version changes:
    [U*]  #1  curl     8.11.0, 8.11.0-man -> 8.12.0, 8.12.0-man
    [U.]  #2  linux    6.12.1 -> 6.12.2
    [U.]  #3  openssl  3.3.2 -> 3.4.0
    Added packages:
    [A+]  #1  jq  1.7.1
    Closure size: 9 -> 10 (10 paths added, 9 paths removed, delta +1, disk usage +1,000B).
    ```

    ### web3
    ```
    <<< result-before-web3
    >>> result-after-web3
    Version changes:
    [U*]  #1  curl     8.11.0, 8.11.0-man -> 8.12.0, 8.12.0-man
    [U.]  #2  linux    6.12.1 -> 6.12.2
    [U.]  #3  openssl  3.3.2 -> 3.4.0
    Removed packages:
    [R-]  #1  cowsay  3.8
    Closure size: 9 -> 8 (8 paths added, 9 paths removed, delta -1, disk usage -1,000B).
    ```
    ");
}

#[test]
fn nothing_changed_prints_nothing() {
    let same = || TargetReport { status: TargetStatus::Unchanged, ..target("system h1") };
    assert_eq!(nvd(&report(vec![host("a", same(), same(), None)])), "");
}

#[test]
fn a_failed_host_has_an_entry_and_cannot_break_out_of_it() {
    let log = "one\n```\n\u{1b}[31mtwo";
    let broken = failed(TargetStatus::BuildFailed, "nginx failed", log, Some("0-nginx.drv"));
    let report = report(vec![host("web\n# 1", target("s h1"), broken, None)]);
    assert_snapshot!(nvd(&report), @"
    ### web # 1
    ````
    <<< result-before-web # 1
    >>> result-after-web # 1
    Failed after: nginx failed (0-nginx.drv)
        one
        ```
        two
    ````
    ");
}

#[test]
fn disk_usage_is_spelled_as_nvd_spells_it() {
    let spelled: Vec<String> =
        [0, 1023, -1, 1024, -1536, 1_048_524, 1 << 40].into_iter().map(disk_usage).collect();
    assert_eq!(spelled, ["+0B", "+1,023B", "-1B", "+1.0KiB", "-1.5KiB", "+1,023.9KiB", "+1.0TiB"]);
}
