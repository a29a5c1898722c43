//! Inputs of a flake that only the client can reach, on workers that have never seen them.

use std::fs;

use fleet_testkit::{GitRepo, NixDaemon, Signal};
use fleet_tests::{Farm, FarmOptions};

const SYSTEM: &str = if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };

#[test]
fn an_input_that_is_gone_is_still_there_for_a_new_worker() {
    let mut farm = Farm::start(FarmOptions::default());
    farm.add_worker("first", &[SYSTEM], 1);
    let scratch = farm.scratch();
    let mut private = GitRepo::init(scratch.join("private"));
    private.write("flake.nix", "{ outputs = _: { word = \"from git\"; }; }");
    private.commit("first");
    fs::create_dir(scratch.join("plain")).expect("a directory");
    fs::write(scratch.join("plain/word"), "from a directory").expect("written");
    let mut flake = GitRepo::init(scratch.join("fleet"));
    let write = |flake: &GitRepo, note: &str| {
        let at = scratch.display();
        flake.write(
            "flake.nix",
            format!(
                "{{ inputs.private.url = \"git+file://{at}/private\"; \
                 inputs.plain = {{ url = \"path:{at}/plain\"; flake = false; }}; \
                 outputs = {{ private, plain, ... }}: {{ nixosConfigurations.web.config.system.build.toplevel = derivation {{ \
                 name = \"web\"; system = \"{SYSTEM}\"; builder = \"/bin/sh\"; \
                 args = [ \"-c\" \"echo '${{private.word}}, ${{builtins.readFile \"${{plain}}/word\"}}, {note}' > $out\" ]; \
                 }}; }}; }}"
            ),
        );
    };
    write(&flake, "once");
    flake.add("flake.nix");
    let local = NixDaemon::start_default();
    local.nix_stdout(["flake", "lock", &flake.path().display().to_string()]);
    flake.commit("locked");
    let build = |farm: &Farm| {
        let outcome = farm.fleetctl().args(["build", "--all-hosts"]).args([flake.path()]).run();
        outcome.expect_code(0);
        outcome.stdout.split_whitespace().nth(1).expect("a store path").to_owned()
    };
    let top = build(&farm);
    let content = |farm: &Farm, worker: &str, path: &str| {
        fs::read_to_string(farm.worker(worker).daemon.physical(path)).expect("it is built")
    };
    assert_eq!(content(&farm, "first", &top), "from git, from a directory, once\n");

    farm.end_worker("first", Signal::TERM);
    fs::remove_dir_all(scratch.join("private")).expect("removed");
    fs::remove_dir_all(scratch.join("plain")).expect("removed");
    farm.add_worker("second", &[SYSTEM], 1);
    write(&flake, "again");
    let top = build(&farm);
    assert_eq!(content(&farm, "second", &top), "from git, from a directory, again\n");
}
