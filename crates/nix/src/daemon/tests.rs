//! Both halves of the protocol against each other, and arbitrary bytes against the reading half.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::codec::{self, Encoder};
use super::handshake::{Greeting, greet_client, greet_server};
use super::stderr::{Field, Frame, read_frame};
use super::*;
use crate::{
    ContentAddress, ContentAddressMethod, Hash, HashAlgorithm, NarHash, OutputName, PathInfo, StoreDir,
    StorePath,
};

/// Reading from memory never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("memory made us wait"),
    }
}

/// What `read` makes of what was put, all of which it must take.
fn back<T>(encoder: &Encoder, read: impl AsyncFnOnce(&mut &[u8]) -> Result<T, ReadError>) -> T {
    let mut rest = encoder.as_bytes();
    let value = now(read(&mut rest)).expect("what we write, we read");
    assert!(rest.is_empty(), "{} bytes are left", rest.len());
    value
}

fn path(number: u8) -> StorePath {
    StorePath::from_hash(&[number; 20], "name").expect("valid")
}

fn fields() -> impl Strategy<Value = Vec<Field>> {
    let field =
        prop_oneof![any::<u64>().prop_map(Field::Number), vec(any::<u8>(), 0..20).prop_map(Field::Text)];
    vec(field, 0..5)
}

fn frames() -> impl Strategy<Value = Frame> {
    let text = || vec(any::<u8>(), 0..40);
    let error = ("[a-z ]{0,20}", vec("[a-z ]{0,20}", 0..4), 0..8_u64);
    prop_oneof![
        text().prop_map(Frame::Next),
        any::<u64>().prop_map(Frame::Read),
        text().prop_map(Frame::Write),
        Just(Frame::Last),
        any::<u64>().prop_map(Frame::StopActivity),
        error.prop_map(|(message, traces, level)| Frame::Error(RemoteError { level, message, traces })),
        (any::<u64>(), any::<u64>(), fields()).prop_map(|(activity, kind, fields)| Frame::Result {
            activity,
            kind,
            fields
        }),
        (any::<[u64; 4]>(), text(), fields()).prop_map(|([id, level, kind, parent], text, fields)| {
            Frame::StartActivity { id, level, kind, text, fields, parent }
        }),
    ]
}

fn path_infos() -> impl Strategy<Value = PathInfo> {
    let numbers = (any::<u64>(), any::<u64>(), any::<bool>());
    let optional = (any::<bool>(), any::<bool>());
    (any::<[u8; 32]>(), btree_set(any::<u8>(), 0..5), numbers, optional).prop_map(
        |(digest, references, (registration_time, nar_size, ultimate), (has_deriver, has_address))| {
            PathInfo {
                path: path(0),
                deriver: has_deriver.then(|| path(1)),
                nar_hash: NarHash(digest),
                references: references.into_iter().map(path).collect(),
                registration_time,
                nar_size,
                ultimate,
                signatures: Vec::new(),
                content_address: has_address.then(|| ContentAddress {
                    method: ContentAddressMethod::NixArchive,
                    hash: Hash::of(HashAlgorithm::Sha256, &digest),
                }),
            }
        },
    )
}

fn build_results() -> impl Strategy<Value = BuildResult> {
    let numbers = any::<[u64; 4]>();
    let times = any::<[Option<u64>; 2]>();
    (numbers, "[a-z ]{0,20}", any::<bool>(), times, btree_set("[a-z]{1,8}", 0..4)).prop_map(
        |(
            [status, times_built, start_time, stop_time],
            error_message,
            is_non_deterministic,
            cpu_us,
            outputs,
        )| {
            BuildResult {
                status: BuildStatus::from_word(status % 20),
                error_message,
                times_built,
                is_non_deterministic,
                start_time,
                stop_time,
                cpu_user_us: cpu_us[0],
                cpu_system_us: cpu_us[1],
                built_outputs: outputs.iter().map(|name| (name.parse().expect("a name"), path(2))).collect(),
            }
        },
    )
}

fn dialects() -> [Dialect; 3] {
    let typed = BTreeSet::from([FEATURE_TYPED_REALISATIONS.to_owned()]);
    [
        Dialect::plain(OLDEST),
        Dialect::plain(Protocol { major: 1, minor: 37 }),
        Dialect { protocol: NEWEST, features: typed },
    ]
}

proptest! {
    #[test]
    fn frames_come_back(frame in frames()) {
        let mut encoder = Encoder::new();
        encoder.frame(&frame);
        prop_assert_eq!(back(&encoder, async |reader| read_frame(reader).await), frame);
    }

    #[test]
    fn path_infos_come_back(info in path_infos()) {
        let store = StoreDir::default();
        let mut encoder = Encoder::new();
        encoder.path_info(&store, &info);
        prop_assert_eq!(back(&encoder, async |reader| values::read_path_info(reader, &store).await), info);
    }

    #[test]
    fn build_results_come_back_in_every_dialect(result in build_results()) {
        let store = StoreDir::default();
        for dialect in dialects() {
            let mut encoder = Encoder::new();
            encoder.build_result(&store, &dialect, &result);
            let mut expected = result.clone();
            if !dialect.has_cpu_times() {
                (expected.cpu_user_us, expected.cpu_system_us) = (None, None);
            }
            let read = back(&encoder, async |reader| read_build_result(reader, &store, &dialect).await);
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn arbitrary_bytes_are_values_or_errors(bytes in vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..200)) {
        let store = StoreDir::default();
        let _ = now(read_frame(&mut &bytes[..]));
        let _ = now(values::read_path_info(&mut &bytes[..], &store));
        let _ = now(values::read_derived_paths(&mut &bytes[..], &store));
        let _ = now(codec::read_text(&mut &bytes[..], "a text", 100));
        let _ = now(greet_server(&mut &bytes[..], &mut Vec::new()));
        for dialect in dialects() {
            let _ = now(read_build_result(&mut &bytes[..], &store, &dialect));
            let greeting = Greeting { dialect, nix_version: String::new(), trust: Trust::Unknown };
            let _ = now(greet_client(&mut &bytes[..], &mut Vec::new(), &greeting));
        }
    }
}

#[tokio::test]
async fn both_ends_of_a_greeting_agree() {
    for dialect in dialects() {
        let offered = Greeting { dialect, nix_version: "2.99".to_owned(), trust: Trust::NotTrusted };
        let (client, server) = tokio::io::duplex(1024);
        let (mut client_reader, mut client_writer) = tokio::io::split(client);
        let (mut server_reader, mut server_writer) = tokio::io::split(server);
        let (heard, agreed) = tokio::join!(
            greet_server(&mut client_reader, &mut client_writer),
            greet_client(&mut server_reader, &mut server_writer, &offered),
        );
        let heard = heard.expect("greeted");
        assert_eq!(heard.dialect, agreed.expect("greeted"));
        assert_eq!(heard, offered);
    }
}

#[tokio::test]
async fn features_that_one_end_lacks_are_not_agreed_on() {
    let features = BTreeSet::from(["unheard-of".to_owned(), FEATURE_NO_SET_OPTIONS.to_owned()]);
    let dialect = Dialect { protocol: Protocol { major: 1, minor: 99 }, features };
    let offered = Greeting { dialect, nix_version: String::new(), trust: Trust::Unknown };
    let (client, server) = tokio::io::duplex(1024);
    let (mut client_reader, mut client_writer) = tokio::io::split(client);
    let (mut server_reader, mut server_writer) = tokio::io::split(server);
    let (heard, agreed) = tokio::join!(
        greet_server(&mut client_reader, &mut client_writer),
        greet_client(&mut server_reader, &mut server_writer, &offered),
    );
    let expected =
        Dialect { protocol: NEWEST, features: BTreeSet::from([FEATURE_NO_SET_OPTIONS.to_owned()]) };
    assert_eq!(heard.expect("greeted").dialect, expected);
    assert_eq!(agreed.expect("greeted"), expected);
}

#[test]
fn a_claimed_length_costs_nothing_until_the_bytes_are_there() {
    let mut claim = Encoder::new();
    claim.word(codec::LONG_TEXT).raw(b"few");
    let error = now(codec::read_bytes(&mut claim.as_bytes(), "a text", codec::LONG_TEXT)).expect_err("cut");
    assert!(matches!(error, ReadError::Io(_)));
    claim = Encoder::new();
    claim.word(codec::LIST);
    let error = now(values::read_paths(&mut claim.as_bytes(), &StoreDir::default())).expect_err("cut");
    assert!(matches!(error, ReadError::Io(_)));
}

#[test]
fn what_exceeds_its_limit_is_cut_or_refused() {
    let mut encoder = Encoder::new();
    encoder.bytes("twelve bytes").word(7);
    let mut rest = encoder.as_bytes();
    assert_eq!(now(codec::read_bytes_cut(&mut rest, 6)).expect("whole"), b"twelve");
    assert_eq!(now(codec::read_u64(&mut rest)).expect("in step"), 7);
    let error = now(codec::read_bytes(&mut encoder.as_bytes(), "a text", 11)).expect_err("too long");
    let expected = Malformed::TooLong { what: "a text", length: 12, limit: 11 };
    assert!(matches!(error, ReadError::Malformed(found) if found == expected));
}

#[test]
fn signatures_that_are_none_are_passed_over() {
    let mut encoder = Encoder::new();
    encoder.word(2).bytes("key-1:AAAA").bytes("");
    assert!(now(values::read_signatures(&mut encoder.as_bytes())).expect("no error").is_empty());
}

#[test]
fn output_names_are_checked_in_both_forms_of_results() {
    let result = BuildResult {
        status: BuildStatus::Built,
        error_message: String::new(),
        times_built: 0,
        is_non_deterministic: false,
        start_time: 0,
        stop_time: 0,
        cpu_user_us: None,
        cpu_system_us: None,
        built_outputs: BTreeMap::from([(OutputName::out(), path(1))]),
    };
    for dialect in dialects() {
        let mut encoder = Encoder::new();
        encoder.build_result(&StoreDir::default(), &dialect, &result);
        let mut bytes = encoder.into_bytes();
        let name = bytes.windows(3).position(|part| part == b"out").expect("the name is there");
        bytes[name] = b'/';
        assert!(now(read_build_result(&mut &bytes[..], &StoreDir::default(), &dialect)).is_err());
    }
}
