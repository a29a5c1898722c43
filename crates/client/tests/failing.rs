//! What a user reads when something fails on a real daemon: whatever words Nix has for it, one sentence on why, the
//! end of the log, and how many hosts it cost.

use std::fs;
use std::process::{Command, Output, Stdio};

use fleet_testkit::{GitRepo, NixDaemon};
use serde_json::Value;

const HOSTS: &str = r#"
    good = host (package "good" "echo ok > $out");
    broken = host (package "broken" "echo building; echo 'error: no such header'; exit 3");
    lazy = host (package "lazy" "true");
    strange = host (derivation { name = "strange"; system = "riscv64-linux"; builder = "/bin/sh"; });
    wrong = host (derivation {
      inherit system;
      name = "wrong";
      builder = "/bin/sh";
      args = [ "-c" "echo x > $out" ];
      outputHashMode = "flat";
      outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    });
"#;

fn fleetctl(daemon: &NixDaemon, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetctl"));
    daemon.configure(&mut command);
    command.args(arguments).current_dir(daemon.scratch().join("fleet")).stdin(Stdio::null());
    command.output().expect("fleetctl runs")
}

fn fleet(daemon: &NixDaemon, hosts: &str) {
    let system = daemon.nix_stdout(["eval", "--impure", "--raw", "--expr", "builtins.currentSystem"]);
    let mut repo = GitRepo::init(daemon.scratch().join("fleet"));
    repo.write(
        "flake.nix",
        format!(
            "{{ outputs = {{ self }}: let\n  system = \"{system}\";\n  host = toplevel: {{ config.system.build = {{ \
             inherit toplevel; }}; }};\n  package = name: script: derivation {{ inherit name system; builder = \
             \"/bin/sh\"; args = [ \"-c\" script ]; }};\nin {{ nixosConfigurations = {{ {hosts} }}; }}; }}\n"
        ),
    );
    repo.commit("hosts");
}

#[test]
fn every_failure_is_one_sentence_and_the_end_counts_them() {
    let daemon = NixDaemon::start_default();
    fleet(&daemon, HOSTS);
    let output = fleetctl(&daemon, &["build", "--all-hosts", "--json"]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(4), "{said}");
    let result: Value = serde_json::from_slice(&output.stdout).expect("a JSON document");
    let cause = |host: &str| result["hosts"][host]["after"]["cause"].as_str().unwrap_or_default().to_owned();
    assert_eq!(cause("broken"), "builder failed with exit code 3");
    assert!(cause("lazy").starts_with("builder failed to produce output path"), "{}", cause("lazy"));
    assert!(cause("wrong").starts_with("hash mismatch in fixed-output derivation: specified sha256-AAAA"));
    for host in ["broken", "lazy", "strange", "wrong"] {
        assert!(!cause(host).is_empty() && !cause(host).contains('\n'), "{host}: {:?}", cause(host));
    }
    assert!(
        said.contains("Failed broken: builder failed with exit code 3\n             │ building\n"),
        "{said}"
    );
    assert!(said.contains(": 4 of 5 hosts failed; 1 step built"), "{said}");
    let log = fleetctl(&daemon, &["logs", "broken"]);
    assert_eq!(String::from_utf8(log.stdout).expect("UTF-8"), "building\nerror: no such header\n");
}

#[test]
fn quiet_says_nothing_of_success_and_closed_streams_are_no_error() {
    let daemon = NixDaemon::start_default();
    fleet(&daemon, "good = host (package \"good\" \"echo ok > $out\");");
    let output = fleetctl(&daemon, &["build", "--all-hosts", "--quiet"]);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    assert!(output.stdout.starts_with(b"good  /nix/store/"));
    let full = fs::File::create("/dev/full").expect("a device");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetctl"));
    daemon.configure(&mut command);
    command.args(["build", "--all-hosts"]).current_dir(daemon.scratch().join("fleet"));
    // Nobody hears of progress, but the result is whole.
    let output = command.stderr(full).output().expect("fleetctl runs");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(b"good  /nix/store/"));
}
