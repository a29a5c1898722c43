//! One host's failure is that host's alone, and says why.

use std::fmt::Write as _;
use std::time::Duration;

use fleet_testkit::{GitRepo, NixDaemon};

use super::bench::{Bench, nixos};
use crate::evaluator::{
    ConfigurationKind, EvalError, Evaluator, HostAttr, ProcessEvaluator, ReplEvaluator, Toplevel,
    start_evaluator,
};
use crate::proxy::ImportPolicy;

/// Hosts that fail, each with the start of its cause.
const BAD: &[(&str, &str, &str)] = &[
    ("throws", r#"host (throw "no such option")"#, "no such option"),
    (
        "assertions",
        r#"host (throw "\nFailed assertions:\n- No root file system.\n- No boot loader.")"#,
        "Failed assertions: No root file system.; No boot loader.",
    ),
    ("aborts", r#"host (abort "stop")"#, "evaluation aborted with the following error message: 'stop'"),
    (
        "infinite",
        "host (let x = x + 1; in drv \"a${toString x}\")",
        "infinite recursion encountered, at flake.nix:",
    ),
    ("overflow", "host (drv (let f = x: f (x + 1) + 1; in toString (f 0)))", "stack overflow"),
    ("missing", "host ({ }.nope)", "attribute 'nope' missing, at flake.nix:"),
    ("asserts", "host (assert false; drv \"x\")", "assertion 'false' failed, at flake.nix:"),
    ("typeerror", "host (drv (1 + \"a\"))", "cannot add a string to an integer, at flake.nix:"),
    ("impure", "host (drv (builtins.readFile /etc/passwd))", "access to absolute path '/etc"),
    ("number", "host 42", "expected a set but found an integer"),
    ("nothing", "{ }", "attribute 'config' missing"),
    ("nodrv", "host { type = \"derivation\"; }", "attribute 'drvPath' missing"),
    (
        "fakedrv",
        "host { drvPath = \"/etc/passwd\"; outPath = \"x\"; outputName = \"out\"; }",
        "the toplevel is not a derivation",
    ),
    ("badimport", "host (drv \"x${import (ifd \"echo '{' > $out\")}\")", "syntax error"),
    ("failedimport", "host (drv \"x${import (ifd \"echo oops >&2; exit 3\")}\")", ""),
    ("nofetch", "host (drv \"x${builtins.fetchurl \"http://127.0.0.1:9/x\"}\")", "in pure evaluation mode"),
];

/// Every bad host has a good one behind it. `drvs` is what plain Nix makes of the good ones.
fn flake_with_bad_hosts() -> String {
    let mut hosts = String::new();
    let mut drvs = String::new();
    for (index, (name, value, _)) in BAD.iter().enumerate() {
        let _ = writeln!(hosts, "{name} = {value}; good{index} = host (drv \"good{index}\");");
        let _ = write!(drvs, "${{(drv \"good{index}\").drvPath}} ");
    }
    format!("nixosConfigurations = {{ {hosts} }}; drvs = \"{drvs}\";")
}

async fn bad_hosts_leave_the_good_ones_alone(bench: &Bench, repo: &GitRepo, evaluator: &mut dyn Evaluator) {
    let drvs = bench.plain_eval(repo, None, "drvs");
    for ((name, _, cause), (index, drv)) in BAD.iter().zip(drvs.split(' ').enumerate()) {
        let error = evaluator.evaluate(&nixos(name)).await.expect_err(name);
        let EvalError::Host { cause: found, trace } = &error else {
            panic!("{name}: {error:?}");
        };
        assert!(found.contains(cause), "{name}: {found}\n{trace}");
        assert!(!found.is_empty() && !found.contains(['\n', '\u{1b}']), "{name}: {found:?}");
        assert!(*name == "fakedrv" || trace.contains("error:"), "{name}: {trace}");
        let good = evaluator.evaluate(&nixos(&format!("good{index}"))).await.expect("a good host");
        assert_eq!(format!("/nix/store/{}", good.drv), drv);
        assert!(bench.daemon.physical(drv).exists());
    }
}

#[tokio::test]
async fn bad_hosts_never_touch_good_ones_in_one_process() {
    let bench = Bench::start().await;
    let repo = bench.flake(&flake_with_bad_hosts());
    let source = bench.source(&repo, None);
    let mut evaluator = ReplEvaluator::start(&bench.config(), &source).await.expect("an evaluator");
    let process = evaluator.process_id();
    bad_hosts_leave_the_good_ones_alone(&bench, &repo, &mut evaluator).await;
    assert!(process.is_some());
    assert_eq!(evaluator.process_id(), process);
}

#[tokio::test]
async fn bad_hosts_never_touch_good_ones_without_a_read_loop() {
    let bench = Bench::start().await;
    let repo = bench.flake(&flake_with_bad_hosts());
    let mut evaluator = ProcessEvaluator::new(&bench.config(), &bench.source(&repo, None));
    bad_hosts_leave_the_good_ones_alone(&bench, &repo, &mut evaluator).await;
}

#[tokio::test]
async fn imports_are_built_where_they_are_allowed_and_named_where_not() {
    let outputs = r#"nixosConfigurations = {
        imports = host (drv "x${import (ifd "echo '\"hello\"' > $out")}"); plain = host (drv "plain"); };"#;
    let bench = Bench::start().await;
    let repo = bench.flake(outputs);
    let source = bench.source(&repo, None);
    let mut evaluator = start_evaluator(&bench.config(), &source).await.expect("an evaluator");
    let toplevel = evaluator.evaluate(&nixos("imports")).await.expect("an import is built");
    assert_eq!(toplevel.drv.name(), "xhello.drv");
    assert_eq!(toplevel.drv, bench.plain_drv(&repo, "imports"));

    let strict = Bench::of(NixDaemon::start_default(), ImportPolicy::Forbid, None).await;
    let source = strict.source(&strict.flake(outputs), None);
    let mut evaluator = start_evaluator(&strict.config(), &source).await.expect("an evaluator");
    let error = evaluator.evaluate(&nixos("imports")).await.expect_err("imports are forbidden");
    assert_eq!(
        error.to_string(),
        "import from derivation is not allowed here: evaluation needs imported.drv built"
    );
    evaluator.evaluate(&nixos("plain")).await.expect("the next host is not to blame");
}

#[tokio::test]
async fn names_are_data_whatever_is_in_them() {
    let names = [
        "--option",
        "a b;c",
        "q\"${x}\\n",
        "new\nline\ttab\rreturn",
        "é🦀",
        "",
        "''",
        "$(touch /x)",
        "a.b",
        "\u{1b}[A\u{4}",
    ];
    let mut attributes = String::new();
    for (index, name) in names.iter().enumerate() {
        // JSON's escapes are read by Nix itself here: another way than the one under test.
        let json = serde_json::to_string(name)
            .expect("JSON")
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace("${", "\\${");
        let _ = writeln!(
            attributes,
            "{{ name = builtins.fromJSON \"{json}\"; value = host (drv \"host{index}\"); }}"
        );
    }
    let bench = Bench::start().await;
    let repo = bench.flake(&format!("nixosConfigurations = builtins.listToAttrs [ {attributes} ];"));
    let source = bench.source(&repo, None);
    let mut fallback = ProcessEvaluator::new(&bench.config(), &source);
    let mut evaluator = ReplEvaluator::start(&bench.config(), &source).await.expect("an evaluator");
    let mut expected: Vec<&str> = names.to_vec();
    expected.sort_unstable();
    for evaluator in [&mut evaluator as &mut dyn Evaluator, &mut fallback] {
        let mut found: Vec<String> = evaluator
            .discover(&[ConfigurationKind::Nixos])
            .await
            .expect("names")
            .into_iter()
            .map(|host| host.name)
            .collect();
        found.sort_unstable();
        assert_eq!(found, expected);
        for (index, name) in names.iter().enumerate() {
            let toplevel = evaluator.evaluate(&nixos(name)).await.expect(name);
            assert_eq!(toplevel.drv.name(), format!("host{index}.drv"));
        }
        let error = evaluator.evaluate(&nixos("nosuch\u{7}")).await.expect_err("there is no such host");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}

#[tokio::test]
async fn every_kind_is_found_at_its_place() {
    let bench = Bench::start().await;
    let repo = bench.flake(
        r#"darwinConfigurations = { mac.system = drv "mac"; new.config.system.build.toplevel = drv "new"; };
           homeConfigurations."me@laptop".activationPackage = drv "home";"#,
    );
    let source = bench.source(&repo, None);
    let mut evaluator = start_evaluator(&bench.config(), &source).await.expect("an evaluator");
    let hosts = evaluator.discover(&ConfigurationKind::ALL).await.expect("hosts");
    let host = |kind, name: &str| HostAttr { kind, name: name.to_owned() };
    assert_eq!(
        hosts,
        [
            host(ConfigurationKind::Darwin, "mac"),
            host(ConfigurationKind::Darwin, "new"),
            host(ConfigurationKind::Home, "me@laptop"),
        ]
    );
    for (host, drv) in hosts.iter().zip(["mac.drv", "new.drv", "home.drv"]) {
        let Toplevel { drv: found, output_name, output } =
            evaluator.evaluate(host).await.expect("a toplevel");
        assert_eq!((found.name(), output_name.as_str()), (drv, "out"));
        assert_eq!(output.expect("a known path").name(), drv.trim_end_matches(".drv"));
    }
}

#[tokio::test]
async fn a_path_known_only_after_the_build_is_not_made_up() {
    let bench = Bench::start().await;
    let repo = bench.flake(
        r#"nixosConfigurations.floats = host (derivation { name = "floats"; system = "x86_64-linux"; builder = "/bin/sh";
             __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; });"#,
    );
    let source = bench.source(&repo, None);
    let mut config = bench.config();
    let mut evaluator = start_evaluator(&config, &source).await.expect("an evaluator");
    let error = evaluator.evaluate(&nixos("floats")).await.expect_err("the feature is off");
    assert!(error.to_string().contains("ca-derivations"), "{error}");
    config.features.push("ca-derivations".to_owned());
    let mut evaluator = start_evaluator(&config, &source).await.expect("an evaluator");
    // The daemon has the feature off too, and is the one to refuse.
    match evaluator.evaluate(&nixos("floats")).await {
        Ok(toplevel) => assert_eq!(toplevel.output, None),
        Err(error) => assert!(error.to_string().contains("ca-derivations"), "{error}"),
    }
}

#[tokio::test]
async fn a_broken_flake_is_the_flakes_fault() {
    let bench = Bench::start().await;
    let repo = bench.flake("nixosConfigurations = throw \"all is lost\";");
    let mut evaluator =
        start_evaluator(&bench.config(), &bench.source(&repo, None)).await.expect("an evaluator");
    let error = evaluator.discover(&[ConfigurationKind::Nixos]).await.expect_err("it throws");
    let EvalError::Flake { cause, trace } = error else { panic!("{error:?}") };
    assert_eq!(cause, "all is lost");
    assert!(trace.contains("error: all is lost"), "{trace}");
    repo.write("flake.nix", "{ outputs = ");
    let mut evaluator =
        start_evaluator(&bench.config(), &bench.source_of_tree(&repo)).await.expect("an evaluator");
    let error = evaluator.discover(&[ConfigurationKind::Nixos]).await.expect_err("it does not parse");
    assert!(matches!(&error, EvalError::Flake { cause, .. } if cause.contains("syntax error")), "{error:?}");
}

#[tokio::test]
async fn endless_talk_does_not_fill_memory() {
    let bench = Bench::start().await;
    let repo = bench.flake(
        r#"nixosConfigurations = {
             talks = let
               long = builtins.concatStringsSep "" (builtins.genList (_: "0123456789abcdef") 4096);
               line = builtins.concatStringsSep "" (builtins.genList (_: long) 100);
             in builtins.foldl' (value: _: builtins.trace long value) (builtins.trace line (host (drv "talks"))) (builtins.genList (x: x) 500);
             cries = builtins.foldl' (value: n: builtins.trace "line ${toString n}" value) (throw "at last") (builtins.genList (x: x) 20000);
           };"#,
    );
    let mut evaluator =
        ReplEvaluator::start(&bench.config(), &bench.source(&repo, None)).await.expect("an evaluator");
    evaluator.evaluate(&nixos("talks")).await.expect("it says a lot, and then the result");
    let error = evaluator.evaluate(&nixos("cries")).await.expect_err("it throws");
    assert_eq!(error.to_string(), "at last");
    let trace = error.trace().expect("a trace");
    assert!(trace.len() < 70_000 && trace.trim_end().ends_with("error: at last"), "{}", trace.len());
}

#[tokio::test]
async fn a_host_over_its_time_ends_and_the_next_one_is_evaluated() {
    let bench = Bench::start().await;
    let repo = bench.flake(
        r#"nixosConfigurations = {
             slow = let range = builtins.genList (x: x) 30000; in
               host (drv (toString (builtins.foldl' (a: _: builtins.foldl' (b: c: b + c) a range) 0 range)));
             quick = host (drv "quick"); };"#,
    );
    let source = bench.source(&repo, None);
    let mut config = bench.config();
    let mut evaluator = ReplEvaluator::start(&config, &source).await.expect("an evaluator");
    let process = evaluator.process_id().expect("a process");
    evaluator.evaluate(&nixos("quick")).await.expect("in time");
    evaluator.set_wall_limit(Duration::from_secs(1));
    let error = evaluator.evaluate(&nixos("slow")).await.expect_err("too slow");
    assert!(matches!(error, EvalError::TimedOut { .. }) && error.lost_process(), "{error:?}");
    assert!(fleet_testkit::wait_until_gone(process, Duration::from_secs(30)));
    evaluator.set_wall_limit(Duration::from_mins(1));
    evaluator.evaluate(&nixos("quick")).await.expect("a new process");

    config.host_wall_limit = Duration::from_secs(1);
    let mut fallback = ProcessEvaluator::new(&config, &source);
    let error = fallback.evaluate(&nixos("slow")).await.expect_err("too slow");
    assert!(matches!(error, EvalError::TimedOut { .. }), "{error:?}");
}
