//! The program as scripts see it, where no daemon is needed: help, versions, settings, exit codes, streams.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn fleetctl(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleetctl"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", directory)
        .stdin(Stdio::null());
    command
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    fleetctl(directory, arguments).output().expect("fleetctl runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn error(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty(), "standard output is for results");
    text(&output.stderr).replace(&directory.canonicalize().expect("path").display().to_string(), "DIR")
}

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn the_help_of_build_fits_a_screen() {
    let output = run(scratch().path(), &["build", "-h"]);
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(text(&output.stdout), @r"
    Build hosts of a flake; with --base, print what changed

    Usage: fleetctl build [OPTIONS] [FLAKE]

    Arguments:
      [FLAKE]  The flake: PATH, PATH?dir=SUB, PATH#HOST, path:PATH or git+file:PATH [default: .]

    Options:
          --base <REV>            Build the flake as it was at this commit too, and print what changed
                                  since
          --all-hosts             Take every host of the flake
          --host <GLOB>           Take hosts whose name matches this glob; repeatable
          --exclude <GLOB>        Leave out hosts whose name matches this glob; repeatable [default:
                                  *-minimal]
          --kind <KIND>           Kinds of hosts; repeatable [default: nixos] [possible values: nixos,
                                  darwin, home]
          --json                  Print the result as JSON
          --format <FORMAT>       How to print the report [default: markdown] [possible values:
                                  markdown, nvd, json]
          --output <FORMAT=FILE>  Write the report to a file, too; repeatable
      -k, --keep-going            Finish everything that does not depend on a failure (the default)
          --fail-fast             Stop at the first failure
      -n, --dry-run               Evaluate, and say what would be built
          --retry-failed          Try again what failed for good in an earlier run
          --bring <INPUT>         Take this input of the flake along, as workers cannot fetch it;
                                  repeatable
      -j, --worker-slots <N>      Builds at a time [default: one per core]
          --eval-slots <N>        Evaluators at a time [default: half the cores, at most four]
      -L, --print-build-logs      Show build logs as they come, each line after its derivation's name
          --no-fold               Never fold successful output into groups in CI logs
      -h, --help                  Print help (see more with '--help')

    With a coordinator:
          --branch <NAME>         What the run is of, for how long its results are kept [default: the
                                  git branch]
          --detach                Submit the run, print its name and leave [alias: --no-wait]
          --detach-on-interrupt   Leave the run going on when interrupted
          --reconnect-for <TIME>  How long to keep trying when the coordinator cannot be reached
                                  [default: 10m]

    Limits of each step:
          --timeout <TIME>          Wall time, as in 90m or 10h
          --max-silent-time <TIME>  Time without output, as in 30m
          --max-log-size <SIZE>     Size of its log, as in 64MiB
          --max-output-size <SIZE>  Size of its outputs together, as in 20GiB

    Options of every command:
          --color <WHEN>       When to colour progress and messages [possible values: auto, always,
                               never]
      -q, --quiet              Print no progress, only the result and errors
      -v, --verbose...         Say more: what is evaluated and built, traces of errors
          --store <URI>        The Nix store to build with, as `daemon` or `unix://SOCKET?root=DIR`
          --coordinator <URL>  The coordinator to ask, as https://HOST[:PORT] or unix:///PATH; `none`
                               builds in this process
    ");
}

#[test]
fn the_help_names_every_command() {
    let output = run(scratch().path(), &["help"]);
    insta::assert_snapshot!(text(&output.stdout), @r"
    Builds every host of a flake as one graph, and says what changed

    Usage: fleetctl [OPTIONS] <COMMAND>

    Commands:
      build        Build hosts of a flake; with --base, print what changed
      diff         Build both sides of an update and print what changed
      logs         Print the log of a build
      attach       Watch a run of the coordinator to its end and print its result
      runs         List the coordinator's runs, the newest first
      show         Show one run with its hosts
      cancel       Cancel a run
      status       Show live runs, the queue and the workers
      why          Tell what a host or a derivation waits for
      worker       Enrol, look at and steer workers
      client       Make and revoke tokens of clients
      cache        Look at the cache, collect its garbage, check it
      pin          Keep a run's results or a store path until it is unpinned
      unpin        Take a pin away
      version      Print the version
      config       Print the settings in force and where each comes from
      completions  Print a completion script for a shell
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Options of every command:
          --color <WHEN>
              When to colour progress and messages

              Possible values:
              - auto:   On a terminal, unless NO_COLOR, CLICOLOR=0 or TERM=dumb say otherwise
              - always: Always
              - never:  Never

      -q, --quiet
              Print no progress, only the result and errors

      -v, --verbose...
              Say more: what is evaluated and built, traces of errors

          --store <URI>
              The Nix store to build with, as `daemon` or `unix://SOCKET?root=DIR`

          --coordinator <URL>
              The coordinator to ask, as https://HOST[:PORT] or unix:///PATH; `none` builds in this
              process

          --ca <FILE>
              Certificates of the authority that vouches for the coordinator, PEM

          --client-cert <FILE>
              Who we are: a certificate, PEM, with its key unless --client-key names that

          --client-key <FILE>
              The private key of --client-cert, PEM

          --token-file <FILE>
              Who we are: a file with a token; tokens themselves are never given as options
    ");
}

#[test]
fn a_wrong_option_is_an_error_like_any_other() {
    let directory = scratch();
    for arguments in [&["build", "--all-host"][..], &["biuld"], &[], &["build", "--host"], &["logs"]] {
        let said = error(directory.path(), arguments);
        assert!(!said.is_empty(), "{arguments:?}");
    }
    assert!(error(directory.path(), &["build", "--all-host"]).contains("--all-hosts"));
    let said = error(directory.path(), &["build", "--output", "html=x"]);
    assert!(said.contains("`html` is not a format: markdown, nvd and json are"), "{said}");
}

#[test]
fn the_version_is_told_however_it_is_asked_for() {
    let directory = scratch();
    let told = format!("fleetctl {}\n", env!("CARGO_PKG_VERSION"));
    for arguments in ["version", "--version", "-V"] {
        assert_eq!(text(&run(directory.path(), &[arguments]).stdout), told, "{arguments}");
    }
}

#[test]
fn logs_need_no_flake_and_no_good_fleet_toml() {
    let directory = scratch();
    fs::write(directory.path().join("fleet.toml"), "store = \"daemon\"\n").expect("settings");
    let said = error(directory.path(), &["logs", "web"]);
    assert!(said.starts_with("error: no remembered run has a host web. Name a host"), "{said}");
    insta::assert_snapshot!(error(directory.path(), &["logs", ""]), @"error: whose log is not said. Name a host, or a derivation by its path.");
}

#[test]
fn a_bare_repository_is_called_one() {
    let directory = scratch();
    let git =
        Command::new("git").args(["init", "-q", "--bare", "bare"]).current_dir(directory.path()).status();
    assert!(git.expect("git runs").success());
    insta::assert_snapshot!(error(directory.path(), &["build", "bare", "--all-hosts"]), @"error: DIR/bare is a bare git repository: it has no files to build. Check it out with `git -C DIR/bare worktree add DIR`, and give DIR as FLAKE.");
}

#[test]
fn errors_are_one_paragraph_with_a_next_step() {
    let directory = scratch();
    insta::assert_snapshot!(error(directory.path(), &["build", "--all-hosts"]), @"error: there is no flake.nix in DIR, nor in a directory above it. Go to the directory of your flake, or give its path as FLAKE.");
    insta::assert_snapshot!(error(directory.path(), &["build", "github:o/r", "--all-hosts"]), @"error: `github:o/r` is not a flake on this machine. Clone it first and give its path, as in `fleetctl build ./fleet --all-hosts`.");
    insta::assert_snapshot!(error(directory.path(), &["build", "git+file:.", "--all-hosts"]), @"error: DIR is not a git repository. Run `git init` and `git add` your files there, or write path: instead of git+file: to take every file of the directory.");
    insta::assert_snapshot!(error(directory.path(), &["build", "./nowhere", "--all-hosts"]), @"error: cannot read DIR/nowhere: no such file or directory. Check the path and its permissions.");
    fs::write(directory.path().join("flake.nix"), "{ }").expect("flake");
    fs::write(directory.path().join("fleet.toml"), "# a comment\nstore = \"daemon\"\n").expect("settings");
    insta::assert_snapshot!(error(directory.path(), &["build", "--all-hosts"]), @"error: DIR/fleet.toml: line 2: unknown field `store`, expected one of `exclude`, `kind`, `format`, `fail_fast`, `print_build_logs`, `fold`, `bring`, `coordinator`, `reconnect_for`. Mend that line; keys about this machine (color, store, nix, directories, slots, credentials) belong in ~/.config/fleetctl/config.toml.");
    fs::remove_file(directory.path().join("fleet.toml")).expect("removed");
    insta::assert_snapshot!(error(directory.path(), &["build"]), @"error: no hosts are named. Add --all-hosts, --host GLOB, or a host after the flake as in `.#web`.");
    insta::assert_snapshot!(error(directory.path(), &["diff", "--store", "https://cache.example.org"]), @"error: DIR has no earlier revisions: it is not a git repository. A base needs history: keep the flake in git, or leave --base out.");
    insta::assert_snapshot!(error(directory.path(), &["build", "--all-hosts", "--output", "json=no/x"]), @"error: cannot write no/x: no such file or directory. Create the directory first.");
}

#[test]
fn settings_name_their_origin() {
    let directory = scratch();
    fs::write(directory.path().join("flake.nix"), "{ }").expect("flake");
    fs::write(directory.path().join("fleet.toml"), "exclude = [\"old-*\"]\n").expect("settings");
    fs::create_dir_all(directory.path().join(".config/fleetctl")).expect("directory");
    fs::write(directory.path().join(".config/fleetctl/config.toml"), "worker_slots = 3\n").expect("settings");
    let mut command = fleetctl(directory.path(), &["config", "show", "--color", "never"]);
    let output = command.env("FLEET_KIND", "darwin,home").output().expect("fleetctl runs");
    let shown = text(&output.stdout);
    let physical = directory.path().canonicalize().expect("path").display().to_string();
    // Values are padded to the longest, which is a path of this test.
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: Vec<String> = shown.replace(&physical, "DIR").lines().map(words).collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    branch = (of git or CI) # default
    bring = [] # default
    ca = (of the system) # default
    cache_dir = "DIR/.cache/fleetctl" # default
    client_cert = (none) # default
    client_key = (none) # default
    color = "never" # --color
    coordinator = (in this process) # default
    eval_slots = (by this machine) # default
    exclude = ["old-*"] # DIR/fleet.toml
    fail_fast = false # default
    fold = true # default
    format = "markdown" # default
    kind = ["darwin", "home"] # FLEET_KIND
    nix = "nix" # default
    oidc_token_file = (none) # default
    print_build_logs = false # default
    reconnect_for = "600s" # default
    state_dir = "DIR/.local/state/fleetctl" # default
    store = (from NIX_REMOTE) # default
    token = (none) # default
    token_file = (none) # default
    worker_slots = 3 # DIR/.config/fleetctl/config.toml
    "#);
}

#[test]
fn the_version_is_for_people_and_programs() {
    let directory = scratch();
    assert_eq!(
        text(&run(directory.path(), &["version"]).stdout),
        concat!("fleetctl ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let json: serde_json::Value =
        serde_json::from_slice(&run(directory.path(), &["version", "--json"]).stdout).expect("JSON");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_shell_gets_its_completions() {
    let directory = scratch();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&run(directory.path(), &["completions", shell]).stdout);
        assert!(script.contains("all-hosts"), "{shell}");
    }
}

#[test]
fn a_closed_standard_output_is_no_error() {
    let directory = scratch();
    let mut child = fleetctl(directory.path(), &["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fleetctl starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("fleetctl ends");
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn without_git_the_error_says_what_to_do() {
    let directory = scratch();
    fs::create_dir(directory.path().join(".git")).expect("directory");
    fs::write(directory.path().join("flake.nix"), "{ }").expect("flake");
    let output = fleetctl(directory.path(), &["build", "--all-hosts"]).env("PATH", "/nowhere").output();
    insta::assert_snapshot!(text(&output.expect("fleetctl runs").stderr), @"error: the git command was not found. Install git, or write path: before the flake's path to take every file of the directory.");
}

#[test]
fn a_broken_repository_is_not_passed_over_for_the_one_around_it() {
    let directory = scratch();
    let git = |arguments: &[&str]| {
        let status = Command::new("git").arg("-C").arg(directory.path()).args(arguments).status();
        assert!(status.expect("git runs").success());
    };
    git(&["init", "--quiet"]);
    fs::create_dir_all(directory.path().join("inner/.git")).expect("directory");
    fs::write(directory.path().join("inner/flake.nix"), "{ }").expect("flake");
    let said = error(directory.path(), &["build", "./inner", "--all-hosts"]);
    assert!(said.contains("not a git repository"), "{said}");
}
