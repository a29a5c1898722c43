//! The keys that sign: given, exchanged, refused.

use std::os::unix::fs::PermissionsExt as _;

use fleet_nix::{NarInfo, SecretKey, StoreDir};

use crate::client::get;
use crate::filled::{Built, hash_part, publish};
use crate::running::{Running, program, run};

const PUBLIC_WITH: &str = "[cache]\npublic = true\nkeys = ";

fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::from_seed(name, &[seed; 32]).expect("a name")
}

fn write(directory: &std::path::Path, file: &str, key: &SecretKey, mode: u32) {
    let path = directory.join(file);
    std::fs::write(&path, key.to_secret_string()).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("our file");
}

/// The names of the keys that signed.
async fn signers(running: &Running, path: &str) -> Vec<String> {
    let answer = get(running, &format!("/{}.narinfo", hash_part(path)), "").await;
    let narinfo = NarInfo::parse(&StoreDir::default(), &answer.content).expect("a narinfo");
    narinfo.path_info.signatures.iter().map(|signature| signature.key_name().to_owned()).collect()
}

#[tokio::test]
async fn keys_come_from_the_service_manager_and_are_exchanged_by_a_signal() {
    let built = Built::new();
    let directory = tempfile::tempdir().expect("a directory");
    let credentials = directory.path().join("credentials");
    std::fs::create_dir(&credentials).expect("a directory");
    write(&credentials, "old", &key("cache-1", 1), 0o400);
    write(&credentials, "new", &key("cache-2", 2), 0o440);
    publish(&directory.path().join("state/objects"), &built).await;
    let change = |command: &mut std::process::Command| {
        command.env("CREDENTIALS_DIRECTORY", &credentials);
    };
    let running = Running::start_in(directory, &format!("{PUBLIC_WITH}[\"old\"]\n"), change);
    assert_eq!(signers(&running, &built.program).await, ["cache-1"]);
    running.configure(&format!("{PUBLIC_WITH}[\"old\", \"new\"]\n"));
    running.signal("HUP");
    running.wait_for(&key("cache-2", 2).public_key().to_string());
    running.wait_for("settings read again");
    assert_eq!(signers(&running, &built.program).await, ["cache-1", "cache-2"]);
    // One that anybody can read changes nothing.
    std::fs::set_permissions(credentials_of(&running).join("new"), std::fs::Permissions::from_mode(0o444))
        .expect("ours");
    running.configure(&format!("{PUBLIC_WITH}[\"new\"]\n"));
    running.signal("HUP");
    let line = running.wait_for("the new settings are refused");
    assert!(line.contains("others can read"), "{line}");
    assert_eq!(signers(&running, &built.program).await, ["cache-1", "cache-2"]);
    assert!(!running.state().join("cache-key").exists(), "none was made beside those that were given");
}

fn credentials_of(running: &Running) -> std::path::PathBuf {
    running.directory.path().join("credentials")
}

#[test]
fn keys_that_cannot_sign_are_refused_with_their_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let here = directory.path();
    write(here, "open", &key("k-1", 1), 0o644);
    write(here, "one", &key("k-1", 1), 0o600);
    write(here, "same", &key("k-1", 2), 0o600);
    write(here, "other", &key("k-2", 2), 0o600);
    std::fs::write(here.join("none"), "k-1:bm90aGluZw==").expect("a file");
    std::fs::set_permissions(here.join("none"), std::fs::Permissions::from_mode(0o600)).expect("ours");
    let path = |name: &str| format!("{:?}", here.join(name));
    let cases = [
        (format!("keys = [{}]", path("open")), "others can read or change this private key"),
        (format!("keys = [{}, {}]", path("one"), path("same")), "two keys have the name k-1"),
        (format!("keys = [{0}, {0}, {0}]", path("one")), "at most 2 keys"),
        (format!("keys = [{}]", path("none")), "holds no secret key"),
        (format!("keys = [{}]", path("absent")), "there is no such file"),
        ("keys = [\"one\"]".to_owned(), "there is no CREDENTIALS_DIRECTORY"),
        ("keys = [\"../one\"]".to_owned(), "expected an absolute path, or the name of a credential"),
        ("upstream_keys = [\"cache.example\"]".to_owned(), "expected NAME:BASE64"),
        ("priority = 0".to_owned(), "must be more than zero"),
    ];
    let file = here.join("coordinator.toml");
    for (line, why) in cases {
        std::fs::write(&file, format!("[cache]\npublic = true\n{line}\n")).expect("a file");
        let (code, _, said) = run(program(here).arg("check-config").arg(&file));
        assert_eq!(code, Some(2), "{why}: {said}");
        assert!(said.contains("coordinator.toml:3: cache.") && said.contains(why), "not {why}, but {said}");
    }
    std::fs::write(&file, format!("[cache]\nkeys = [{}, {}]\n", path("one"), path("other"))).expect("a file");
    assert_eq!(run(program(here).arg("check-config").arg(&file)).0, Some(0));
}
