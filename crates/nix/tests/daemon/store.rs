//! Questions, roots and garbage, asked of real daemons.

use std::collections::BTreeSet;

use fleet_nix::daemon::{
    CheckSignatures, Daemon, DaemonAddress, DaemonError, NEWEST, OLDEST, Settings, Substitute, Trust, ignore,
};
use fleet_nix::{DerivedPath, OutputName, PathInfo, SecretKey, StorePath};
use fleet_testkit::{BinaryCache, DaemonOptions, NixDaemon};

use crate::support::{address, basic_derivation, connect, file_nar, shell_derivation, source_info, store};

async fn import(client: &mut Daemon, name: &str, references: &BTreeSet<StorePath>) -> PathInfo {
    let nar = file_nar(name.as_bytes());
    let info = source_info(name, &nar, references);
    client
        .add_to_store_nar(&info, &mut &nar[..], CheckSignatures::Yes)
        .await
        .expect("it is content-addressed");
    info
}

fn unknown_path() -> StorePath {
    "00000000000000000000000000000000-nowhere".parse().expect("valid")
}

#[tokio::test]
async fn a_greeting_tells_version_protocol_and_trust() {
    for (trust, expected) in [
        (fleet_testkit::Trust::Trusted, Trust::Trusted),
        (fleet_testkit::Trust::Untrusted, Trust::NotTrusted),
    ] {
        let daemon = NixDaemon::start(&DaemonOptions { trust, ..DaemonOptions::default() });
        let client = connect(&daemon).await;
        assert_eq!(client.trust(), expected);
        assert!((OLDEST..=NEWEST).contains(&client.protocol()));
        assert!(daemon.nix_stdout(["--version"]).ends_with(client.nix_version()));
        assert!(!client.is_poisoned());
    }
}

#[tokio::test]
async fn a_missing_socket_is_named_with_advice() {
    let scratch = tempfile::tempdir().expect("a directory");
    let socket = scratch.path().join("none");
    let address = DaemonAddress { socket: socket.clone(), ..DaemonAddress::default() };
    let error = Daemon::connect(&address).await.expect_err("nobody is there");
    assert!(matches!(error, DaemonError::Connect { .. }));
    let text = error.to_string();
    assert!(text.contains(&*socket.to_string_lossy()) && text.contains("nix-daemon"), "{text}");
}

#[tokio::test]
async fn validity_and_path_infos_are_told_in_order() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let first = import(&mut client, "first", &BTreeSet::new()).await;
    let second = import(&mut client, "second", &BTreeSet::from([first.path.clone()])).await;
    let nowhere = unknown_path();
    assert!(client.is_valid_path(&first.path).await.expect("answered"));
    assert!(!client.is_valid_path(&nowhere).await.expect("answered"));
    let asked = BTreeSet::from([first.path.clone(), nowhere.clone(), second.path.clone()]);
    let valid = client.query_valid_paths(&asked, Substitute::No).await.expect("answered");
    assert_eq!(valid, BTreeSet::from([first.path.clone(), second.path.clone()]));
    let infos = client.query_path_infos([&second.path, &nowhere, &first.path]).await.expect("answered");
    let [Some(told_second), None, Some(told_first)] = infos.as_slice() else {
        panic!("three answers, not {infos:?}")
    };
    for (told, sent) in [(told_first, &first), (told_second, &second)] {
        assert!(told.registration_time > 0);
        assert_eq!(&PathInfo { registration_time: 0, ..told.clone() }, sent);
    }
}

#[tokio::test]
async fn a_closure_holds_every_path_once_and_fails_for_what_is_not_valid() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let mut leaves = BTreeSet::new();
    for number in 0..100 {
        leaves.insert(import(&mut client, &format!("leaf-{number}"), &BTreeSet::new()).await.path);
    }
    let middle = import(&mut client, "middle", &leaves).await.path;
    let mut below = leaves.clone();
    below.insert(middle);
    let top = import(&mut client, "top", &below).await.path;
    let closure = client.query_closure([top.clone()]).await.expect("all are valid");
    below.insert(top.clone());
    let paths: Vec<StorePath> = closure.into_iter().map(|info| info.path).collect();
    assert_eq!(paths, below.into_iter().collect::<Vec<_>>());
    let error = client.query_closure([top, unknown_path()]).await.expect_err("one is not valid");
    assert!(matches!(error, DaemonError::NotValid(path) if path == unknown_path()));
    assert!(!client.is_poisoned());
}

#[tokio::test]
async fn what_is_missing_is_told_before_and_after_a_build() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let inner = shell_derivation("inner", "", "echo inner > $out");
    let outer = shell_derivation("outer", &format!("input = {inner};"), "echo $input > $out");
    let (drv, basic) = basic_derivation(&daemon, &outer);
    let (inner_drv, _) = basic_derivation(&daemon, &inner);
    let wanted = [DerivedPath::all_outputs(drv.clone())];
    let missing = client.query_missing(&wanted).await.expect("answered");
    assert_eq!(missing.will_build, BTreeSet::from([drv.clone(), inner_drv]));
    let results = client.build_paths_with_results(&wanted, &mut ignore).await.expect("built");
    assert!(results[0].1.status.is_success());
    assert_eq!(client.query_missing(&wanted).await.expect("answered"), fleet_nix::daemon::Missing::default());
    let lost = [DerivedPath::Opaque(unknown_path())];
    let missing = client.query_missing(&lost).await.expect("answered");
    assert_eq!(missing.unknown, BTreeSet::from([unknown_path()]));
    let outputs = client.query_derivation_output_map(&drv).await.expect("answered");
    let out = OutputName::out();
    assert_eq!(outputs[&out].as_ref(), basic.output_path(&out));
}

#[tokio::test]
async fn substituters_serve_what_they_have_and_failures_leave_the_connection_usable() {
    let origin = NixDaemon::start_default();
    let served = origin.build_expression(&shell_derivation("served", "", "echo served > $out"));
    let more = origin.build_expression(&shell_derivation("more", "", "echo more > $out"));
    let cache = BinaryCache::start();
    cache.publish(&origin, &[&served[0], &more[0]]);
    let daemon =
        NixDaemon::start(&DaemonOptions { substituters: vec![cache.url()], ..DaemonOptions::default() });
    let mut client = connect(&daemon).await;
    client.set_options(&Settings::for_substituting(client.trust())).await.expect("trusted");
    let [served, more] = [&served[0], &more[0]].map(|path| store().parse(path).expect("a store path"));
    let missing = client.query_missing(&[DerivedPath::Opaque(served.clone())]).await.expect("answered");
    assert_eq!(missing.will_substitute, BTreeSet::from([served.clone()]));
    assert!(missing.nar_size > 0);
    let error = client.ensure_path(&unknown_path(), &mut ignore).await.expect_err("nobody has it");
    let remote = error.remote().expect("the daemon says so");
    assert!(remote.message.contains("nowhere") && !remote.message.contains('\u{1b}'), "{remote}");
    client.ensure_path(&served, &mut ignore).await.expect("the cache has it");
    assert!(client.is_valid_path(&served).await.expect("answered"));
    let asked = BTreeSet::from([served.clone(), more.clone(), unknown_path()]);
    let substitutable = client.query_substitutable_paths(&asked).await.expect("answered");
    assert_eq!(substitutable, BTreeSet::from([served, more.clone()]), "valid or not");
    let asked = BTreeSet::from([more.clone(), unknown_path()]);
    let valid = client.query_valid_paths(&asked, Substitute::Yes).await.expect("answered");
    assert_eq!(valid, BTreeSet::from([more]));
}

#[tokio::test]
async fn a_substituter_that_fails_serves_nothing_and_ends_nothing() {
    let origin = NixDaemon::start_default();
    let expression = shell_derivation("served", "", "echo served > $out");
    let served = origin.build_expression(&expression);
    let cache = BinaryCache::start();
    cache.publish(&origin, &served);
    let broken = BinaryCache::start();
    broken.fail();
    let daemon = NixDaemon::start(&DaemonOptions {
        substituters: vec![broken.url(), "http://127.0.0.1:1".to_owned(), cache.url()],
        ..DaemonOptions::default()
    });
    let drv = store().parse(&daemon.instantiate(&expression)).expect("a store path");
    let mut client = connect(&daemon).await;
    client.set_options(&Settings::for_substituting(client.trust())).await.expect("trusted");
    let goal = [DerivedPath::Built { drv: drv.clone(), outputs: fleet_nix::OutputSet::All }];
    let missing = client.query_missing(&goal).await.expect("answered");
    assert_eq!(missing.will_substitute.len(), 1, "{missing:?}");
    cache.fail();
    let mut client = connect(&daemon).await;
    client.set_options(&Settings::for_substituting(client.trust())).await.expect("trusted");
    let other = shell_derivation("other", "", "echo other > $out");
    let other = store().parse(&daemon.instantiate(&other)).expect("a store path");
    let goal = [DerivedPath::Built { drv: other.clone(), outputs: fleet_nix::OutputSet::All }];
    let missing = client.query_missing(&goal).await.expect("answered, though all of them fail");
    assert_eq!(missing.will_build, BTreeSet::from([other]), "{missing:?}");
}

#[tokio::test]
async fn temporary_roots_hold_while_their_connection_lives() {
    let daemon = NixDaemon::start_default();
    let mut holder = connect(&daemon).await;
    let mut collector = connect(&daemon).await;
    let mut paths = Vec::new();
    for number in 0..70 {
        paths.push(import(&mut collector, &format!("kept-{number}"), &BTreeSet::new()).await.path);
    }
    holder.add_temp_roots(&paths).await.expect("rooted");
    holder.add_temp_root(&unknown_path()).await.expect("nobody checks");
    let garbage = import(&mut holder, "garbage", &BTreeSet::new()).await.path;
    // Importing a path makes its connection hold it: a third one collects.
    drop(collector);
    let mut collector = connect(&daemon).await;
    collect_garbage(&daemon);
    let all: BTreeSet<StorePath> = paths.into_iter().collect();
    assert_eq!(collector.query_valid_paths(&all, Substitute::No).await.expect("answered"), all);
    assert!(holder.is_valid_path(&garbage).await.expect("answered"));
}

#[tokio::test]
async fn indirect_roots_hold_beyond_the_connection_and_the_rest_is_collected() {
    let daemon = NixDaemon::start_default();
    let importer =
        daemon.command("nix-store", ["--add"]).arg(write(&daemon, "kept")).output().expect("added");
    let kept = store().parse(String::from_utf8_lossy(&importer.stdout).trim()).expect("a store path");
    let importer =
        daemon.command("nix-store", ["--add"]).arg(write(&daemon, "lost")).output().expect("added");
    let lost = store().parse(String::from_utf8_lossy(&importer.stdout).trim()).expect("a store path");
    let link = daemon.scratch().join("root");
    std::os::unix::fs::symlink(store().print(&kept), &link).expect("linked");
    let mut client = connect(&daemon).await;
    client.add_indirect_root(&link).await.expect("registered");
    let error = client.add_indirect_root("relative".as_ref()).await.expect_err("relative");
    assert!(matches!(error, DaemonError::Request(_)));
    collect_garbage(&daemon);
    assert!(!client.is_valid_path(&lost).await.expect("answered"));
    assert!(client.is_valid_path(&kept).await.expect("answered"));
}

#[tokio::test]
async fn a_collection_takes_what_nothing_holds_and_says_how_much_it_was() {
    let daemon = NixDaemon::start_default();
    let mut importer = connect(&daemon).await;
    let mut holder = connect(&daemon).await;
    let kept = import(&mut importer, "kept", &BTreeSet::new()).await.path;
    let lost = import(&mut importer, "lost", &BTreeSet::new()).await.path;
    holder.add_temp_root(&kept).await.expect("rooted");
    drop(importer);
    // The importer's process lets go when it notices its end.
    let collected = loop {
        let collected = holder.collect_garbage(u64::MAX).await.expect("collected");
        if collected.deleted > 0 {
            break collected;
        }
    };
    assert!(collected.freed > 0, "{collected:?}");
    assert!(!holder.is_valid_path(&lost).await.expect("answered"));
    assert!(holder.is_valid_path(&kept).await.expect("answered"));
    assert_eq!(holder.collect_garbage(u64::MAX).await.expect("collected").deleted, 0);
}

fn collect_garbage(daemon: &NixDaemon) {
    let collected = daemon.command("nix-store", ["--gc", "--quiet"]).output().expect("nix-store runs");
    assert!(collected.status.success(), "{collected:?}");
}

fn write(daemon: &NixDaemon, name: &str) -> std::path::PathBuf {
    let path = daemon.scratch().join(name);
    std::fs::write(&path, name).expect("written");
    path
}

#[tokio::test]
async fn signatures_are_kept() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let nar = file_nar(b"signed");
    let mut info = source_info("signed", &nar, &BTreeSet::new());
    let key = SecretKey::from_seed("test", &[7; 32]).expect("a name");
    info.sign(&store(), &key);
    client.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::Yes).await.expect("imported");
    let told = client.query_path_info(&info.path).await.expect("answered").expect("valid");
    assert!(told.is_signed_by(&store(), &[key.public_key()]));
}

#[tokio::test]
async fn an_untrusted_client_is_refused_in_words() {
    let options = DaemonOptions { trust: fleet_testkit::Trust::Untrusted, ..DaemonOptions::default() };
    let daemon = NixDaemon::start(&DaemonOptions { require_signatures: true, ..options });
    let mut client = connect(&daemon).await;
    // Restricted settings are ignored with a warning, not an error.
    client.set_options(Settings::default().set("build-hook", "")).await.expect("ignored");
    let nar = file_nar(b"unsigned");
    let mut info = source_info("unsigned", &nar, &BTreeSet::new());
    info.content_address = None;
    let error =
        client.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::No).await.expect_err("unsigned");
    assert!(error.to_string().contains("signature"), "{error}");
    import(&mut client, "addressed", &BTreeSet::new()).await;
}

#[test]
fn addresses_say_where_files_are() {
    let daemon = NixDaemon::start_default();
    let address = address(&daemon);
    assert_eq!(address.socket, daemon.socket());
    let path = unknown_path();
    assert_eq!(address.physical(&store(), &path), daemon.physical(&store().print(&path)));
    assert_eq!(DaemonAddress::from_store_uri(&address.store_uri()), Ok(address));
}
