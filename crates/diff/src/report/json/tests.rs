use insta::assert_snapshot;
use serde_json::Value;

use super::*;
use crate::testing::{failed, fleet, host, report, target};

#[test]
fn the_object_has_the_documented_shape() {
    let failure = failed(TargetStatus::EvalFailed, "infinite recursion", "trace", None);
    let absent = TargetReport::default();
    let mut report = fleet();
    report.hosts.retain(|host| host.name == "mon1");
    report.hosts.push(host("new", absent, target("s h1"), None));
    report.hosts.push(host("bad", target("s h1"), failure, None));
    let value: Value = serde_json::from_str(&json(&report)).unwrap();
    assert_snapshot!(serde_json::to_string_pretty(&value).unwrap(), @r#"
    {
      "hosts": {
        "bad": {
          "after": {
            "cause": "infinite recursion",
            "drv": null,
            "status": "eval_failed",
            "toplevel": null
          },
          "before": {
            "cause": null,
            "drv": "/nix/store/00000000000000000000000000000001-s.drv",
            "status": "built",
            "toplevel": "/nix/store/00000000000000000000000000000001-s"
          },
          "changed": false,
          "diff": null,
          "kind": "nixos"
        },
        "mon1": {
          "after": {
            "cause": null,
            "drv": "/nix/store/00000000000000000000000000000002-nixos-system-mon1-1.drv",
            "status": "built",
            "toplevel": "/nix/store/00000000000000000000000000000002-nixos-system-mon1-1"
          },
          "before": {
            "cause": null,
            "drv": "/nix/store/00000000000000000000000000000001-nixos-system-mon1-1.drv",
            "status": "built",
            "toplevel": "/nix/store/00000000000000000000000000000001-nixos-system-mon1-1"
          },
          "changed": true,
          "diff": {
            "after": {
              "nar_size": 9000,
              "paths": 9
            },
            "before": {
              "nar_size": 9000,
              "paths": 9
            },
            "changes": [
              {
                "copies": null,
                "kind": "U",
                "name": "curl",
                "outputs_added": [],
                "outputs_removed": [],
                "selected": {
                  "after": true,
                  "before": true
                },
                "size_delta": 0,
                "variants_after": [],
                "variants_before": [],
                "versions": [
                  {
                    "after": "8.12.0",
                    "before": "8.11.0",
                    "order": "upgrade"
                  }
                ],
                "versions_added": [],
                "versions_removed": []
              },
              {
                "copies": null,
                "kind": "B",
                "name": "glibc",
                "outputs_added": [],
                "outputs_removed": [],
                "selected": {
                  "after": false,
                  "before": false
                },
                "size_delta": 0,
                "variants_after": [],
                "variants_before": [],
                "versions": [],
                "versions_added": [],
                "versions_removed": []
              },
              {
                "copies": null,
                "kind": "D",
                "name": "grafana",
                "outputs_added": [],
                "outputs_removed": [],
                "selected": {
                  "after": true,
                  "before": true
                },
                "size_delta": 0,
                "variants_after": [],
                "variants_before": [],
                "versions": [
                  {
                    "after": "10.3.4",
                    "before": "10.4.0",
                    "order": "downgrade"
                  }
                ],
                "versions_added": [],
                "versions_removed": []
              },
              {
                "copies": null,
                "kind": "U",
                "name": "linux",
                "outputs_added": [],
                "outputs_removed": [],
                "selected": {
                  "after": false,
                  "before": false
                },
                "size_delta": 0,
                "variants_after": [],
                "variants_before": [],
                "versions": [
                  {
                    "after": "6.12.2",
                    "before": "6.12.1",
                    "order": "upgrade"
                  }
                ],
                "versions_added": [],
                "versions_removed": []
              },
              {
                "copies": null,
                "kind": "U",
                "name": "openssl",
                "outputs_added": [],
                "outputs_removed": [],
                "selected": {
                  "after": false,
                  "before": false
                },
                "size_delta": 0,
                "variants_after": [],
                "variants_before": [],
                "versions": [
                  {
                    "after": "3.4.0",
                    "before": "3.3.2",
                    "order": "upgrade"
                  }
                ],
                "versions_added": [],
                "versions_removed": []
              }
            ],
            "configuration": [
              {
                "change": "changed",
                "kind": "etc",
                "name": "etc-hosts"
              },
              {
                "change": "changed",
                "kind": "system",
                "name": "nixos-system"
              },
              {
                "change": "changed",
                "kind": "system",
                "name": "system-path"
              }
            ],
            "needs_reboot": true,
            "paths_added": 9,
            "paths_removed": 9
          },
          "kind": "nixos"
        },
        "new": {
          "after": {
            "cause": null,
            "drv": "/nix/store/00000000000000000000000000000001-s.drv",
            "status": "built",
            "toplevel": "/nix/store/00000000000000000000000000000001-s"
          },
          "before": {
            "cause": null,
            "drv": null,
            "status": "absent",
            "toplevel": null
          },
          "changed": true,
          "diff": null,
          "kind": "nixos"
        }
      },
      "run": "r1",
      "schema": 1,
      "seconds": {
        "build": 190.25,
        "diff": 0.013,
        "eval": 1.5,
        "total": 192.0
      },
      "steps": {
        "built": 9,
        "cached": 3,
        "deduplicated": 7,
        "failed": 0,
        "substituted": 1204,
        "wanted": 12
      }
    }
    "#);
}

#[test]
fn fields_keep_their_order_and_the_line_ends() {
    let text = json(&report(vec![host("a", target("s h1"), target("s h1"), None)]));
    assert_snapshot!(text, @r#"
    {"schema":1,"run":"r1","hosts":{"a":{"kind":"nixos","before":{"drv":"/nix/store/00000000000000000000000000000001-s.drv","toplevel":"/nix/store/00000000000000000000000000000001-s","status":"built","cause":null},"after":{"drv":"/nix/store/00000000000000000000000000000001-s.drv","toplevel":"/nix/store/00000000000000000000000000000001-s","status":"built","cause":null},"changed":false,"diff":null}},"steps":{"wanted":12,"built":9,"substituted":1204,"cached":3,"failed":0,"deduplicated":7},"seconds":{"eval":1.5,"build":190.25,"diff":0.013,"total":192.0}}
    "#);
}

#[test]
fn numbers_that_are_none_do_not_break_the_object() {
    let mut report = report(Vec::new());
    report.seconds.total = f64::NAN;
    let value: Value = serde_json::from_str(&json(&report)).unwrap();
    assert!(value["seconds"]["total"].is_null());
}
