//! A flake sees of itself what it sees in plain Nix, and evaluation leaves it as it is.

use std::collections::BTreeMap;
use std::fs;

use fleet_testkit::{DaemonOptions, GitRepo, NixDaemon};

use super::bench::{Bench, PRELUDE, nixos};
use crate::evaluator::{
    ConfigurationKind, EvalError, Evaluator, EvaluatorConfig, FlakeSource, ReplEvaluator,
};
use crate::proxy::ImportPolicy;

/// A host whose name is what the flake sees of itself: another view gives another derivation.
const SEES_ITSELF: &str = r#"nixosConfigurations.host = host (derivation {
    name = "sees"; system = "x86_64-linux"; builder = "/bin/sh";
    facts = builtins.toJSON {
      outPath = "${self.outPath}"; source = "${self.sourceInfo.outPath}"; inherit (self) narHash lastModified lastModifiedDate;
      rev = self.rev or null; shortRev = self.shortRev or null; revCount = self.revCount or null;
    };
  });"#;

async fn evaluate(config: &EvaluatorConfig, source: &FlakeSource) -> Result<crate::StorePath, EvalError> {
    let mut evaluator = ReplEvaluator::start(config, source).await?;
    evaluator.evaluate(&nixos("host")).await.map(|toplevel| toplevel.drv)
}

#[tokio::test]
async fn clean_and_dirty_trees_see_what_plain_nix_shows() {
    let bench = Bench::start().await;
    let mut repo = bench.flake(SEES_ITSELF);
    for state in ["first commit", "second commit", "dirty"] {
        repo.write("extra", state);
        if state == "dirty" {
            repo.add("extra");
        } else {
            repo.commit(state);
        }
        let source = bench.source(&repo, None);
        assert_eq!(source.rev.is_none(), state == "dirty");
        let drv = evaluate(&bench.config(), &source).await.expect(state);
        assert_eq!(drv, bench.plain_drv(&repo, "host"), "{state}");
    }
}

#[tokio::test]
async fn a_flake_below_the_top_of_its_tree_sees_the_same() {
    let bench = Bench::start().await;
    let mut repo = GitRepo::init(bench.daemon.scratch().join("nested"));
    let flake = format!("{{ outputs = {{ self }}: let {PRELUDE} in {{ {SEES_ITSELF} }}; }}");
    for subdir in ["hosts/all", "a b+c"] {
        repo.write(&format!("{subdir}/flake.nix"), &flake);
        repo.commit(subdir);
    }
    let source = bench.source(&repo, Some("hosts/all"));
    let drv = evaluate(&bench.config(), &source).await.expect("a toplevel");
    let attribute = "nixosConfigurations.host.config.system.build.toplevel.drvPath";
    assert_eq!(format!("/nix/store/{drv}"), bench.plain_eval(&repo, Some("hosts/all"), attribute));
    let odd = FlakeSource { subdir: Some("a b+c".to_owned()), ..source };
    evaluate(&bench.config(), &odd).await.expect("an odd directory");
}

#[tokio::test]
async fn locked_inputs_are_used_as_locked() {
    let bench = Bench::start().await;
    let mut input = GitRepo::init(bench.daemon.scratch().join("input"));
    input.write("flake.nix", "{ outputs = _: { name = \"first\"; }; }");
    input.commit("first");
    let mut repo = GitRepo::init(bench.daemon.scratch().join("fleet"));
    let flake = format!(
        "{{ inputs.input.url = \"git+file://{}\"; outputs = {{ self, input }}: let {PRELUDE} in {{
           nixosConfigurations.host = host (drv input.name); }}; }}",
        input.path().display()
    );
    repo.write("flake.nix", flake);
    repo.commit("no lock yet");
    let unlocked = bench.source(&repo, None);
    repo.git(&["add", "."]);
    bench.daemon.nix_stdout(["flake", "lock", &format!("git+file://{}", repo.path().display())]);
    repo.commit("locked");
    input.write("flake.nix", "{ outputs = _: { name = \"second\"; }; }");
    input.commit("second");
    let drv = evaluate(&bench.config(), &bench.source(&repo, None)).await.expect("a locked input");
    assert_eq!(drv.name(), "first.drv");
    assert_eq!(drv, bench.plain_drv(&repo, "host"));

    let mut evaluator = ReplEvaluator::start(&bench.config(), &unlocked).await.expect("an evaluator");
    let error = evaluator.discover(&[ConfigurationKind::Nixos]).await.expect_err("an input is not locked");
    assert!(matches!(&error, EvalError::Flake { cause, .. } if cause.contains("input 'input'")), "{error:?}");
    let tree = bench.daemon.physical(&format!("/nix/store/{}", unlocked.path));
    let names: Vec<_> =
        fs::read_dir(tree).expect("the source").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names, ["flake.nix"]);
}

/// Everything by which evaluation itself writes to the store.
#[tokio::test]
async fn whatever_evaluation_fetches_or_writes_is_what_plain_nix_has() {
    let bench = Bench::start().await;
    let scratch = bench.daemon.scratch();
    fs::write(scratch.join("file"), "fetched").expect("a file");
    fs::create_dir(scratch.join("unpacked")).expect("a directory");
    fs::write(scratch.join("unpacked/inside"), "fetched too").expect("a file");
    let packed = std::process::Command::new("tar")
        .args(["-czf", "tree.tar.gz", "unpacked"])
        .current_dir(&scratch)
        .status();
    assert!(packed.expect("tar runs").success());
    let hash = |path: &str, flat: bool| {
        let path = scratch.join(path);
        let arguments = ["hash", if flat { "file" } else { "path" }, "--sri", path.to_str().expect("UTF-8")];
        bench.daemon.nix_stdout(arguments)
    };
    let mut other = GitRepo::init(scratch.join("other"));
    other.write("flake.nix", "{ }");
    let rev = other.commit("other");
    let at = scratch.display();
    let mut repo = bench.flake(&format!(
        r#"nixosConfigurations.host = host (derivation {{ name = "top"; system = "x86_64-linux"; builder = "/bin/sh";
             file = builtins.fetchurl {{ url = "file://{at}/file"; sha256 = "{}"; }};
             tree = builtins.fetchTarball {{ url = "file://{at}/tree.tar.gz"; sha256 = "{}"; }};
             git = builtins.fetchGit {{ url = "file://{at}/other"; rev = "{rev}"; }};
             path = builtins.path {{ path = ./.; name = "filtered"; filter = path: type: baseNameOf path != "flake.nix"; }};
             text = builtins.toFile "text" "content";
             contents = builtins.readFile (builtins.toFile "text" "content");
             listed = builtins.toJSON (builtins.readDir ./.);
           }});"#,
        hash("file", true),
        hash("unpacked", false),
    ));
    repo.write("extra", "extra");
    repo.commit("extra");
    let source = bench.source(&repo, None);
    // Ours first: the plain one would bring it all into the store.
    let mut evaluator = ReplEvaluator::start(&bench.config(), &source).await.expect("an evaluator");
    let drv = evaluator.evaluate(&nixos("host")).await.expect("a toplevel").drv;
    assert_eq!(drv, bench.plain_drv(&repo, "host"));
}

#[tokio::test]
async fn the_environment_is_ours_alone() {
    let bench = Bench::start().await;
    let source = bench.source(&bench.flake(""), None);
    let evaluator = ReplEvaluator::start(&bench.config(), &source).await.expect("an evaluator");
    let process = evaluator.process_id().expect("a process");
    let environment = fs::read(format!("/proc/{process}/environ")).expect("its environment");
    let mut variables = BTreeMap::new();
    for variable in String::from_utf8(environment).expect("UTF-8").split_terminator('\0') {
        let (name, value) = variable.split_once('=').expect("a variable");
        variables.insert(name.to_owned(), value.to_owned());
    }
    let names =
        "HOME LANG NIX_CONF_DIR NIX_REMOTE NIX_STORE_DIR NIX_USER_CONF_FILES PATH TMPDIR XDG_CACHE_HOME";
    assert_eq!(variables.keys().map(String::as_str).collect::<Vec<_>>().join(" "), names);
    let home = &variables["HOME"];
    assert!(home.starts_with(bench.config().home.to_str().expect("UTF-8")), "{home}");
    assert_eq!((&variables["NIX_CONF_DIR"], &variables["TMPDIR"]), (home, home));
    assert_eq!(
        (variables["NIX_USER_CONF_FILES"].as_str(), &variables["NIX_REMOTE"]),
        ("", &bench.proxy.store_uri())
    );
}

#[tokio::test]
async fn nothing_of_the_user_or_the_flake_configures_evaluation() {
    // A daemon without flakes, that trusts nobody; a flake that brings settings of its own.
    let options = DaemonOptions {
        trust: fleet_testkit::Trust::Untrusted,
        experimental_features: vec!["nix-command".to_owned()],
        ..DaemonOptions::default()
    };
    let bench = Bench::of(NixDaemon::start(&options), ImportPolicy::Allow, None).await;
    let plain = Bench::start().await;
    let mut repo = plain.flake("");
    let flake = format!(
        "{{ nixConfig.allow-import-from-derivation = false; nixConfig.pure-eval = false; outputs = {{ self }}: let {PRELUDE} in {{
           nixosConfigurations.host = host (drv \"x${{import (ifd \"echo '\\\"y\\\"' > $out\")}}${{builtins.getEnv \"HOME\"}}\"); }}; }}"
    );
    repo.write("flake.nix", flake);
    repo.commit("settings");
    let source = plain.source(&repo, None);
    // The same tree in the other store.
    let tree = plain.daemon.physical(&format!("/nix/store/{}", source.path));
    let tree = tree.to_str().expect("UTF-8");
    let added = bench.daemon.nix_stdout(["store", "add", "--name", "source", tree]);
    assert_eq!(added, format!("/nix/store/{}", source.path));
    let drv = evaluate(&bench.config(), &source).await.expect("a toplevel");
    assert_eq!(drv.name(), "xy.drv");
}
