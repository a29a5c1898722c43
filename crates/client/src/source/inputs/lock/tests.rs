//! What lock files say, and what is refused.

use super::*;

const EMPTY: &str = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

fn lock(nodes: &str) -> Result<Lock, LockError> {
    Lock::parse(format!(r#"{{ "version": 7, "root": "root", "nodes": {{ {nodes} }} }}"#).as_bytes())
}

fn only(locked: &str) -> Result<LockedInput, LockError> {
    let lock = lock(&format!(r#""root": {{ "inputs": {{ "a": "x" }} }}, "x": {{ "locked": {locked} }}"#))?;
    Ok(lock.inputs()?.remove(0))
}

#[test]
fn inputs_are_named_by_their_shortest_way_and_once() {
    let lock = lock(
        r#""root": { "inputs": { "a": "a1", "b": "b1", "c": ["b", "deep"] } },
           "a1": { "locked": { "type": "path", "path": "/a" }, "inputs": { "deep": "deep1", "again": "b1" } },
           "b1": { "locked": { "type": "path", "path": "/b" }, "inputs": { "deep": "deep1" } },
           "deep1": { "locked": { "type": "path", "path": "/deep" } },
           "unused": { "locked": { "type": "path", "path": "/unused" } }"#,
    )
    .expect("a lock file");
    let names: Vec<String> = lock.inputs().expect("inputs").into_iter().map(|input| input.name).collect();
    assert_eq!(names, ["a", "b", "a/deep"]);
    assert_eq!(lock.names(), ["a", "b", "c"]);
    let deep = Place::Directory("/deep".into());
    for name in ["a/deep", "b/deep", "c", "a/again/deep"] {
        assert_eq!(lock.find(name).expect("found").expect(name).place, deep, "{name}");
    }
    for name in ["d", "c/x", "", "a/"] {
        assert_eq!(lock.find(name).expect("looked for"), None, "{name:?}");
    }
}

#[test]
fn the_flake_itself_is_no_input_and_circles_end() {
    let lock = lock(
        r#""root": { "inputs": { "a": "a1", "me": [], "round": ["a", "round"] } },
           "a1": { "locked": { "type": "path", "path": "/a" }, "inputs": { "self": "a1", "round": ["round"] } }"#,
    )
    .expect("a lock file");
    assert_eq!(lock.find("me").expect("looked for"), None);
    assert!(matches!(lock.find("round"), Err(LockError::Broken(_))));
    assert_eq!(lock.inputs().expect("inputs").len(), 1);
}

#[test]
fn places_are_told_apart() {
    let place = |locked: &str| only(locked).expect(locked).place;
    assert_eq!(place(r#"{ "type": "path", "path": "/a b" }"#), Place::Directory("/a b".into()));
    assert_eq!(place(r#"{ "type": "path", "path": "./sub" }"#), Place::Relative);
    let url = |url: &str| match place(&format!(r#"{{ "type": "git", "url": "{url}" }}"#)) {
        Place::Git(git) => git.url,
        place => panic!("{place:?}"),
    };
    for file in ["file:///a%20b", "git+file:///a%20b?dir=x", "file:/a b", "/a b"] {
        assert_eq!(url(file), GitUrl::File("/a b".into()), "{file}");
    }
    for ssh in ["ssh://git@h/r", "git@h:o/r.git"] {
        assert_eq!(url(ssh), GitUrl::Ssh(ssh.to_owned()));
    }
    assert_eq!(url("git+ssh://h/r?dir=x&a=b"), GitUrl::Ssh("ssh://h/r?a=b".to_owned()));
    for remote in ["https://h/r", "file://h/r", "file:r", "git://h/r"] {
        assert_eq!(url(remote), GitUrl::Remote(remote.to_owned()));
    }
    let whole = r#"{ "type": "git", "url": "https://h/r", "submodules": true, "lfs": true, "exportIgnore": true, "ref": "main" }"#;
    let Place::Git(git) = place(whole) else { panic!("no repository") };
    assert!(git.submodules && git.lfs && git.export_ignore && git.reference.as_deref() == Some("main"));
}

#[test]
fn hashes_are_read_with_and_without_padding() {
    let hash = |text: &str| only(&format!(r#"{{ "type": "path", "path": "/a", "narHash": "{text}" }}"#));
    let empty = hash(EMPTY).expect("a hash").nar_hash;
    assert_eq!(empty.expect("a hash").to_sri(), EMPTY);
    assert_eq!(hash(EMPTY.trim_end_matches('=')).expect("a hash").nar_hash, empty);
    assert_eq!(hash("").expect("none").nar_hash, None);
    for bad in ["sha256-x", "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "md5"] {
        assert!(matches!(hash(bad), Err(LockError::Broken(_))), "{bad}");
    }
}

#[test]
fn what_no_nix_wrote_is_refused() {
    for content in ["", "[]", "{}", r#"{ "version": 7 }"#, r#"{ "version": "7", "root": "r", "nodes": {} }"#]
    {
        assert!(matches!(Lock::parse(content.as_bytes()), Err(LockError::Malformed(_))), "{content}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(Lock::parse(deep.as_bytes()), Err(LockError::Malformed(_))));
    for version in [5, 8] {
        let content = format!(r#"{{ "version": {version}, "root": "r", "nodes": {{}} }}"#);
        assert!(matches!(Lock::parse(content.as_bytes()), Err(LockError::Version(v)) if v == version));
    }
    assert!(matches!(lock(""), Err(LockError::Broken(_))));
    assert!(matches!(lock(r#""root": { "inputs": { "a": "gone" } }"#), Err(LockError::Broken(_))));
    assert!(lock(r#""root": { "inputs": { "a": 7 } }"#).is_err());
    for locked in [
        "{}",
        r#"{ "type": "path" }"#,
        r#"{ "type": "git" }"#,
        r#"{ "type": "git", "url": "/r", "rev": "--x" }"#,
    ] {
        assert!(matches!(only(locked), Err(LockError::Broken(_))), "{locked}");
    }
    let unlocked =
        lock(r#""root": { "inputs": { "a": "x" } }, "x": { "original": {} }"#).expect("a lock file");
    assert!(matches!(unlocked.inputs(), Err(LockError::Broken(_))));
    let many: Vec<String> = (0..=MAX_NODES).map(|n| format!(r#""{n}": {{}}"#)).collect();
    assert!(matches!(lock(&many.join(",")), Err(LockError::TooMany)));
}
