//! Inputs that come along with a run: which, how often they are sent, and what is said of those that cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fleet_testkit::{GitRepo, NixDaemon};
use fleet_wire::v1;

use crate::program::{fleetctl, run};
use crate::scripted::Scripted;

const INNER: &str = "{ outputs = _: { }; }";

/// Repositories, directories, and the flake that has them as inputs, locked by real Nix.
struct Inputs {
    daemon: NixDaemon,
    flake: GitRepo,
    ssh: std::path::PathBuf,
}

impl Inputs {
    fn locked(scratch: &Path) -> Self {
        let daemon = NixDaemon::start_default();
        let mut repo = GitRepo::init(scratch.join("repo"));
        repo.write("flake.nix", INNER);
        // Of many chunks, none like another.
        repo.write("large", noise(3 << 20));
        repo.commit("first");
        let mut private = GitRepo::init(scratch.join("private"));
        private.write("flake.nix", INNER);
        private.commit("first");
        private.write("later", "x");
        private.commit("second");
        fs::create_dir(scratch.join("plain")).expect("a directory");
        fs::write(scratch.join("plain/flake.nix"), INNER).expect("written");
        let ssh = scratch.join("ssh");
        // Git asks the host's shell for what it wants: here that is this one.
        fs::write(&ssh, "#!/bin/sh\nfor command; do :; done\nexec sh -c \"$command\"\n").expect("written");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("ours");
        let flake = GitRepo::init(scratch.join("fleet"));
        let at = scratch.display();
        flake.write(
            "flake.nix",
            format!(
                "{{ inputs.repo.url = \"git+file://{at}/repo\"; inputs.plain.url = \"path:{at}/plain\"; \
                 inputs.private.url = \"git+ssh://git@host{at}/private\"; outputs = _: {{ }}; }}"
            ),
        );
        flake.add("flake.nix");
        let inputs = Self { daemon, flake, ssh };
        inputs.lock();
        let Self { daemon, mut flake, ssh } = inputs;
        flake.commit("locked");
        Self { daemon, flake, ssh }
    }

    fn lock(&self) {
        let mut nix = self.daemon.nix(["flake", "lock"]);
        let output =
            nix.current_dir(self.flake.path()).env("GIT_SSH_COMMAND", &self.ssh).output().expect("starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Bytes that repeat nowhere.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    });
    bytes.take(count).collect()
}

fn names(source: Option<&v1::Source>) -> Vec<&str> {
    source.expect("it is sent").inputs.iter().map(|input| &*input.name).collect()
}

#[test]
fn inputs_come_along_once_and_only_what_is_new_is_sent() {
    let coordinator = Scripted::start();
    let mut inputs = Inputs::locked(coordinator.scratch());
    let build = |arguments: &[&str]| {
        let mut command = fleetctl(&coordinator, &[&["build", "--all-hosts"], arguments].concat());
        command.env("GIT_SSH_COMMAND", &inputs.ssh);
        run(command).expect(0)
    };
    let first = build(&["--branch", "release/1"]);
    for said in ["Packing input private from ssh://", "of input repo"] {
        assert!(first.stderr.contains(said), "{said}: {}", first.stderr);
    }
    let sent = {
        let script = coordinator.state.script();
        let submitted = &script.submits[0];
        assert_eq!(names(submitted.after.as_ref()), ["plain", "private", "repo"]);
        assert_eq!(submitted.branch, "release/1");
        for input in &submitted.after.as_ref().expect("a source").inputs {
            let chunks = &input.manifest.as_ref().expect("chunks").chunks;
            assert!(chunks.iter().all(|chunk| script.chunks.contains(&chunk.digest[..])), "{}", input.name);
        }
        script.stored_chunks
    };
    assert!(sent > 10, "{sent} chunks");

    // Nothing has to be there any more: what was packed is known, and the coordinator has it.
    for gone in ["repo", "private", "plain"] {
        fs::remove_dir_all(coordinator.scratch().join(gone)).expect("removed");
    }
    inputs.flake.write(
        "flake.nix",
        fs::read_to_string(inputs.flake.path().join("flake.nix")).expect("read") + "# new",
    );
    inputs.flake.commit("one line more");
    let again = build(&["--base", "HEAD^"]);
    assert!(!again.stderr.contains("Packing"), "{}", again.stderr);
    let script = coordinator.state.script();
    let submitted = script.submits.last().expect("submitted");
    assert_eq!(names(submitted.after.as_ref()), ["plain", "private", "repo"]);
    assert_eq!(names(submitted.before.as_ref()), ["plain", "private", "repo"]);
    assert_eq!(submitted.branch, "main", "as git has it");
    assert_eq!(script.stored_chunks - sent, 1, "the changed flake is one chunk");
}

#[test]
fn what_cannot_be_taken_along_is_said_before_anything_is_submitted() {
    let coordinator = Scripted::start();
    let inputs = Inputs::locked(coordinator.scratch());
    let build = |arguments: &[&str]| {
        let mut command = fleetctl(&coordinator, &[&["build", "--all-hosts"], arguments].concat());
        command.env("GIT_SSH_COMMAND", &inputs.ssh);
        run(command)
    };
    let said = |arguments: &[&str], what: &str| {
        let stderr = build(arguments).expect(1).stderr;
        assert!(stderr.contains(what), "{what}: {stderr}");
    };
    said(&["--bring", "privat"], "flake.lock has no input `privat`. Perhaps you mean private.");
    fs::write(coordinator.scratch().join("plain/flake.nix"), "{ outputs = _: { x = 1; }; }")
        .expect("written");
    said(&[], "plain is not what flake.lock says");
    said(&[], "`nix flake update plain` locks what is there now");
    fs::write(coordinator.scratch().join("plain/flake.nix"), INNER).expect("written");
    fs::remove_dir_all(coordinator.scratch().join("private")).expect("removed");
    said(&[], "error: input `private` cannot be read from ssh://git@host");
    assert!(coordinator.state.script().submits.is_empty());
    inputs.flake.write("flake.lock", "{ \"version\": 7");
    said(&[], "flake.lock cannot be read");
    // A lock file of tomorrow is Nix's to read.
    inputs.flake.write("flake.lock", "{ \"version\": 8 }");
    let outcome = build(&[]).expect(0);
    assert!(outcome.stderr.contains("flake.lock has version 8"), "{}", outcome.stderr);
}
