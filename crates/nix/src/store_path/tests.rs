use super::*;
use proptest::prelude::*;

const HASH: &str = "00000000000000000000000000000000";

fn named(name: &str) -> Result<StorePath, StorePathError> {
    format!("{HASH}-{name}").parse()
}

#[test]
fn parts_are_told_apart() {
    let path = named("hello-2.12.drv").expect("valid");
    assert_eq!(path.hash_part(), HASH);
    assert_eq!(path.name(), "hello-2.12.drv");
    assert_eq!(path.derivation_name(), Some("hello-2.12"));
    assert!(path.is_derivation());
    assert!(!named("hello").expect("valid").is_derivation());
}

#[test]
fn names_follow_the_rules_of_nix() {
    for name in [".", "..", ".-a", "..-a"] {
        assert_eq!(named(name), Err(StorePathError::DotName(name.into())), "{name}");
    }
    for name in ["...", ".a", "..a", "...-a", "-", "a-.", "a+-._?=Z9"] {
        assert!(named(name).is_ok(), "{name}");
    }
    for (name, character) in [("a b", ' '), ("a/b", '/'), ("é", 'é'), ("a\0", '\0'), ("a~", '~')] {
        let expected = StorePathError::IllegalCharacter { name: name.into(), character };
        assert_eq!(named(name), Err(expected));
    }
    assert!(named(&"a".repeat(211)).is_ok());
    assert_eq!(named(&"a".repeat(212)), Err(StorePathError::NameTooLong(212)));
    assert!(matches!(named(""), Err(StorePathError::TooShort(_))));
}

#[test]
fn hash_parts_are_of_our_base_32() {
    for bad in ["e", "o", "u", "t", "A", "é"] {
        let text = format!("{}{bad}-name", &HASH[bad.len()..]);
        assert!(matches!(text.parse::<StorePath>(), Err(StorePathError::BadHashPart(_))), "{text}");
    }
    assert!(matches!(format!("{HASH}_name").parse::<StorePath>(), Err(StorePathError::BadHashPart(_))));
}

#[test]
fn the_store_dir_bounds_what_is_read() {
    let store = StoreDir::default();
    let path = named("a").expect("valid");
    assert_eq!(store.parse(&store.print(&path)), Ok(path.clone()));
    assert_eq!(store.parse_within(&format!("/nix/store/{path}/bin/a")), Ok((path.clone(), "/bin/a")));
    for outside in [
        format!("/nix/store{path}"),
        format!("/nix/stores/{path}"),
        format!("nix/store/{path}"),
        path.to_string(),
        String::new(),
    ] {
        assert!(matches!(store.parse(&outside), Err(StorePathError::NotInStore { .. })), "{outside}");
    }
    assert!(store.parse(&format!("/nix/store/{path}/bin")).is_err());
    assert!(store.parse(&format!("/nix/store//{path}")).is_err());
    let other = StoreDir::new("/home/me/store").expect("absolute");
    assert_eq!(other.print(&path), format!("/home/me/store/{path}"));
    for bad in ["", "/", "store", "/nix/store/", "/nix//store", "/nix/../store", "/nix/./store"] {
        assert!(StoreDir::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn output_paths_are_named_after_their_output() {
    let dev: OutputName = "dev".parse().expect("valid");
    assert_eq!(dev.path_name("hello-1"), "hello-1-dev");
    assert_eq!(OutputName::out().path_name("hello-1"), "hello-1");
    for bad in ["", "..", "a/b", "a b"] {
        assert!(bad.parse::<OutputName>().is_err(), "{bad}");
    }
}

#[test]
fn json_holds_the_base_name() {
    let path = named("a").expect("valid");
    let json = serde_json::to_string(&path).expect("serialises");
    assert_eq!(json, format!("\"{HASH}-a\""));
    assert_eq!(serde_json::from_str::<StorePath>(&json).expect("reads back"), path);
    assert!(serde_json::from_str::<StorePath>("\"a\"").is_err());
}

proptest! {
    #[test]
    fn valid_paths_print_as_they_were_read(hash in "[0-9a-df-np-svwxyz]{32}", name in "[a-z0-9+_?=-][a-zA-Z0-9+._?=-]{0,60}") {
        let text = format!("{hash}-{name}");
        let path: StorePath = text.parse().expect("valid by construction");
        prop_assert_eq!(path.to_string(), text);
    }

    #[test]
    fn arbitrary_text_never_panics(text: String, dir: String) {
        let _ = text.parse::<StorePath>();
        let _ = text.parse::<OutputName>();
        let _ = StoreDir::default().parse_within(&format!("/nix/store/{text}"));
        if let Ok(dir) = StoreDir::new(&dir) {
            let _ = dir.parse(&text);
        }
    }
}
