//! Frames that are none, or do harm to whoever opens them.

use std::io::Write as _;

use bytes::Bytes;
use fleet_store::Digest;
use fleet_wire::v1;
use fleet_wire::v1::chunks_client::ChunksClient;
use tonic::Code;

use crate::scripted::within;
use crate::world::{EVIL, World, refused, step};

#[tokio::test]
async fn frames_that_are_not_kept() {
    let world = World::new(&[&step("app", EVIL, &[], None)]).await;
    let small = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).expect("compresses");
    let digest = |bytes: &[u8]| Bytes::copy_from_slice(&Digest::of(bytes).0);
    let undeclared = || {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
        encoder.write_all(b"x").expect("in memory");
        encoder.finish().expect("a frame")
    };
    let wide = || {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
        encoder.window_log(31).expect("it may");
        encoder.write_all(&vec![0; 1 << 20]).expect("in memory");
        encoder.finish().expect("a frame")
    };
    // 2 GiB of window, and nothing in it.
    let widest = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 1, 0, 0];
    let cases = [
        ("a bomb", small(&vec![0; 64 << 20]), "more than"),
        ("no size", undeclared(), "not a valid frame"),
        ("a wide window", wide(), "not a valid frame"),
        ("windowLog 31", widest, "not a valid frame"),
        ("something after it", [small(b"x"), b"y".to_vec()].concat(), "something follows"),
        ("two frames", [small(b"x"), small(b"x")].concat(), "something follows"),
        ("a skippable frame", vec![0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0], "skippable"),
        ("cut short", small(b"many many many bytes")[..9].to_vec(), "not a valid frame"),
        ("no frame", b"x".to_vec(), "not a valid frame"),
        ("nothing", Vec::new(), "not a valid frame"),
        ("other bytes", small(b"other"), "holds other content"),
        ("too long", vec![0; 2 << 20], "a frame has at most"),
    ];
    for (attack, frame, text) in cases {
        let chunk = v1::Chunk { digest: digest(b"x"), frame: frame.into() };
        refused(attack, world.evil.put(chunk).await, Code::InvalidArgument, text);
        let asked = v1::FindMissingRequest { digests: vec![digest(b"x")] };
        let missing = within(ChunksClient::new(world.evil.channel.clone()).find_missing(asked)).await;
        assert_eq!(missing.expect("answers").into_inner().missing.len(), 1, "{attack}");
    }
    let short = v1::Chunk { digest: Bytes::from_static(b"x"), frame: small(b"x").into() };
    refused("no name", world.evil.put(short).await, Code::InvalidArgument, "a digest has 32 bytes");
}
