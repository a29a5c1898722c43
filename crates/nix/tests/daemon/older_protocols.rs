//! Conversations with daemons that cannot be had here, byte for byte: protocol 1.35 (Nix 2.18 and 2.19, Lix),
//! 1.37 (up to 2.23), and 1.38 with typed realisations (2.35).

use std::collections::{BTreeMap, BTreeSet};

use fleet_nix::daemon::{BuildResult, BuildStatus, Protocol, Settings, Trust, ignore};
use fleet_nix::{BasicDerivation, DerivationOutput, NarHash, OutputName, PathInfo, StorePath};

use crate::script::{Bytes, LAST, bytes, greet, greeting};

const DRV: &str = "/nix/store/00000000000000000000000000000000-a.drv";
const OUT: &str = "/nix/store/11111111111111111111111111111111-a";

fn path(full: &str) -> StorePath {
    full.strip_prefix("/nix/store/").expect("in the store").parse().expect("valid")
}

fn derivation() -> BasicDerivation {
    BasicDerivation {
        name: "a".to_owned(),
        outputs: BTreeMap::from([(OutputName::out(), DerivationOutput::InputAddressed(path(OUT)))]),
        input_srcs: BTreeSet::from([path(DRV)]),
        system: "x86_64-linux".to_owned(),
        builder: b"/bin/sh".to_vec(),
        args: vec![b"-c".to_vec(), vec![0xff]],
        env: BTreeMap::from([(b"key".to_vec(), b"value".to_vec())]),
    }
}

fn expected_result() -> BuildResult {
    BuildResult {
        status: BuildStatus::Built,
        error_message: String::new(),
        times_built: 1,
        is_non_deterministic: false,
        start_time: 100,
        stop_time: 200,
        cpu_user_us: None,
        cpu_system_us: None,
        built_outputs: BTreeMap::from([(OutputName::out(), path(OUT))]),
    }
}

fn json_outputs(script: Bytes) -> Bytes {
    let json = r#"{"id":"sha256:00!out","outPath":"11111111111111111111111111111111-a","signatures":[],"dependentRealisations":{}}"#;
    script.word(1).text("sha256:00!out").text(json)
}

/// What a client says up to its first request.
fn opening() -> Bytes {
    bytes().word(0x6e69_7863).word(0x126)
}

fn build_request() -> Bytes {
    let output = bytes().word(1).text("out").text(OUT).text("").text("");
    let inputs = output.word(1).text(DRV).text("x86_64-linux").text("/bin/sh");
    // One argument is a byte that is no text.
    let args = inputs.word(2).text("-c").word(1).raw(&[0xff, 0, 0, 0, 0, 0, 0, 0]);
    bytes().word(36).text(DRV).raw(&args.0).word(1).text("key").text("value").word(0)
}

#[tokio::test]
async fn protocol_1_35_is_spoken() {
    let digest = "00".repeat(32);
    let script = greeting(35, &[]).word(LAST);
    let script = script.word(LAST).word(1).text(DRV).text(&digest).word(1).text(OUT);
    let script = script.words(&[7, 8, 1]).word(2).text("nonsense").text(&signature()).text("");
    let script = json_outputs(script.word(LAST).word(0).text("").words(&[1, 0, 100, 200]));
    let (client, heard) = greet(script).await;
    let mut client = client.expect("1.35 is understood");
    assert_eq!(client.protocol(), Protocol { major: 1, minor: 35 });
    assert_eq!((client.nix_version(), client.trust()), ("scripted", Trust::Trusted));

    client
        .set_options(&Settings { timeout_s: 9, max_silent_s: 8, ..Settings::default() })
        .await
        .expect("set");
    let info = client.query_path_info(&path(OUT)).await.expect("answered").expect("valid");
    let expected = PathInfo {
        path: path(OUT),
        deriver: Some(path(DRV)),
        nar_hash: NarHash([0; 32]),
        references: BTreeSet::from([path(OUT)]),
        registration_time: 7,
        nar_size: 8,
        ultimate: true,
        signatures: vec![signature().parse().expect("valid")],
        content_address: None,
    };
    assert_eq!(info, expected);
    let result = client.build_derivation(&path(DRV), &derivation(), &mut ignore).await.expect("built");
    assert_eq!(result, expected_result());

    drop(client);
    let options =
        bytes().word(19).words(&[0, 0, 0, 3, 1, 8, 1, 7, 0, 0, 0, 1]).word(1).text("timeout").text("9");
    let requests = opening().words(&[0, 0]).raw(&options.0).word(26).text(OUT).raw(&build_request().0);
    assert_eq!(heard.await.expect("heard"), requests.0);
}

fn signature() -> String {
    format!("key-1:{}==", "A".repeat(86))
}

#[tokio::test]
async fn protocol_1_37_adds_cpu_times() {
    let script = greeting(37, &[]).word(LAST).word(0).text("").words(&[1, 0, 100, 200]).words(&[1, 5, 0]);
    let (client, heard) = greet(json_outputs(script)).await;
    let mut client = client.expect("1.37 is understood");
    let result = client.build_derivation(&path(DRV), &derivation(), &mut ignore).await.expect("built");
    assert_eq!(result, BuildResult { cpu_user_us: Some(5), ..expected_result() });
    drop(client);
    assert_eq!(heard.await.expect("heard"), opening().words(&[0, 0]).raw(&build_request().0).0);
}

#[tokio::test]
async fn features_of_1_38_change_results() {
    let features = ["realisation-with-path-not-hash", "unheard-of"];
    let script = greeting(38, &features).word(LAST).word(0).text("").words(&[1, 0, 100, 200, 0, 0]);
    let script = script.word(1).text("out").text(OUT).word(1).text(&signature());
    let (client, heard) = greet(script).await;
    let mut client = client.expect("1.38 is understood");
    let result = client.build_derivation(&path(DRV), &derivation(), &mut ignore).await.expect("built");
    assert_eq!(result, expected_result());
    drop(client);
    let ours = ["realisation-with-path-not-hash", "disable-set-options"];
    let offered = ours.iter().fold(opening().word(2), |bytes, feature| bytes.text(feature));
    let requests = offered.words(&[0, 0]).raw(&build_request().0);
    assert_eq!(heard.await.expect("heard"), requests.0);
}

#[tokio::test]
async fn settings_are_not_sent_where_they_are_not_wanted() {
    let (client, heard) = greet(greeting(38, &["disable-set-options"])).await;
    let mut client = client.expect("understood");
    client.set_options(&Settings::default()).await.expect("nothing to do");
    drop(client);
    let heard = heard.await.expect("heard");
    assert!(heard.ends_with(&bytes().words(&[0, 0]).0), "the greeting is all there is");
}
