//! Inputs that come along have the NAR hash that real Nix locked, case by case; what has another one stays here.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use fleet_client::source::inputs::{
    Carried, InputError, Lock, LockedInput, Place, Places, Reach, Taken, choose,
};
use fleet_testkit::{GitRepo, NixDaemon, short_temp_dir};
use tempfile::TempDir;

const INNER: &str = "{ outputs = _: { }; }";

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

    /// Lets Nix lock a flake with these inputs; answers those that come along.
    fn locked(&self, inputs: &str, options: &[&str]) -> Vec<LockedInput> {
        let root = self.path("root");
        fs::create_dir_all(&root).expect("a directory");
        let flake = format!("{{ inputs = {{ {inputs} }}; outputs = _: {{ }}; }}");
        fs::write(root.join("flake.nix"), flake).expect("written");
        let cache = tempfile::tempdir_in(self.directory.path()).expect("a cache");
        let output = self
            .daemon
            .nix(["flake", "lock", &format!("path:{}", root.display())])
            .args(options)
            .env("XDG_CACHE_HOME", cache.path())
            .output()
            .expect("nix runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lock = fs::read(root.join("flake.lock")).expect("a lock file");
        choose(&Lock::parse(&lock).expect("parsed"), Reach::Elsewhere, &[]).expect("chosen")
    }

    /// Where there is no store to take anything from.
    fn places(&self) -> Places {
        Places { spools: self.path("spool"), known: self.path("known"), store: self.path("no-store") }
    }

    fn take(&self, input: &LockedInput) -> Result<Taken, InputError> {
        Carried::new(self.places()).take(input.clone(), |_| ())
    }

    /// Packs each, which fails for whatever differs from what Nix locked.
    #[track_caller]
    fn check(&self, inputs: &str, options: &[&str]) {
        let locked = self.locked(inputs, options);
        assert!(!locked.is_empty());
        for input in locked {
            self.take(&input).unwrap_or_else(|error| panic!("{error:?}"));
        }
    }

    fn repository(&self) -> GitRepo {
        let mut repo = GitRepo::init(self.path("repo"));
        repo.write("flake.nix", INNER);
        repo.write("a.b", "sorts after the directory a");
        repo.write("a/deep/file", "x");
        repo.write("run", "#!/bin/sh\n");
        fs::set_permissions(repo.path().join("run"), fs::Permissions::from_mode(0o755)).expect("mode");
        symlink("a/deep", repo.path().join("link")).expect("link");
        repo.write("text.txt", "a\nb\n");
        repo.write("ignored/file", "x");
        repo.write("partly/kept", "x");
        repo.write("partly/left.out", "x");
        repo.write("only/left.out", "x");
        repo.write(".gitattributes", "ignored export-ignore\n*.out export-ignore\n*.txt text eol=crlf\n");
        repo.commit("first");
        repo
    }
}

#[test]
fn directories_and_files_are_what_nix_locks() {
    let fixture = Fixture::new();
    let directory = fixture.path("plain");
    fs::create_dir_all(directory.join("empty/inner")).expect("directory");
    fs::write(directory.join("flake.nix"), INNER).expect("flake");
    fs::write(directory.join("run"), "x").expect("file");
    fs::set_permissions(directory.join("run"), fs::Permissions::from_mode(0o755)).expect("mode");
    symlink("run", directory.join("link")).expect("link");
    let (at, run) = (directory.display(), directory.join("run"));
    fixture.check(&format!("a.url = \"path:{at}\";"), &[]);
    fixture.check(&format!("a = {{ url = \"path:{}\"; flake = false; }};", run.display()), &[]);
    // A link is itself.
    symlink(&directory, fixture.path("elsewhere")).expect("link");
    let link = fixture.path("elsewhere");
    fixture.check(&format!("a = {{ url = \"path:{}\"; flake = false; }};", link.display()), &[]);
}

#[test]
fn commits_of_repositories_here_are_what_nix_locks() {
    let fixture = Fixture::new();
    let mut repo = fixture.repository();
    let url = format!("git+file://{}", repo.path().display());
    fixture.check(&format!("a.url = \"{url}\";"), &[]);
    repo.write("later", "x");
    let later = repo.commit("later");
    repo.write("flake.nix", "never built");
    repo.commit("last");
    fixture.check(&format!("a.url = \"{url}?rev={later}&ref=main\";"), &[]);
    fixture.check(&format!("a = {{ url = \"{url}?rev={later}\"; flake = false; }};"), &[]);
    // A clean work tree is locked as it is checked out.
    fs::write(repo.path().join("text.txt"), "a\r\nb\r\n").expect("written");
    repo.add("text.txt");
    assert_eq!(repo.git(&["status", "--porcelain"]), "");
    fixture.check(&format!("a = {{ url = \"{url}\"; flake = false; }};"), &[]);
    // Bare ones, as servers have them.
    let bare = fixture.path("bare.git").display().to_string();
    repo.git(&["clone", "--quiet", "--bare", &repo.path().display().to_string(), &bare]);
    fixture.check(&format!("a = {{ url = \"git+file://{bare}?rev={later}\"; flake = false; }};"), &[]);
}

#[test]
fn what_is_kept_out_of_exports_is_left_out_as_nix_does() {
    let fixture = Fixture::new();
    let repo = fixture.repository();
    let url = format!("git+file://{}", repo.path().display());
    let rev = repo.git(&["rev-parse", "HEAD"]);
    let input = |query: &str| format!("a = {{ url = \"{url}?rev={rev}{query}\"; flake = false; }};");
    let whole = fixture.locked(&input(""), &[]);
    let exported = fixture.locked(&input("&exportIgnore=1"), &[]);
    assert_ne!(whole[0].nar_hash, exported[0].nar_hash);
    fixture.check(&input("&exportIgnore=1"), &[]);
}

#[test]
fn a_work_tree_that_was_locked_with_its_changes_is_what_nix_locks() {
    let fixture = Fixture::new();
    let repo = fixture.repository();
    repo.write("run", "changed");
    fs::remove_file(repo.path().join("a.b")).expect("removed");
    repo.write("untracked", "x");
    let input = format!("a.url = \"git+file://{}\";", repo.path().display());
    let options = ["--option", "allow-dirty-locks", "true"];
    fixture.check(&input, &options);
    let locked = fixture.locked(&input, &options);
    repo.write("run", "changed again");
    fs::remove_dir_all(fixture.path("known")).expect("forgotten");
    let error = fixture.take(&locked[0]).expect_err("refused");
    assert!(matches!(error, InputError::Changed { .. }), "{error}");
}

#[test]
fn submodules_are_left_out_or_named() {
    let fixture = Fixture::new();
    let mut module = GitRepo::init(fixture.path("module"));
    module.write("inside", "x");
    module.commit("module");
    let mut repo = fixture.repository();
    let url = module.path().display().to_string();
    repo.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &url, "sub"]);
    repo.commit("with a submodule");
    let input = |query: &str| format!("a.url = \"git+file://{}{query}\";", repo.path().display());
    fixture.check(&input(""), &[]);
    let rev = repo.git(&["rev-parse", "HEAD"]);
    fixture.check(&input(&format!("?rev={rev}")), &[]);
    let locked = fixture.locked(&input("?submodules=1"), &[]);
    let error = fixture.take(&locked[0]).expect_err("refused");
    assert!(matches!(error, InputError::Beyond { what: "submodules", .. }), "{error}");
    // What Nix has fetched is taken from its store, where it keeps the whole tree.
    let store = fixture.daemon.physical("/nix/store");
    let places = Places { store, ..fixture.places() };
    Carried::new(places).take(locked[0].clone(), |_| ()).expect("it is in the store");
}

#[test]
fn nothing_leaves_that_is_not_what_was_locked() {
    let fixture = Fixture::new();
    let directory = fixture.path("plain");
    fs::create_dir(&directory).expect("directory");
    fs::write(directory.join("flake.nix"), INNER).expect("flake");
    let locked = fixture.locked(&format!("a.url = \"path:{}\";", directory.display()), &[]);
    fs::write(directory.join("secret"), "x").expect("file");
    let error = fixture.take(&locked[0]).expect_err("refused");
    assert!(matches!(error, InputError::Changed { .. }), "{error}");
    // The store still has it. One that was damaged there is not taken for it.
    let places = Places { store: fixture.daemon.physical("/nix/store"), ..fixture.places() };
    Carried::new(places).take(locked[0].clone(), |_| ()).expect("taken from the store");
    let forged = fixture.path("forged");
    let stored = fs::read_dir(fixture.daemon.physical("/nix/store")).expect("a store");
    for entry in stored.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with("-source")) {
        let copy = forged.join(entry.file_name());
        fs::create_dir_all(&copy).expect("directory");
        fs::write(copy.join("flake.nix"), "forged").expect("file");
    }
    fs::remove_dir_all(fixture.path("known")).expect("forgotten");
    let places = Places { store: forged, ..fixture.places() };
    let error = Carried::new(places).take(locked[0].clone(), |_| ()).expect_err("refused");
    assert!(matches!(error, InputError::Changed { .. }), "{error}");
    assert_eq!(fs::read_dir(fixture.path("spool")).expect("spools").count(), 0, "nothing is left behind");
}

#[test]
fn what_was_packed_once_is_not_read_again_until_somebody_lacks_it() {
    let fixture = Fixture::new();
    let directory = fixture.path("plain");
    fs::create_dir(&directory).expect("directory");
    fs::write(directory.join("flake.nix"), INNER).expect("flake");
    let locked = fixture.locked(&format!("a.url = \"path:{}\";", directory.display()), &[]);
    let first = fixture.take(&locked[0]).expect("taken");
    fs::remove_dir_all(&directory).expect("removed");
    let mut packed = 0;
    let again = Carried::new(fixture.places()).take(locked[0].clone(), |_| packed += 1).expect("known");
    assert_eq!((again.to_wire(), packed), (first.to_wire(), 0));
    let error = again.tree.pack().expect_err("it is gone");
    assert!(matches!(error, InputError::Pack { .. }), "{error}");
}

#[test]
fn relative_inputs_are_in_the_tree_already() {
    let fixture = Fixture::new();
    let below = fixture.path("root/below");
    fs::create_dir_all(&below).expect("directory");
    fs::write(below.join("flake.nix"), INNER).expect("flake");
    assert_eq!(fixture.locked("a.url = \"path:./below\";", &[]), []);
    let lock = fs::read(fixture.path("root/flake.lock")).expect("a lock file");
    let found = Lock::parse(&lock).expect("parsed").find("a").expect("looked for").expect("found");
    assert_eq!(found.place, Place::Relative);
}
