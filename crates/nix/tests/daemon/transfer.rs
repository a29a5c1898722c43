//! Archives into and out of real daemons.

use std::collections::BTreeSet;
use std::io;

use fleet_nix::daemon::{CheckSignatures, DaemonError, Settings, ignore};
use fleet_nix::signature::SecretKey;
use fleet_nix::{NarHash, PathInfo, StorePath};
use fleet_testkit::{DaemonOptions, NixDaemon, Trust};
use futures::stream;

use crate::support::{connect, file_nar, source_info, store};

/// Bytes without a pattern that a buffer could hide.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}

#[tokio::test]
async fn a_large_archive_goes_in_and_comes_out_unchanged() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let nar = file_nar(&noise(48 << 20));
    let info = source_info("large", &nar, &BTreeSet::new());
    client.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::Yes).await.expect("added");
    let mut back = Vec::new();
    let size = client.nar_from_path(&info.path, &mut back).await.expect("read");
    assert_eq!(size, nar.len() as u64);
    assert_eq!(NarHash::of(&back), info.nar_hash);
    // Both ends are still in step.
    assert!(client.is_valid_path(&info.path).await.expect("answered"));
}

#[tokio::test]
async fn many_paths_go_in_at_once_while_the_daemon_talks() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    // At this level the daemon says something about everything it does.
    client.set_options(&Settings { verbosity: 7, ..Settings::default() }).await.expect("set");
    let mut entries: Vec<(PathInfo, Vec<u8>)> = Vec::new();
    for number in 0..300 {
        let nar = file_nar(format!("number {number}").as_bytes());
        let references = entries.last().map(|(info, _)| info.path.clone()).into_iter().collect();
        entries.push((source_info(&format!("path-{number}"), &nar, &references), nar));
    }
    let nar = file_nar(&noise(8 << 20));
    entries.push((source_info("large", &nar, &BTreeSet::new()), nar));
    let mut messages = 0_u32;
    let mut count = |_| {
        messages += 1;
        std::ops::ControlFlow::Continue(())
    };
    let bodies = stream::iter(entries.iter().map(|(info, nar)| Ok((info.clone(), &nar[..]))));
    let sent = client.add_multiple_to_store(entries.len() as u64, bodies, CheckSignatures::Yes, &mut count);
    sent.await.expect("added");
    assert!(messages > 300, "the daemon talked meanwhile");
    let infos = client.query_path_infos(entries.iter().map(|(info, _)| &info.path)).await.expect("answered");
    assert!(infos.iter().all(Option::is_some));
}

#[tokio::test]
async fn a_false_hash_is_refused_and_the_connection_stays() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let nar = file_nar(&noise(1 << 20));
    let other = file_nar(&noise((1 << 20) + 1)[1..]);
    assert_eq!(nar.len(), other.len());
    let info = source_info("claimed", &nar, &BTreeSet::new());
    let error =
        client.add_to_store_nar(&info, &mut &other[..], CheckSignatures::No).await.expect_err("other bytes");
    assert!(error.remote().is_some_and(|error| error.message.contains("hash mismatch")), "{error}");
    client.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::No).await.expect("the right bytes");
}

#[tokio::test]
async fn bodies_of_another_length_are_refused_here() {
    let daemon = NixDaemon::start_default();
    let nar = file_nar(b"some bytes");
    let info = source_info("short", &nar, &BTreeSet::new());
    for body in [&nar[..nar.len() - 1], &[&nar[..], b"more"].concat()] {
        let mut client = connect(&daemon).await;
        let error =
            client.add_to_store_nar(&info, &mut &body[..], CheckSignatures::No).await.expect_err("length");
        assert!(
            matches!(&error, DaemonError::Source(error) if error.kind() == io::ErrorKind::InvalidData),
            "{error}"
        );
        assert!(client.is_poisoned());
    }
    let mut client = connect(&daemon).await;
    let one = stream::iter([Ok((info.clone(), &nar[..]))]);
    let sent = client.add_multiple_to_store(2, one, CheckSignatures::No, &mut ignore).await;
    assert!(matches!(sent.expect_err("one of two"), DaemonError::Source(_)));
    let mut client = connect(&daemon).await;
    let valid = client.is_valid_path(&info.path).await.expect("answered");
    assert!(!valid, "nothing was added");
}

#[tokio::test]
async fn reading_a_path_that_is_not_valid_says_so() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let path: StorePath = "00000000000000000000000000000000-nowhere".parse().expect("valid");
    let mut sink = Vec::new();
    let error = client.nar_from_path(&path, &mut sink).await.expect_err("not there");
    assert!(matches!(error, DaemonError::NotValid(named) if named == path));
    assert!(sink.is_empty() && !client.is_poisoned());
}

#[tokio::test]
async fn reading_a_path_whose_files_are_gone_is_an_error() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let nar = file_nar(b"soon gone");
    let info = source_info("gone", &nar, &BTreeSet::new());
    client.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::Yes).await.expect("added");
    std::fs::remove_file(daemon.physical(&store().print(&info.path)))
        .expect("removed behind the daemon's back");
    let read = client.nar_from_path(&info.path, &mut tokio::io::sink()).await;
    // In what words depends on the daemon; most just hang up.
    assert!(read.is_err(), "{read:?}");
    assert!(client.is_poisoned());
}

#[tokio::test]
async fn a_sink_that_fails_ends_the_export() {
    let daemon = NixDaemon::start_default();
    let mut client = connect(&daemon).await;
    let nar = file_nar(&noise(4 << 20));
    let info = source_info("unread", &nar, &BTreeSet::new());
    client.add_to_store_nar(&info, &mut &nar[..], CheckSignatures::Yes).await.expect("added");
    let (mut sink, reader) = tokio::io::duplex(64);
    drop(reader);
    let error = client.nar_from_path(&info.path, &mut sink).await.expect_err("nobody reads");
    assert!(matches!(error, DaemonError::Sink(_)), "{error}");
    assert!(client.is_poisoned());
}

/// A key of the session, in place of one in nix.conf: of a daemon that trusts us it counts, and nothing else does.
#[tokio::test]
async fn a_key_of_the_session_counts_where_the_daemon_trusts_us() {
    let (ours, other) = (SecretKey::from_seed("ours-1", &[1; 32]), SecretKey::from_seed("other-1", &[2; 32]));
    let (ours, other) = (ours.expect("a name"), other.expect("a name"));
    for trust in [Trust::Trusted, Trust::Untrusted] {
        let options = DaemonOptions {
            trust,
            require_signatures: true,
            trusted_public_keys: vec![other.public_key().to_string()],
            ..DaemonOptions::default()
        };
        let daemon = NixDaemon::start(&options);
        let import = async |name: &str, key: Option<&SecretKey>| {
            let mut client = connect(&daemon).await;
            let mut settings = Settings::default();
            settings.set("extra-trusted-public-keys", &ours.public_key().to_string());
            client.set_options(&settings).await.expect("set");
            let nar = file_nar(name.as_bytes());
            // As if it had been built: its content does not name it.
            let mut info = PathInfo { content_address: None, ..source_info(name, &nar, &BTreeSet::new()) };
            if let Some(key) = key {
                info.sign(&store(), key);
            }
            let one = stream::iter([Ok((info.clone(), &nar[..]))]);
            client.add_multiple_to_store(1, one, CheckSignatures::Yes, &mut ignore).await
        };
        assert_eq!(import("ours", Some(&ours)).await.is_ok(), trust == Trust::Trusted, "{trust:?}");
        import("others", Some(&other)).await.expect("the keys of nix.conf stay");
        let unsigned = import("unsigned", None).await.expect_err("no signature").to_string();
        assert!(unsigned.contains("lacks a signature by a trusted key"), "{unsigned}");
    }
}
