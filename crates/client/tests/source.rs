//! A packed flake is what Nix itself makes of it: the same NAR hash and the same facts, case by case.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use fleet_client::source::{self, FlakeRef, Location, PackedSource, SourceError};
use fleet_nix::NarHash;
use fleet_testkit::{GitRepo, NixDaemon, short_temp_dir};
use fleet_wire::v1;
use tempfile::TempDir;

const FLAKE: &str = "{ outputs = { self }: { facts = { inherit (self) narHash lastModified; rev = self.rev or \"\"; \
                     revCount = self.revCount or 0; }; }; }";

/// What Nix knows of a flake and what we pack of it, in the same words.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    nar_hash: String,
    rev: String,
    rev_count: u64,
    last_modified: u64,
}

struct Fixture {
    daemon: NixDaemon,
    directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { daemon: NixDaemon::start_default(), directory: short_temp_dir() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn repository(&self) -> GitRepo {
        let repo = GitRepo::init(self.path("repo"));
        repo.write("flake.nix", FLAKE);
        repo
    }

    /// Asks Nix, with a fetcher cache of its own: a cache knows a revision as whatever it was first seen as.
    fn nix(&self, flake: &str) -> Facts {
        let cache = tempfile::tempdir_in(self.directory.path()).expect("cache");
        let output = self
            .daemon
            .nix(["eval", "--json", &format!("{flake}#facts")])
            .env("XDG_CACHE_HOME", cache.path())
            .current_dir(self.directory.path())
            .output()
            .expect("nix runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("facts");
        Facts {
            nar_hash: facts["narHash"].as_str().expect("narHash").to_owned(),
            rev: facts["rev"].as_str().expect("rev").to_owned(),
            rev_count: facts["revCount"].as_u64().expect("revCount"),
            last_modified: facts["lastModified"].as_u64().expect("lastModified"),
        }
    }

    fn found(&self, flake: &str) -> (FlakeRef, Location) {
        let reference = FlakeRef::parse(flake).expect("reference");
        let location = Location::find(&reference, self.directory.path()).expect("location");
        (reference, location)
    }

    fn packed(&self, flake: &str) -> PackedSource {
        self.try_packed(flake).expect("packed")
    }

    fn try_packed(&self, flake: &str) -> Result<PackedSource, SourceError> {
        let (reference, location) = self.found(flake);
        source::pack_current(&reference, &location, &self.path("spool"))
    }

    fn packed_base(&self, flake: &str, rev: &str) -> PackedSource {
        let (reference, location) = self.found(flake);
        source::pack_base(&reference, &location, rev, &self.path("spool")).expect("packed")
    }

    fn check(&self, flake: &str) -> PackedSource {
        let packed = self.packed(flake);
        assert_eq!(facts(&packed), self.nix(flake), "{flake}");
        packed
    }
}

fn facts(packed: &PackedSource) -> Facts {
    let wire = packed.to_wire(v1::Manifest::default());
    let bytes: [u8; 32] = wire.nar_hash[..].try_into().expect("32 bytes");
    let size = fs::metadata(packed.nar()).expect("spool").len();
    assert_eq!(wire.nar_size, size);
    Facts {
        nar_hash: NarHash(bytes).to_sri(),
        rev: wire.rev,
        rev_count: wire.rev_count,
        last_modified: wire.last_modified,
    }
}

fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
}

/// Names and kinds that are easy to get wrong.
fn awkward(repo: &GitRepo) {
    repo.write("a.b", "sorts after the directory a");
    repo.write("a/deep/file", "x");
    repo.write("a-c", "");
    repo.write("--option", "a name like an option");
    repo.write("with space\tand tab", "x");
    repo.write("grün.txt", "x");
    repo.write("big", vec![7_u8; 300_000]);
    repo.write("run", "#!/bin/sh\n");
    make_executable(&repo.path().join("run"));
    symlink("a/deep", repo.path().join("link")).expect("link");
    symlink("/nowhere/at all", repo.path().join("dangling")).expect("link");
    repo.write("ignored/by/export", "x");
    repo.write(".gitattributes", "ignored export-ignore\n");
}

#[test]
fn a_clean_tree_is_what_nix_fetches() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    awkward(&repo);
    repo.commit("first");
    repo.commit("second");
    repo.write("untracked", "Nix does not see it");
    let packed = fixture.check("./repo");
    assert!(!packed.dirty);
    assert_eq!(facts(&packed).rev_count, 2);
    fixture.check("git+file:./repo");
}

#[test]
fn a_dirty_tree_is_what_nix_fetches() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    awkward(&repo);
    repo.commit("first");
    repo.write("big", "changed");
    repo.write("new but known", "x");
    repo.git(&["add", "--intent-to-add", "--", "new but known"]);
    repo.write("untracked", "x");
    fs::remove_file(repo.path().join("a-c")).expect("deleted");
    fs::remove_file(repo.path().join("a/deep/file")).expect("deleted");
    repo.write("a/deep/untracked", "keeps the directory alive on disk");
    make_executable(&repo.path().join("a.b"));
    repo.git(&["rm", "--quiet", "--cached", "--", "--option"]);
    let packed = fixture.check("./repo");
    assert!(packed.dirty);
    assert_eq!(packed.rev(), None);
}

#[test]
fn a_tree_without_commits_is_what_nix_fetches() {
    let fixture = Fixture::new();
    let repo = fixture.repository();
    repo.add("flake.nix");
    assert_eq!(facts(&fixture.check("./repo")).last_modified, 0);
}

#[test]
fn a_flake_below_the_top_is_what_nix_fetches() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    repo.write("fleet/flake.nix", FLAKE);
    repo.write("beside", "belongs to the source, too");
    repo.commit("first");
    let subdir = |packed: &PackedSource| packed.to_wire(v1::Manifest::default()).subdir;
    assert_eq!(subdir(&fixture.check("./repo/fleet")), "fleet");
    assert_eq!(subdir(&fixture.check("git+file:./repo?dir=fleet")), "fleet");
    assert_eq!(subdir(&fixture.check("./repo")), "");
}

#[test]
fn a_base_is_the_commit_as_nix_fetches_it() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    awkward(&repo);
    let first = repo.commit("first");
    repo.write("big", "changed");
    repo.commit("second");
    let nix = fixture.nix(&format!("git+file:./repo?rev={first}"));
    assert_eq!(facts(&fixture.packed_base("./repo", "HEAD^")), nix);
    assert_eq!(facts(&fixture.packed(&format!("git+file:./repo?rev={first}"))), nix);
    assert_ne!(nix.nar_hash, fixture.nix("./repo").nar_hash);
}

#[test]
fn checkout_filters_count_in_the_work_tree_and_not_in_commits() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    repo.write(".gitattributes", "*.txt text eol=crlf\n");
    repo.write("a.txt", "a\r\nb\r\n");
    let rev = repo.commit("first");
    let (work_tree, commit) = (fixture.check("./repo"), fixture.packed_base("./repo", "HEAD"));
    assert_eq!(facts(&commit), fixture.nix(&format!("git+file:./repo?rev={rev}")));
    assert_ne!(facts(&work_tree).nar_hash, facts(&commit).nar_hash);
}

#[test]
fn submodules_are_left_out_as_nix_does() {
    let fixture = Fixture::new();
    let mut module = GitRepo::init(fixture.path("module"));
    module.write("inside", "x");
    module.commit("module");
    let mut repo = fixture.repository();
    let url = module.path().display().to_string();
    repo.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &url, "sub"]);
    let rev = repo.commit("first");
    fixture.check("./repo");
    let nix = fixture.nix(&format!("git+file:./repo?rev={rev}"));
    assert_eq!(facts(&fixture.packed_base("./repo", "HEAD")), nix);
    // Work inside of a submodule does not make the tree dirty for Nix.
    fs::write(repo.path().join("sub/inside"), "y").expect("write");
    assert!(!fixture.check("./repo").dirty);
}

#[test]
fn a_shallow_clone_has_no_count_of_revisions() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    repo.commit("first");
    repo.commit("second");
    let url = format!("file://{}", repo.path().display());
    let target = fixture.path("shallow").display().to_string();
    repo.git(&["clone", "--quiet", "--depth", "1", &url, &target]);
    assert_eq!(facts(&fixture.check("./shallow")).rev_count, 0);
}

#[test]
fn a_linked_work_tree_is_what_nix_fetches() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    repo.commit("first");
    let target = fixture.path("linked").display().to_string();
    repo.git(&["worktree", "add", "--quiet", &target, "-b", "other"]);
    fs::write(fixture.path("linked/flake.nix"), format!("{FLAKE} # changed")).expect("write");
    assert!(fixture.check("./linked").dirty);
}

#[test]
fn a_plain_directory_is_what_nix_fetches() {
    let fixture = Fixture::new();
    let directory = fixture.path("plain");
    fs::create_dir_all(directory.join("empty/inner")).expect("directory");
    fs::write(directory.join("flake.nix"), FLAKE).expect("flake");
    fs::write(directory.join("run"), "x").expect("file");
    make_executable(&directory.join("run"));
    symlink("run", directory.join("link")).expect("link");
    fixture.check("path:./plain");
    let flake = format!("path:{}", directory.display());
    let nix = fixture.nix(&flake);
    // Without a repository around it, a plain path means the same.
    assert_eq!(facts(&fixture.packed("./plain")), nix);
}

#[test]
fn an_untracked_flake_is_named() {
    let fixture = Fixture::new();
    fixture.repository();
    let error = fixture.try_packed("./repo").expect_err("refused");
    assert!(matches!(&error, SourceError::Untracked(path) if path.ends_with("repo/flake.nix")), "{error}");
}

#[test]
fn what_is_not_carried_is_said() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    repo.write("version.nix", "self: self.rev or self.dirtyRev");
    repo.commit("first");
    assert_eq!(fixture.packed("./repo").notes, Vec::<String>::new());
    repo.write("flake.nix", format!("{FLAKE} # self.submodules"));
    let notes = fixture.packed("./repo").notes;
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].starts_with("self.submodules is not carried to the evaluator, but flake.nix mentions it")
    );
    assert!(notes[1].starts_with("dirtyRev is not carried to the evaluator, but version.nix mentions it"));
}

#[test]
fn no_spool_is_left_behind() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    repo.commit("first");
    drop(fixture.packed("./repo"));
    assert_eq!(fs::read_dir(fixture.path("spool")).expect("spool").count(), 0);
}
